import crossd

project = "crossd"
author = "The crossd authors"
copyright = "The crossd authors, MIT licence"
version = release = crossd.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "amsmath"]
exclude_patterns = ["_build"]

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
# Docstrings quote names in single backticks.
default_role = "code"

html_theme = "furo"
html_title = f"crossd {release}"
