"""The report of a survey run: one HTML page with figures, numbers, cuts and an explorer, that needs no network."""

from __future__ import annotations

import csv
import io
import json
import platform
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stargap import __version__
from stargap.files import files_of, replacing_folder
from stargap.memory import release_memory
from stargap.validation.binaries import BinarySettings
from stargap.validation.matching import CompareSettings
from stargap.validation.report.assets import explorer_assets, page_templates
from stargap.validation.report.data import RunData, read_run
from stargap.validation.report.explorer import choose_rows, write_spectra, write_stars
from stargap.validation.report.figures import Picture, draw_figures, draw_spectra
from stargap.validation.report.headlines import headline_sheet
from stargap.validation.report.settings import MOST_POINTS, MOST_SPECTRA
from stargap.validation.report.truth import truth_sheets
from stargap.validation.sheets import Sheet
from stargap.workers import alongside

if TYPE_CHECKING:
    from stargap.validation.report.fitted import FittedSpectra

__all__ = ["report_files", "write_report"]

KIND = "report"
"""What the mark of a report's folder says that it holds."""
ROWS = 50_000
"""Rows of a CSV that are written at a time."""
LIBRARIES = ("numpy", "scipy", "torch", "astropy", "scikit-learn", "pyarrow", "matplotlib", "jinja2")


def write_report(
    run_folder: str | Path,
    *,
    output: str | Path | None = None,
    truth: str | Path | None = None,
    comparisons: Sequence[tuple[str | Path, CompareSettings]] = (),
    binaries: tuple[str | Path, str | Path, BinarySettings] | None = None,
    spectra: int = MOST_SPECTRA,
    points: int = MOST_POINTS,
    seed: int = 0,
) -> Path:
    """Write ``index.html`` and what it shows into a folder that can be moved anywhere and opened without a network.

    The page has the paper's numbers beside the run's, every figure with the data behind it as CSV, counts after each
    cut, what the cleaning rejected, settings, versions and times of the stages, and an explorer, in which a click on a
    star shows its spectrum, model, residual and row. What cannot be shown says why. Results of ``stargap compare``
    in folders of ``RUN/compare/`` are shown too, and wide binaries of `run_binaries` there are drawn.

    Args:
        run_folder: of a run that is done up to its catalogue.
        output: folder to write; by default ``report`` in the run's folder. Files of an older report are replaced, and
            a folder with other files is refused.
        truth: table of true values of simulated stars (``truth.parquet``), for a section on what comes out of them.
        comparisons: tables of others, each with how it is compared (`stargap.validation.references` has ready ones),
            for figures 14 to 17.
        binaries: tables of wide binaries and of their primaries, and how they are joined, for figure 18.
        spectra: at most so many spectra in the explorer, drawn at random, those of the final catalogue first.
        points: at most so many stars in its diagrams.
        seed: of these draws.

    Returns:
        the page.

    Raises:
        UsageError: there is no catalogue, the truth or a table cannot be read or joined, or the folder has other files.
    """
    data = read_run(run_folder, truth=truth, comparisons=comparisons, binaries=binaries)
    target = data.folder / "report" if output is None else Path(output)
    with replacing_folder(target, KIND) as folder:
        rows = choose_rows(data.spectra, points=points, seed=seed)
        with alongside(_fitted, data.folder, data.spectra["spectrum_id"][rows[:spectra]]) as refit:
            pictures = _drawn(folder, draw_figures(data))
            fitted, why_not = refit()
        table, shown = data.folder / "catalogue" / "spectra.parquet", 0 if fitted is None else len(fitted.observed)
        with alongside(write_stars, folder, table, rows, shown, data.simulated):
            pictures += _drawn(folder, draw_spectra(data, fitted, why_not))
            pictures.sort(key=lambda picture: picture.name)
            sheets = _sheets(data, fitted)
            for name, sheet in sheets.items():
                _write(folder / "data" / f"{name}.csv", _sheet_csv(sheet))
            cleaning = data.folder / "cleaning.html"
            if cleaning.exists():
                shutil.copyfile(cleaning, folder / "cleaning.html")
            if fitted is not None:
                write_spectra(folder, fitted)
            _write(folder / "index.html", _page(data, sheets, pictures, rows, fitted, why_not, cleaning.exists()))
    return target / "index.html"


def _sheets(data: RunData, fitted: FittedSpectra | None) -> dict[str, Sheet]:
    """Return the tables of the page by the names of their files."""
    sheets = {"headlines": headline_sheet(data, fitted)}
    sheets |= {f"cuts-{number}": sheet for number, sheet in enumerate(data.cuts, start=1)}
    if data.truth is not None:
        sheets |= {f"truth-{number}": sheet for number, sheet in enumerate(truth_sheets(data), start=1)}
    return sheets


def report_files(page: Path) -> list[Path]:
    """Return the files that make up a report."""
    return files_of(page.parent, KIND)


def _fitted(run: Path, spectrum_id: NDArray[np.int64]) -> tuple[FittedSpectra | None, str]:
    """Fit some spectra of a run again; else None and the reason."""
    if not len(spectrum_id):
        return None, "no spectra are shown"
    from stargap.validation.report.spectra import fit_again

    try:
        return fit_again(run, spectrum_id), ""
    except Exception as error:  # a run whose store is gone still has a report
        return None, f"spectra and models cannot be made again: {error}"


def _drawn(folder: Path, pictures: Iterable[Picture]) -> list[Picture]:
    """Write figures, each while the next one is drawn, and return them."""
    kept: list[Picture] = []
    with ThreadPoolExecutor(1) as writer:
        writing: Future[Picture] | None = None
        for picture in pictures:
            kept += [] if writing is None else [writing.result()]
            release_memory()
            writing = writer.submit(_save, folder, picture)
        return kept if writing is None else [*kept, writing.result()]


def _save(folder: Path, picture: Picture) -> Picture:
    """Write a figure and its data."""
    if picture.png:
        path = folder / "figures" / f"{picture.name}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture.png)
    if picture.columns is not None:
        (folder / "data").mkdir(exist_ok=True)
        _write_columns(folder / "data" / f"{picture.name}.csv", picture.columns)
        return replace(picture, columns={})  # those of all pictures together would not fit into memory
    return picture


def _write_columns(path: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    """Write columns as CSV, block by block."""
    import pyarrow as pa
    from pyarrow.csv import WriteOptions, write_csv

    rows = max(map(len, columns.values()), default=0)
    with path.open("wb") as file:
        for first in range(0, max(rows, 1), ROWS):
            part = pa.table({name: values[first : first + ROWS] for name, values in columns.items()})
            write_csv(part, file, WriteOptions(include_header=first == 0))


def _sheet_csv(sheet: Sheet) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([sheet.header, *sheet.rows])
    return file.getvalue()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode("utf-8", "backslashreplace"))


def _page(
    data: RunData,
    sheets: Mapping[str, Sheet],
    pictures: list[Picture],
    rows: NDArray[np.int64],
    fitted: FittedSpectra | None,
    why_not: str,
    cleaning: bool,
) -> str:
    from markupsafe import Markup

    environment = page_templates()
    environment.filters["sentence"] = sentence
    ours = files("stargap.validation.report").joinpath("templates")
    style, contents = (
        Markup(ours.joinpath(name).read_text(encoding="utf-8")) for name in ("report.css", "contents.js")
    )
    labelled = int(np.isfinite(data.spectra["teff"]).sum())
    text: str = environment.get_template("report.html").render(
        data=data,
        title=_title(data),
        headlines=sheets["headlines"],
        cuts={name: sheet for name, sheet in sheets.items() if name.startswith("cuts-")},
        truth={name: sheet for name, sheet in sheets.items() if name.startswith("truth-")},
        pictures=pictures,
        shown=0 if fitted is None else len(fitted.observed),
        points=len(rows),
        labelled=labelled,
        why_not=why_not,
        cleaning=cleaning,
        versions=_versions(),
        seconds=sum(stage.seconds for stage in data.stages),
        left_out=[picture for picture in pictures if not picture.png],
        shared=_shared(notes for _, _, notes in data.comparisons),
        style=style,
        contents=contents,
        explorer=explorer_assets(),
    )
    return text


def sentence(text: str) -> str:
    """Return a note as a sentence, with a capital letter, unless it begins with a name, and a full stop.

    Example:
        >>> sentence("errors are standard deviations"), sentence("binaries_gaia: 2 of 9 spectra"), sentence("Done.")
        ('Errors are standard deviations.', 'binaries_gaia: 2 of 9 spectra.', 'Done.')
    """
    first = text.split(" ", 1)[0].rstrip(",:;")
    begun = text[:1].upper() + text[1:] if first.isalpha() else text
    return begun if begun.endswith((".", "!", "?")) else f"{begun}."


def _shared(notes: Iterable[tuple[str, ...]]) -> list[str]:
    """Return the notes that several comparisons have, which the page says once."""
    counts = Counter(note for one in notes for note in dict.fromkeys(one))
    return [note for note, count in counts.items() if count > 1]


def _title(data: RunData) -> str:
    """Return what the page is called: the catalogue's title."""
    return str(json.loads(data.provenance.get("catalogue_settings", "{}")).get("title") or "Survey run")


def _versions() -> dict[str, str]:
    found = {"stargap": __version__, "Python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
