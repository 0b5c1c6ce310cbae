"""From the table of a survey run to the catalogue: one row per spectrum, and one row per star."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap import __version__
from stargap.catalogue.companions import CompanionTable, find_companions
from stargap.catalogue.cuts import CUT_COLUMNS, CutSettings, final_cuts
from stargap.catalogue.stars import Combination, combine_stars, join_again, star_numbers, with_stacks
from stargap.errors import UsageError
from stargap.files import replacing
from stargap.memory import release_memory
from stargap.photometry.likelihood import Population
from stargap.settings import Settings
from stargap.survey.sample import Sample, counts_json, counts_table
from stargap.tables.columns import CATALOGUE, INT_NULL, STARS, SURVEY
from stargap.tables.crossmatch import match_ids
from stargap.tables.nulls import equal_columns, numbers, plain_column, whole_ids
from stargap.tables.parquet import open_parquet, provenance_of, read_columns, read_parts, write_parts
from stargap.workers import each_ahead

__all__ = ["Built", "CatalogueSettings", "build_catalogue"]

Columns = dict[str, NDArray[Any]]

_PART = 15_000
"""Rows of a part: one is written, one made and one read at a time, 12 MB each with all columns."""
_LABELS = ("rv", "teff", "logg", "m_h")
_MADE = ("distance", "vb_flag", "cuts", "in_final_catalogue", "version")


class CatalogueSettings(Settings):
    """The settings and inputs of the catalogue, and its description.

    Example:
        >>> CatalogueSettings().combine
        'weighted'
    """

    errors: Literal["stargap", "paper"] = "stargap"
    """Published errors: the fit's, calibrated on repeated observations, or the paper's, the scatter of these added to
    the fit's error (section 4.1, eq. 8 and 9)."""
    combine: Combination = "weighted"
    """A star's values from all its spectra, weighted by the square of S/N, or from its best spectrum alone."""
    position_epoch: float = 2000.0
    """Epoch of the positions of the spectra (Julian year), for joins by position; those in LAMOST's headers are of its
    input catalogues, mostly of 2000."""
    title: str = "Value-added catalogue of M dwarfs"
    """Title of the catalogue."""
    authors: str = ""
    """Its authors."""
    licence: str = "CC-BY-4.0"
    """Licence of the catalogue."""
    citation: str = ""
    """What users should cite, besides the survey and Gaia."""
    cuts: CutSettings = CutSettings()
    """The cuts of the final catalogue (section 4)."""
    companions: dict[str, CompanionTable] = {}
    """Catalogues of variable and binary candidates (section 4.5), each under its name."""

    def published(self) -> CatalogueSettings:
        """Return the settings as a catalogue records them: tables of companions by file name, without folders."""
        return self.model_copy(update={"companions": {name: one.bare() for name, one in self.companions.items()}})


@dataclass(frozen=True)
class Built:
    """What `build_catalogue` made: the two tables, the counts of the cuts, and the number of stars."""

    spectra: Path
    stars: Path
    cuts: Sample
    star_count: int


def build_catalogue(
    measured: str | Path,
    folder: str | Path,
    settings: CatalogueSettings | None = None,
    *,
    added: Mapping[str, ArrayLike] | None = None,
    population: Population | None = None,
    stacks: Mapping[str, NDArray[Any]] | None = None,
) -> Built:
    """Make ``spectra.parquet`` and ``stars.parquet`` of a survey run's table, in its order, nothing left out.

    ``cuts.md`` tells how many spectra each cut leaves, beside the paper's; ``cuts.json`` holds the same as data
    (`stargap.survey.sample.read_counts`).

    A survey of any size is read and written part by part. What all spectra have to be compared in, identifiers, labels,
    errors and flags, is kept in memory: about 0.4 kB per spectrum.

    Without errors in `added`, ``e_rv``, ``e_teff``, ``e_logg`` and ``e_m_h`` are those of the fit.

    Args:
        measured: Parquet table of a survey run, with the columns `SURVEY` and perhaps others of `CATALOGUE`.
        folder: where to write; made if it does not exist.
        settings: see `CatalogueSettings`.
        added: further columns ``(row,)`` of `CATALOGUE`, with ``spectrum_id``, by which they are joined: calibrated
            errors (``e_*``, ``e_*_paper``, ``e_*_sys``) and ages.
        population: what joint labels assume of stars. They are made anew where errors are calibrated and of combined
            spectra.
        stacks: labels of stacked spectra, see `stargap.catalogue.stars.with_stacks`.

    Raises:
        UsageError: the table is not one of a survey run, a column of `added` is unknown, or a catalogue of variables
            or binaries cannot be used.

    Example:
        >>> from stargap.tables.write import write_table
        >>> folder = getfixture("tmp_path")
        >>> survey = {column.name: [None, None] for column in SURVEY}
        >>> survey |= {"spectrum_id": [0, 1], "in_sample": [True, False], "gaia_source_id": [7, 7]}
        >>> survey |= {"flags": [0, 0], "clean_flags": [0, 0], "teff": [3500.0, None]}
        >>> write_table(survey, folder / "measured.parquet", schema=SURVEY, provenance={"creator": "stargap"})
        >>> built = build_catalogue(folder / "measured.parquet", folder / "catalogue")
        >>> built.star_count, [path.name for path in (built.spectra, built.stars)]
        (1, ['spectra.parquet', 'stars.parquet'])
    """
    measured, folder = Path(measured), Path(folder)
    settings = CatalogueSettings() if settings is None else settings
    names = _column_names(measured)
    extra = _added(added)
    known = ("spectrum_id", "gaia_source_id", "ra", "dec", "pmra", "pmdec")
    names_read = dict.fromkeys([*known, *(name for name in CUT_COLUMNS if name in names)])
    whole = read_columns(measured, list(names_read))
    place = match_ids(whole["spectrum_id"], extra["spectrum_id"])
    for name in set(CUT_COLUMNS) & set(extra) - {"spectrum_id"}:
        whole[name] = _joined(extra[name], place)
    cuts = final_cuts({name: whole[name] for name in CUT_COLUMNS if name in whole}, settings.cuts)
    companions = find_companions(
        {name: whole[name] for name in known}, settings.companions, epoch=settings.position_epoch
    )
    cuts = Sample(cuts.columns, cuts.counts, (*cuts.notes, *companions.notes))
    star, star_count = star_numbers(whole["gaia_source_id"])
    del whole
    release_memory()

    about = provenance_of(measured)
    version = "; ".join(about[name] for name in ("creator", "model") if name in about)
    about["catalogue_creator"] = f"stargap {__version__}"
    about["catalogue_settings"] = settings.published().model_dump_json()
    wanted_here = [column.name for column in CATALOGUE if column.name in names]

    calibrated = not {f"e_{name}{kind}" for name in _LABELS[1:] for kind in ("", "_sys")}.isdisjoint(extra)

    def spectra() -> Iterator[Columns]:
        first = 0
        for part in read_parts(measured, wanted_here, rows=_PART):
            rows = slice(first, first + len(part["spectrum_id"]))
            made = _catalogue_part(part, {name: _joined(values, place[rows]) for name, values in extra.items()})
            if calibrated:
                join_again(made, np.flatnonzero(np.isfinite(made["teff_joint"])), population)
            yield made | {
                "vb_flag": companions.flags[rows],
                "cuts": cuts.columns["cuts"][rows],
                "in_final_catalogue": cuts.columns["in_final_catalogue"][rows],
                "version": np.full(rows.stop - rows.start, version, dtype=object),
            }
            first = rows.stop

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "spectra.parquet"
    write_parts(each_ahead(spectra()), path, schema=CATALOGUE, provenance=about)
    release_memory()
    stars = folder / "stars.parquet"
    combined = combine_stars(path, star, star_count, settings.combine, population=population)
    if stacks is not None:
        combined = (with_stacks(part, stacks) for part in combined)
    write_parts(each_ahead(combined), stars, schema=STARS, provenance=about)
    _write_cuts(folder, cuts)
    return Built(path, stars, cuts, star_count)


def _write_cuts(folder: Path, cuts: Sample) -> None:
    for name, text in {"cuts.md": counts_table(cuts), "cuts.json": counts_json(cuts)}.items():
        with replacing(folder / name) as file:
            file.write(f"{text}\n".encode())


def _column_names(measured: Path) -> set[str]:
    with open_parquet(measured) as file:
        names = set(file.schema_arrow.names)
    missing = [column.name for column in SURVEY if column.name not in names]
    if missing:
        message = f"{measured}: no table of a survey run: columns missing: {', '.join(map(repr, missing[:5]))}"
        message += " ..." if len(missing) > 5 else ""
        raise UsageError(message)
    return names


def _added(added: Mapping[str, ArrayLike] | None) -> Columns:
    if added is None:
        return {"spectrum_id": np.empty(0, dtype=np.int64)}
    extra = equal_columns(added, "spectrum_id")
    known = {column.name: column for column in CATALOGUE if column.name not in _MADE}
    unknown = [name for name in extra if name not in known]
    if unknown:
        message = f"added columns {', '.join(map(repr, unknown))} are none of the catalogue's that can be given"
        raise UsageError(message)
    extra["spectrum_id"] = whole_ids(extra["spectrum_id"], "added spectrum_id")
    floats = [name for name in extra if known[name].dtype.startswith("float") and not _is_plain(extra[name])]
    return extra | {name: numbers(extra, name, len(extra[name])) for name in floats}


def _is_plain(values: NDArray[Any]) -> bool:
    """Return whether values are floats without a null but NaN: they need no copy."""
    return values.dtype.kind == "f" and not ((values == INT_NULL) | np.isinf(values)).any()


def _joined(values: NDArray[Any], place: NDArray[np.int64]) -> NDArray[Any]:
    """Return values of the rows in `place`, null where that is -1."""
    found = values[place] if len(values) else np.zeros(len(place), dtype=values.dtype)
    return plain_column(np.ma.masked_array(found, place < 0))


def _catalogue_part(part: Columns, extra: Columns) -> Columns:
    """Return what rows of the run's table and columns joined to them say of the catalogue's columns."""
    rows = len(part["spectrum_id"])
    columns: Columns = {
        column.name: np.full(rows, column.null, dtype=object if column.dtype == "str" else column.dtype)
        for column in CATALOGUE
        if column.name not in _MADE
    }
    columns |= part
    columns |= {f"e_{name}_fit": part[f"e_{name}"] for name in _LABELS}
    with np.errstate(divide="ignore"):
        columns["distance"] = np.where(np.isfinite(part["m_g"]), 1000 / part["parallax"], np.nan)
    return columns | {name: values for name, values in extra.items() if name != "spectrum_id"}
