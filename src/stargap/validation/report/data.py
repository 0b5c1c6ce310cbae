"""What a finished survey run holds for its report: the catalogue, receipts, models, cuts and, if known, the truth."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stargap.catalogue.precision import Precision
from stargap.errors import UsageError
from stargap.tables.columns import INT_NULL
from stargap.tables.crossmatch import match_ids
from stargap.tables.read import read_table
from stargap.tables.write import provenance_of, read_columns
from stargap.validation.binaries import Binaries, BinarySettings, run_binaries
from stargap.validation.matching import CompareSettings
from stargap.validation.report.compared import Compared, compare_all
from stargap.validation.sheets import Sheet, is_simulated

__all__ = ["STAGE_ORDER", "Cluster", "Columns", "RunData", "StageTime", "read_run", "read_sheets"]

Columns = dict[str, NDArray[Any]]

STAGE_ORDER = ("ingest", "sample", "emulator", "velocity", "prepare", "clean", "labels", "transfer", "measure", "table",
               "catalogue")  # fmt: skip
"""Stages of a run up to its report, first to last; `stargap.run` is a later room, which imports this one."""
LABELS = ("rv", "teff", "logg", "m_h")
SPECTRA = (
    *("spectrum_id", "obsid", "gaia_source_id", "snr_r", "snr_i", "subclass", "spt", "bp_rp", "m_g", "gaia_rv", "chi2"),
    *(f"{mark}{name}" for name in LABELS for mark in ("", "e_")),
    *("e_teff_sys", "e_logg_sys", "e_m_h_sys", "activity", "activity_3sigma", "vb_flag"),
    *("sample_flags", "clean_flags", "cuts", "in_final_catalogue"),
)
STARS = ("gaia_source_id", "ra", "dec", "teff", "logg", "m_h", "bp_rp", "m_g", "g_mag", "distance", "rv", "gaia_rv",
         "e_rv", "e_gaia_rv", "activity", "in_final_catalogue")  # fmt: skip


@dataclass(frozen=True)
class StageTime:
    """A stage: pieces, rows, seconds that they took together, and the versions of stargap that made them."""

    name: str
    pieces: int
    rows: int
    seconds: float
    versions: str


@dataclass(frozen=True)
class Cluster:
    """A rejected or borderline cluster, as ``cleaning.html`` shows it; ``picture`` is a data URI."""

    title: str
    reason: str
    picture: str


@dataclass(frozen=True, eq=False)
class RunData:
    """What `read_run` returns.

    ``spectra`` and ``stars`` are columns of the catalogue, ``(row,)``; ``truth`` those of a table of true values in the
    order of ``spectra``, with ``known``, whether a spectrum is in it. ``cuts`` are the tables of counts with their
    notes, ``cards`` the models' cards, ``settings`` the run's file; ``comparisons`` are name, tables and notes of what
    ``stargap compare`` and ``stargap binaries`` wrote, of ``tables`` and of ``binaries``.
    """

    folder: Path
    spectra: Columns
    stars: Columns
    precision: Precision
    simulated: bool
    provenance: dict[str, str]
    settings: str
    stages: tuple[StageTime, ...]
    cards: dict[str, dict[str, Any]]
    cuts: tuple[Sheet, ...]
    notes: tuple[str, ...]
    clusters: tuple[Cluster, ...]
    comparisons: tuple[tuple[str, tuple[Sheet, ...], tuple[str, ...]], ...]
    tables: tuple[Compared, ...] = ()
    binaries: Binaries | None = None
    truth: Columns | None = None

    @property
    def final(self) -> NDArray[np.bool_]:
        """Spectra in the final catalogue, ``(row,)``."""
        return np.asarray(self.spectra["in_final_catalogue"], dtype=bool)

    @property
    def mark(self) -> str:
        """What follows every number that is of simulated stars."""
        return " (simulated)" if self.simulated else ""


def read_run(
    folder: str | Path,
    *,
    truth: str | Path | None = None,
    comparisons: Sequence[tuple[str | Path, CompareSettings]] = (),
    binaries: tuple[str | Path, str | Path, BinarySettings] | None = None,
) -> RunData:
    """Read what the report of a survey run needs.

    Stars are simulated where a truth is given, where a table of the run says so, or where its transfer was trained on
    simulated stars.

    Args:
        folder: of the run, done up to its catalogue.
        truth: table of true values, such as a simulated survey writes: teff, logg, m_h, rv, kind and active, joined by
            obsid, or by spectrum_id where that is null or repeated.
        comparisons: tables of others, each with how it is compared.
        binaries: tables of wide binaries and of their primaries, and how they are joined.

    Raises:
        UsageError: there is no catalogue, or the truth or a table cannot be read or joined.
    """
    folder = Path(folder)
    spectra, stars = (folder / "catalogue" / f"{name}.parquet" for name in ("spectra", "stars"))
    if not (spectra.exists() and stars.exists()):
        message = f"{folder}: holds no catalogue/{spectra.name}; finish the run first: stargap run SURVEY.toml"
        raise UsageError(message)
    columns = read_columns(spectra, SPECTRA)
    cards = {name: _json(folder / name / f"{name}.json") for name in ("emulator", "transfer")}
    sample, (counts, notes) = _sample_cuts(folder), read_sheets(_text(folder / "catalogue" / "cuts.md"))
    cuts = [sample] if sample is not None else []
    cuts += [replace(sheet, title="Cuts of the catalogue (sections 2.1 and 4)") for sheet in counts]
    simulated = truth is not None or bool(cards["transfer"].get("simulated"))
    simulated = simulated or any(is_simulated(path) for path in (folder / "measured.parquet", spectra) if path.exists())
    tables = compare_all(spectra, comparisons, simulated=simulated)
    told = [(one.comparison.title, one.comparison.sheets(), one.comparison.notes) for one in tables]
    wide = None
    if binaries is not None:
        pairs, primaries, how = binaries
        wide = run_binaries(spectra, pairs, primaries, how.model_copy(update={"simulated": simulated}))
        told.append((wide.title, wide.sheets(), wide.notes))
    return RunData(
        folder=folder,
        spectra=columns,
        stars=read_columns(stars, STARS),
        precision=Precision.model_validate_json((folder / "catalogue" / "precision.json").read_bytes()),
        simulated=simulated,
        provenance=provenance_of(spectra),
        settings=_text(folder / "survey.toml"),
        stages=tuple(_stages(folder)),
        cards={name: card for name, card in cards.items() if card},
        cuts=tuple(cuts),
        notes=notes,
        clusters=tuple(_clusters(_text(folder / "cleaning.html"))),
        comparisons=(*told, *_comparisons(folder)),
        tables=tables,
        binaries=wide,
        truth=None if truth is None else _join_truth(columns, Path(truth)),
    )


def read_sheets(markdown: str) -> tuple[tuple[Sheet, ...], tuple[str, ...]]:
    """Return the tables of a Markdown page, each with the heading before it, and the points of its lists.

    Example:
        >>> sheets, notes = read_sheets("## Cuts\\n\\n| cut | left |\\n|---|---:|\\n| RUWE | 7 |\\n\\n* none unknown")
        >>> sheets[0].title, sheets[0].rows, notes
        ('Cuts', (('RUWE', '7'),), ('none unknown',))
    """
    sheets, notes, title = [], [], ""
    lines = iter(markdown.splitlines())
    for line in lines:
        if line.startswith("#"):
            title = line.lstrip("# ")
        elif line.startswith("* "):
            notes.append(line[2:])
        elif line.startswith("|"):
            header, left = _row(line), next(lines, "").split("|").count("---")
            rows = []
            for below in lines:
                if not below.startswith("|"):
                    break
                rows.append(_row(below))
            sheets.append(Sheet(title, header, tuple(rows), left))
    return tuple(sheets), tuple(notes)


def _row(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line.strip().strip("|").split("|"))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(_text(path) or "{}")
    return content


def _receipts(folder: Path, stage: str) -> list[dict[str, Any]]:
    return [_json(path) for path in sorted((folder / "receipts" / stage).glob("*.json"))]


def _stages(folder: Path) -> Iterator[StageTime]:
    for name in STAGE_ORDER:
        made = _receipts(folder, name)
        if made:
            versions = ", ".join(sorted({one["stargap"] for one in made}))
            rows, seconds = sum(one["rows"] for one in made), sum(one["seconds"] for one in made)
            yield StageTime(name, len(made), rows, seconds, versions)


def _sample_cuts(folder: Path) -> Sheet | None:
    """Return the counts of the sample's cuts, summed over shards."""
    counts: dict[str, int] = {}
    for receipt in _receipts(folder, "sample"):
        for name, number in receipt["counts"].items():
            counts[name] = counts.get(name, 0) + int(number)
    cuts = list(dict.fromkeys(name.split(": ")[0] for name in counts if ": " in name))
    if not cuts:
        return None
    header = ("before", "failed", "unknown", "left")
    paper = {"class M dwarf": "818,686"}
    rows = tuple((cut, *(f"{counts[f'{cut}: {what}']:,}" for what in header), paper.get(cut, "")) for cut in cuts)
    return Sheet("Cuts of the sample (section 2.1)", ("cut", *header, "paper"), rows)


def _comparisons(folder: Path) -> Iterator[tuple[str, tuple[Sheet, ...], tuple[str, ...]]]:
    """Yield what ``stargap compare`` wrote into folders of ``compare/``: name, tables and notes."""
    for path in sorted((folder / "compare").glob("*/*.md")):
        text = _text(path)
        yield text.splitlines()[0].lstrip("# ") if text else path.parent.name, *read_sheets(text)


class _Clusters(HTMLParser):
    """Headings, reasons and pictures of ``cleaning.html``."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Cluster] = []
        self.words = {"h3": "", "p": ""}
        self.open = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in self.words:
            self.open = tag
            self.words |= {"h3": "", "p": ""} if tag == "h3" else {"p": ""}
        elif tag == "img" and (given.get("src") or "").startswith("data:image/png;base64,") and self.words["h3"]:
            self.found.append(Cluster(self.words["h3"], self.words["p"], given["src"] or ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == self.open:
            self.open = ""

    def handle_data(self, data: str) -> None:
        if self.open:
            self.words[self.open] += data


def _clusters(page: str) -> list[Cluster]:
    parser = _Clusters()
    parser.feed(page)
    return [one for one in parser.found if re.fullmatch("data:image/png;base64,[A-Za-z0-9+/=]*", one.picture)]


def _join_truth(spectra: Columns, path: Path) -> Columns:
    """Return the truth in the order of the catalogue, with ``known``."""
    truth = read_table(path)
    lacking = [name for name in (*LABELS, "kind", "active") if name not in truth]
    if lacking:
        message = f"{path}: has no column {', '.join(map(repr, lacking))}: a table of true values has all labels"
        raise UsageError(message)
    key = next((name for name in ("obsid", "spectrum_id") if _joins(truth, spectra, name)), None)
    if key is None:
        message = f"{path}: neither obsid nor spectrum_id names rows of the catalogue"
        raise UsageError(message)
    rows = match_ids(spectra[key], truth[key])
    return {**{name: values[rows] for name, values in truth.items()}, "known": rows >= 0}


def _joins(truth: Columns, spectra: Columns, name: str) -> bool:
    """Say whether an identifier names each of its rows once in the truth, and some in the catalogue."""
    if name not in truth or truth[name].dtype.kind not in "iu":
        return False
    ids = truth[name]
    return len(np.unique(ids)) == len(ids) > 0 and bool(np.isin(spectra[name][spectra[name] != INT_NULL], ids).any())
