"""How Sphinx builds the documentation: `make docs`."""

import os
from importlib.metadata import version as version_of

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # with them TensorFlow prints a notice

project = "nadam-xla"
author = "the authors of nadam-xla"
copyright = author  # noqa: A001 - the name that Sphinx reads
release = version = version_of("nadam-xla")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]

myst_heading_anchors = 3

napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say it, with shapes and ranges
python_maximum_signature_line_length = 80
add_module_names = False
toc_object_entries_show_parents = "hide"

nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(jax|optax|flax|keras)\..*")]  # described elsewhere

html_theme = "pydata_sphinx_theme"
html_title = "nadam-xla"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {"*": [], "tensorflow/*": []}  # pages that are no part of a chapter
html_theme_options = {
    "logo": {"text": "nadam-xla"},
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
