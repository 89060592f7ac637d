"""Changes of the configuration's file: by the Panel, and by `wingsctl configure`.

Comments and order of the file are kept. It is replaced in one step, so that at any time either the
old or the new one is there. Blocking: run it in a thread.
"""
