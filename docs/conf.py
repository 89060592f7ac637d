"""How Sphinx makes the site of these pages: `make docs`."""

from wingsd import __version__

project = "wingsd"
version = release = __version__
language = "en"

extensions = ["myst_parser"]
exclude_patterns = ["benchmarks"]
# As deep as the keys of the configuration and the messages of troubleshooting.
myst_heading_anchors = 3
nitpicky = True

html_theme = "furo"
html_title = "wingsd"
html_copy_source = False
html_show_copyright = False
