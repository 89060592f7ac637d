"""Generates parts of the documentation from the code, so that they cannot differ from it.

`python -m handbook` writes the reference of the configuration, as a page and as the man page
wingsd.yml(5), the folders and layers, and the tables of compatibility. `troubleshooting` explains
all errors for the site of the documents, and `promises` lists the tests of each promise there.
Needs only wingsd itself.
"""
