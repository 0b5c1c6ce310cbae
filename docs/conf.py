"""Settings of Sphinx: the pages of this folder, the API from its docstrings, the tutorials with what they print."""

from __future__ import annotations

import os
import re
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

DOCS = Path(__file__).resolve().parent
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
napoleon_numpy_docstring = False
napoleon_use_rtype = False

sphinx_gallery_conf = {
    "examples_dirs": ["tutorials"],
    "gallery_dirs": ["auto_tutorials"],
    "filename_pattern": r"/\d_",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_memory": False,
    "within_subsection_order": "FileNameSortKey",
}

html_theme = "furo"
html_show_copyright = False
html_title = f"stargap {release}"
html_theme_options = {"source_repository": REPOSITORY, "source_branch": "main", "source_directory": "docs/"}


def link_to_repository(app: Any, name: str, source: list[str]) -> None:
    """Make relative links to files outside this folder links to the repository, where readers of the site find them."""

    def link(found: re.Match[str]) -> str:
        path = os.path.normpath((DOCS / name).parent / found[1])
        outside = os.path.relpath(path, DOCS).startswith("..")
        return f"]({REPOSITORY}/blob/main/{os.path.relpath(path, DOCS.parent)})" if outside else found[0]

    source[0] = re.sub(r"\]\((\.\./[^)#]+)\)", link, source[0])


def no_types(app: Any, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Keep napoleon from reading ``Preparation of spectra: that of stargap`` as a type and a description."""
    if what in {"attribute", "data", "property"} and lines:
        lines[0] = f": {lines[0]}"


def setup(app: Any) -> None:
    """Connect both to Sphinx; types before napoleon."""
    app.connect("source-read", link_to_repository)
    app.connect("autodoc-process-docstring", no_types, priority=400)
