"""The viewer's page."""

from __future__ import annotations

from pathlib import Path

from stargap import __version__
from stargap.survey.cleaning.marked import MARKS
from stargap.validation.report.assets import explorer_assets, page_templates
from stargap.validation.viewer.table import Catalogue

__all__ = ["view_page"]


def view_page(catalogue: Catalogue, marks: Path | None, nonce: str) -> str:
    """Return the page as text.

    Args:
        catalogue: what it shows.
        marks: the CSV of marked stars, if one was named.
        nonce: what tells its style and script from those that somebody slipped in.
    """
    text: str = (
        page_templates()
        .get_template("view.html")
        .render(
            explorer=explorer_assets("view-source.js"),
            folder=catalogue.folder.absolute().name,
            simulated=catalogue.simulated,
            marks=marks,
            known_marks=MARKS,
            columns=catalogue.schema.values(),
            nonce=nonce,
            version=__version__,
        )
    )
    return text
