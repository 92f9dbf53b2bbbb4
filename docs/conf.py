from typing import Any

from docutils.nodes import SkipNode
from latex2mathml.converter import convert as mathml
from sphinx.application import Sphinx

import crossd

project = "crossd"
author = "The crossd authors"
copyright = "The crossd authors, MIT licence"
version = release = crossd.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
# Docstrings quote names in single backticks.
default_role = "code"

html_theme = "furo"
html_title = f"crossd {release}"
html_static_path = ["_static"]
html_css_files = ["page.css"]
html_math_renderer = "mathml"


def formula(page: Any, node: Any) -> None:
    """Write a formula as MathML, which browsers draw by themselves, also without a network."""
    display = "inline" if node.tagname == "math" else "block"
    page.body.append(mathml(node.astext(), display=display))
    raise SkipNode


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
