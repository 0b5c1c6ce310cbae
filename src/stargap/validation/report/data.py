"""What a finished survey run holds for its report: the catalogue, receipts, models, cuts and, if known, the truth."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stargap.catalogue.precision import Precision
from stargap.catalogue.velocity import VelocityScale
from stargap.errors import UsageError
from stargap.memory import release_memory
from stargap.paper import LEFT_AFTER_CUT
from stargap.survey.sample import CutCount, read_counts
from stargap.tables.columns import INT_NULL
from stargap.tables.crossmatch import match_ids
from stargap.tables.parquet import provenance_of, read_columns
from stargap.tables.read import read_table
from stargap.validation.binaries import Binaries, BinarySettings, run_binaries
from stargap.validation.matching import CompareSettings
from stargap.validation.report.compared import Compared, compare_all
from stargap.validation.sheets import Sheet, cuts_sheet, is_simulated, read_results

__all__ = ["STAGE_ORDER", "Cluster", "Columns", "RunData", "StageTime", "read_run"]

Columns = dict[str, NDArray[Any]]

STAGE_ORDER = ("ingest", "gaia", "sample", "photometry", "emulator", "velocity", "prepare", "clean", "labels",
               "transfer", "measure", "joint", "table", "stack", "catalogue")  # fmt: skip
"""Stages of a run up to its report, first to last, by the names of their folders of receipts."""
LABELS = ("rv", "teff", "logg", "m_h")
SPECTRA = (
    *("spectrum_id", "obsid", "gaia_source_id", "snr_r", "snr_i", "subclass", "spt", "bp_rp", "m_g", "gaia_rv", "chi2"),
    *(f"{mark}{name}" for name in LABELS for mark in ("", "e_")),
    *("e_teff_sys", "e_logg_sys", "e_m_h_sys", "activity", "activity_3sigma", "vb_flag"),
    *("sample_flags", "clean_flags", "cuts", "in_final_catalogue", "phot_flags"),
    *(f"{mark}{name}_{what}" for what in ("phot", "joint") for name in LABELS[1:] for mark in ("", "e_")),
    *("use_joint", "joint_flags"),
)
STARS = ("gaia_source_id", "ra", "dec", "teff", "logg", "m_h", "bp_rp", "m_g", "g_mag", "distance", "rv", "gaia_rv",
         "e_rv", "e_gaia_rv", "activity", "in_final_catalogue")  # fmt: skip

GROUPS = ("active", "metal_poor", "late", "binary", "variable", "young")
"""Columns of a table of true values that mark stars; it can lack all but the first."""
TRUTH = ("obsid", "spectrum_id", *LABELS, "kind", *GROUPS)


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

    ``spectra`` and ``stars`` are columns of the catalogue, ``(row,)``; ``truth`` labels, kind and marks (booleans) of a
    table of true values in the order of ``spectra``, with ``known``, whether a spectrum is in it. ``velocity`` is how
    velocities stand to Gaia's. ``cuts`` are the tables of counts with their notes, ``cards`` the models' cards,
    ``settings`` the run's file; ``comparisons`` are name, tables and notes of what ``stargap compare`` and ``stargap
    binaries`` wrote, of ``tables`` and of ``binaries``.
    """

    folder: Path
    spectra: Columns
    stars: Columns
    precision: Precision
    velocity: VelocityScale | None
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
    cards = {name: _json(folder / name / f"{name}.json") for name in ("emulator", "transfer")}
    cuts, notes = _cuts(folder)
    simulated = truth is not None or bool(cards["transfer"].get("simulated"))
    simulated = simulated or any(is_simulated(path) for path in (folder / "measured.parquet", spectra) if path.exists())
    tables = compare_all(spectra, comparisons, simulated=simulated)
    results = [(one.comparison.title, one.comparison.sheets(), one.comparison.notes) for one in tables]
    wide = None
    if binaries is not None:
        pairs, primaries, how = binaries
        wide = run_binaries(spectra, pairs, primaries, how.model_copy(update={"simulated": simulated}))
        results.append((wide.title, wide.sheets(), wide.notes))
    release_memory()
    columns = read_columns(spectra, SPECTRA)
    true = None if truth is None else _join_truth(columns, Path(truth))
    release_memory()
    return RunData(
        folder=folder,
        spectra=columns,
        stars=read_columns(stars, STARS),
        precision=Precision.model_validate_json((folder / "catalogue" / "precision.json").read_bytes()),
        velocity=_velocity(folder / "catalogue" / "velocity.json"),
        simulated=simulated,
        provenance=provenance_of(spectra),
        settings=_without_folders(_text(folder / "survey.toml")),
        stages=tuple(_stages(folder)),
        cards={name: card for name, card in cards.items() if card},
        cuts=cuts,
        notes=notes,
        clusters=tuple(_clusters(folder)),
        comparisons=(*results, *_comparisons(folder)),
        tables=tables,
        binaries=wide,
        truth=true,
    )


def _velocity(path: Path) -> VelocityScale | None:
    """Return how velocities stand to Gaia's; None in runs that were made before this was measured."""
    return VelocityScale.model_validate_json(path.read_bytes()) if path.exists() else None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(_text(path) or "{}")
    return content


def _without_folders(settings: str) -> str:
    """Return settings with names of files alone: a page that is published does not tell where somebody's files are.

    Example:
        >>> _without_folders('gaia = "/home/me/gaia.parquet"')
        'gaia = ".../gaia.parquet"'
    """
    return re.sub(r'"(@?)/(?:[^"/\n]*/)*([^"/\n]*)"', r'"\1.../\2"', settings)


def _receipts(folder: Path, stage: str) -> list[dict[str, Any]]:
    return [_json(path) for path in sorted((folder / "receipts" / stage).glob("*.json"))]


def _stages(folder: Path) -> Iterator[StageTime]:
    for name in STAGE_ORDER:
        made = _receipts(folder, name)
        if made:
            versions = ", ".join(sorted({one["stargap"] for one in made}))
            rows, seconds = sum(one["rows"] for one in made), sum(one["seconds"] for one in made)
            yield StageTime(name, len(made), rows, seconds, versions)


def _cuts(folder: Path) -> tuple[tuple[Sheet, ...], tuple[str, ...]]:
    """Return the counts of the sample's cuts and of the catalogue's as tables, and the notes on them."""
    sheets = []
    sample = _sample_counts(folder)
    if sample:
        sheets.append(cuts_sheet("Cuts of the sample (section 2.1)", sample))
    path = folder / "catalogue" / "cuts.json"
    counts, notes = read_counts(path) if path.exists() else ((), ())
    if counts:
        sheets.append(cuts_sheet("Cuts of the catalogue (sections 2.1 and 4)", counts))
    return tuple(sheets), notes


def _sample_counts(folder: Path) -> list[CutCount]:
    """Return the counts of the sample's cuts, summed over the receipts of its pieces."""
    counts: Counter[str] = Counter()
    for receipt in _receipts(folder, "sample"):
        counts.update({name: int(number) for name, number in receipt["counts"].items()})
    cuts = dict.fromkeys(name.split(": ")[0] for name in counts if ": " in name)
    return [
        CutCount(
            cut,
            counts[f"{cut}: before"],
            counts[f"{cut}: failed"],
            counts[f"{cut}: unknown"],
            counts[f"{cut}: left"],
            LEFT_AFTER_CUT.get(cut),
        )
        for cut in cuts
    ]


def _comparisons(folder: Path) -> Iterator[tuple[str, tuple[Sheet, ...], tuple[str, ...]]]:
    """Yield what ``stargap compare`` and ``binaries`` wrote into folders of ``compare/``: title, tables and notes."""
    for path in sorted((folder / "compare").glob("*/*.json")):
        yield read_results(path)


def _clusters(folder: Path) -> Iterator[Cluster]:
    """Yield the pictures of the cleaning's page; none where nothing was cleaned."""
    for one in _json(folder / "cleaning.json").get("pictures", ()):
        picture = base64.b64encode(base64.b64decode(one["png"], validate=True)).decode()
        yield Cluster(str(one["title"]), str(one["reason"]), f"data:image/png;base64,{picture}")


def _join_truth(spectra: Columns, path: Path) -> Columns:
    """Return the truth in the order of the catalogue, with ``known``."""
    truth = read_table(path, (), optional=TRUTH)
    lacking = [name for name in (*LABELS, "kind", "active") if name not in truth]
    if lacking:
        message = f"{path}: has no column {', '.join(map(repr, lacking))}: a table of true values has all labels"
        raise UsageError(message)
    key = next((name for name in ("obsid", "spectrum_id") if _joins(truth, spectra, name)), None)
    if key is None:
        message = f"{path}: neither obsid nor spectrum_id names rows of the catalogue"
        raise UsageError(message)
    rows = match_ids(spectra[key], truth[key])
    joined = {name: truth.pop(name)[rows] for name in (*LABELS, "kind")}
    marks = {name: truth.pop(name).astype(bool)[rows] for name in GROUPS if name in truth}
    return joined | marks | {"known": rows >= 0}


def _joins(truth: Columns, spectra: Columns, name: str) -> bool:
    """Say whether an identifier names each of its rows once in the truth, and some in the catalogue."""
    if name not in truth or truth[name].dtype.kind not in "iu":
        return False
    ids = truth[name]
    return len(np.unique(ids)) == len(ids) > 0 and bool(np.isin(spectra[name][spectra[name] != INT_NULL], ids).any())
