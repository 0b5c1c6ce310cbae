"""Settings of Sphinx: the pages of this folder, the API from its docstrings, the tutorials with what they print."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from pathlib import Path

import matplotlib

matplotlib.use("agg")

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "https://github.com/OWNER/stargap"

project = "stargap"
author = "The stargap team"
version = release = installed_version("stargap")
language = "en"

extensions = [
    "myst_parser",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "**/*.template.md", "tutorials/*", "requirements.lock"]
default_role = "code"

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_inline"]
myst_heading_anchors = 4

apidoc_modules = [{"path": "../src/stargap", "destination": "api", "include_private": False, "max_depth": 2}]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = True
napoleon_use_rtype = False

sphinx_gallery_conf = {
    "examples_dirs": ["tutorials"],
    "gallery_dirs": ["auto_tutorials"],
    "filename_pattern": r"/\d_",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_memory": False,
}

html_theme = "furo"
html_title = f"stargap {release}"
html_theme_options = {"source_repository": REPOSITORY, "source_branch": "main", "source_directory": "docs/"}
