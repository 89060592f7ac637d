"""What of the documents is made from the code, so that it cannot be anything else than true.

`python -m handbook` writes it: the reference of the configuration, as a page and as the man page
wingsd.yml(5), who may import whom, and who can send what to whom. `messages` finds what people can
be told; the tests hold
the page about that to it. Needs nothing but wingsd itself.
"""
