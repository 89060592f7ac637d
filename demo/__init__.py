"""`make demo`: a real server travels to a real node, and what happened is shown and checked.

Everything it makes lies in `.cache/demo` and on the Docker engine under names of its own, and is
removed again at the end. The packages it fetched stay in `.cache/packages`.
"""
