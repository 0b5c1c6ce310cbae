"""What others say of a simulated survey's stars: tables of literature, APOGEE, variables, binaries and wide pairs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stargap.catalogue.companions import CompanionTable
from stargap.files import replacing
from stargap.mock.instrument import CHUNK
from stargap.mock.spectrographs import Instrument
from stargap.mock.survey import SurveyChunk
from stargap.tables.column import INT_NULL
from stargap.validation.matching import CompareSettings
from stargap.validation.references import reference_settings
from stargap.validation.report.settings import BinaryTables, ReportSettings, TableOfOthers

__all__ = ["TABLES", "TableFiles", "companion_tables", "compared_tables", "reported_tables", "tables_of"]

Columns = dict[str, NDArray[Any]]

LITERATURE: Final = {
    "Simulated A": {"teff": (20.0, 45.0), "logg": (0.03, 0.06), "m_h": (0.04, 0.08)},
    "Simulated B": {"teff": (-40.0, 70.0), "logg": (-0.05, 0.10), "m_h": (-0.05, 0.12)},
}
"""Offset and scatter of each source's labels about the truth (K, dex); the scatter is what its errors say."""
APOGEE: Final = {"teff": (15.0, 40.0), "logg": (-0.10, 0.05), "m_h": (-0.03, 0.07), "rv": (0.0, 0.3)}
"""The same of the table that looks like APOGEE's (km/s for rv)."""
LASPM: Final = {"teff": (-9.0, 60.0), "logg": (0.0, 0.12), "m_h": (-0.04, 0.15)}
"""The same of labels as another method takes them from the same spectra."""
STAR_BAD: Final = 1 << 23
FOUND: Final = {"binaries_gaia": 0.45, "binaries_sky": 0.3, "variables": 0.7}
"""Share of the true stars that a table lists."""
FALSE: Final = 0.004
"""Share of the other stars that each lists as well."""
PRIMARY_ERRORS: Final = (0.05, 2.0)
"""Errors of an FGK primary's [Fe/H] (dex) and velocity (km/s)."""
CHANCE_PAIRS: Final = 0.006
"""Stars in a pair that is none, as a fraction of all."""


def _about(errors: Mapping[str, tuple[float, float]]) -> str:
    """Return offsets and scatters as text.

    Example:
        >>> _about({"teff": (-9.0, 60.0), "m_h": (-0.04, 0.15)})
        'Teff -9 ± 60 K, [M/H] -0.04 ± 0.15 dex'
    """
    names = {"teff": ("Teff", "K"), "logg": ("log g", "dex"), "m_h": ("[M/H]", "dex"), "rv": ("RV", "km/s")}
    return ", ".join(
        f"{names[name][0]} {offset:+g} ± {scatter:g} {names[name][1]}" for name, (offset, scatter) in errors.items()
    )


NOTES: Final = {
    "literature.csv": "labels of two sources, with these offsets and scatters about the truth: "
    + "; ".join(f"{name}, {_about(errors)}" for name, errors in LITERATURE.items()),
    "apogee.csv": "columns of APOGEE DR17's allStar, with these offsets and scatters about the truth: "
    f"{_about(APOGEE)}; 3 % of the rows have STAR_BAD and labels that mean nothing; 5 % of the stars have two rows",
    "laspm.csv": "labels of another method from three spectra in five, in the columns of LAMOST's LRS_mstellar, with "
    f"these offsets and scatters about the truth: {_about(LASPM)}",
    "wide_binaries.csv": "pairs in the columns of El-Badry, Rix & Heintz 2021: an FGK star first, one of our M dwarfs "
    "second; separations of 1 to 100 arcsec; among them pairs by chance, most with a large R_chance_align",
    "fgk_primaries.csv": "the FGK stars of those pairs in the columns of LAMOST's LRS_stellar: [Fe/H] is that of the "
    f"bound M dwarf with an error of {PRIMARY_ERRORS[0]:g} dex, velocities have one of {PRIMARY_ERRORS[1]:g} km/s",
    "variables.csv": f"{FOUND['variables']:.0%} of the variable stars and {FALSE:.1%} of the others, by source_id",
    "binaries_gaia.csv": f"{FOUND['binaries_gaia']:.0%} of the unresolved binaries and {FALSE:.1%} of the others, by "
    "source_id",
    "binaries_sky.csv": f"{FOUND['binaries_sky']:.0%} of the unresolved binaries and {FALSE:.1%} of the others, by "
    "position at 2016.0 within 0.3 arcsec, without identifiers",
}


def tables_of(chunk: SurveyChunk, *, seed: int) -> dict[str, Columns]:
    """Return every table's rows on the stars of a chunk, by the name of its file.

    Each table has the column ``simulated``, which is True. A star's rows are the same however many stars there are.

    Args:
        chunk: of `simulate_survey`.
        seed: of that survey.

    Returns:
        columns ``(row,)`` of each of ``TABLES``.

    Example:
        >>> from stargap.mock.survey import simulate_survey
        >>> (chunk,) = simulate_survey(60, seed=1, repeats=0.0)
        >>> tables = tables_of(chunk, seed=1)
        >>> tables["wide_binaries.csv"]["source_id2"].size == tables["fgk_primaries.csv"]["gaia_source_id"].size > 0
        True
    """
    first = chunk.truth["exposure"] == 0
    stars = {name: values[first] for name, values in chunk.truth.items()} | {
        name: chunk.gaia[name] for name in ("ra", "dec", "parallax", "pmra", "pmdec")
    }
    number = int(stars["star"][0]) // CHUNK
    found: dict[str, Columns] = {}
    for place, make in enumerate(MAKERS):
        found |= make(np.random.default_rng([seed, 8, number, place]), stars)
    found |= _method(np.random.default_rng([seed, 9, number]), chunk.truth)
    return {
        name: columns | {"simulated": np.ones(len(next(iter(columns.values()))), dtype=bool)}
        for name, columns in found.items()
    }


def companion_tables(folder: str | Path) -> dict[str, CompanionTable]:
    """Return how a run reads the tables of variables and binaries in a simulated survey's folder.

    Example:
        >>> companion_tables("mock")["binaries_sky"].radius_arcsec
        2.5
    """
    folder = Path(folder)
    by_id = {"keys": ("source_id",)}
    by_sky = {"radius_arcsec": 2.5}
    return {
        "variables": CompanionTable(table=str(folder / "variables.csv"), means="variable", **by_id),  # type: ignore[arg-type]
        "binaries_gaia": CompanionTable(table=str(folder / "binaries_gaia.csv"), means="binary", **by_id),  # type: ignore[arg-type]
        "binaries_sky": CompanionTable(table=str(folder / "binaries_sky.csv"), means="binary", **by_sky),  # type: ignore[arg-type]
    }


def compared_tables(folder: str | Path, instrument: Instrument = "lamost") -> list[tuple[Path, CompareSettings]]:
    """Return the tables of labels in a simulated survey's folder, each with how it is compared.

    Only of LAMOST's spectra there are labels by another method, by obsid.

    Example:
        >>> [settings.name for path, settings in compared_tables("mock")]
        ['simulated literature', 'simulated APOGEE', 'simulated LASPM']
    """
    folder = Path(folder)
    about = {"citation": "simulated by stargap mock", "where": "the folder of the simulated survey", "simulated": True}
    literature = CompareSettings(
        name="simulated literature",
        note=NOTES["literature.csv"],
        columns={"teff": "teff", "logg": "logg", "m_h": "m_h"},
        key="source_id",
        paper_bias={"teff": 12.0, "logg": -0.04, "m_h": -0.06},
        paper_scatter={"teff": 70.0, "logg": 0.17, "m_h": 0.20},
        **about,  # type: ignore[arg-type]
    )
    apogee = reference_settings("apogee-dr17").model_copy(
        update={"name": "simulated APOGEE", "note": NOTES["apogee.csv"], **about}
    )
    laspm = reference_settings("laspm").model_copy(
        update={"name": "simulated LASPM", "note": NOTES["laspm.csv"], **about}
    )
    found = [(folder / "literature.csv", literature), (folder / "apogee.csv", apogee), (folder / "laspm.csv", laspm)]
    return found if instrument == "lamost" else found[:2]


def reported_tables(folder: str | Path, instrument: Instrument = "lamost", **options: Any) -> ReportSettings:
    """Return what the report of a run of a simulated survey is compared with: its truth and the tables in its folder.

    Args:
        folder: of the simulated survey.
        instrument: that observed it.
        options: further fields of `ReportSettings`.

    Example:
        >>> sorted(reported_tables("mock", spectra=10).comparisons)
        ['apogee', 'laspm', 'literature']
    """
    folder = Path(folder)
    others = {
        path.stem: TableOfOthers(table=path, settings=chosen) for path, chosen in compared_tables(folder, instrument)
    }
    pairs = BinaryTables(pairs=folder / "wide_binaries.csv", primaries=folder / "fgk_primaries.csv")
    return ReportSettings(truth=folder / "truth.parquet", comparisons=others, binaries=pairs, **options)


class TableFiles:
    """The tables as CSV files beside a survey, with ``tables.json``, which says what they are.

    Each appears complete when the stack closes, or not at all.
    """

    def __init__(self, folder: Path, stack: ExitStack, *, seed: int) -> None:
        self._seed = seed
        with replacing(folder / "tables.json") as note:
            note.write(json.dumps({"simulated": True, "tables": NOTES}, indent=1).encode())
        self._texts: dict[str, io.TextIOWrapper] = {}
        for name in TABLES:
            file = stack.enter_context(replacing(folder / name))
            self._texts[name] = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
            stack.callback(self._texts[name].detach)
        self._begun = False

    def add(self, chunk: SurveyChunk) -> None:
        """Write the rows of a chunk."""
        for name, columns in tables_of(chunk, seed=self._seed).items():
            writer = csv.writer(self._texts[name], lineterminator="\n")
            if not self._begun:
                writer.writerow(columns)
            values = (column.tolist() for column in columns.values())
            writer.writerows(["" if cell != cell else cell for cell in row] for row in zip(*values, strict=True))
        self._begun = True


def _dwarfs(stars: Columns) -> NDArray[np.bool_]:
    return np.asarray(stars["kind"] == "dwarf")


def _drawn(rng: np.random.Generator, kind: str, stars: Columns) -> Any:
    """Draw numbers for a whole chunk, and return those of the stars in the chunk."""
    shape = (CHUNK, 8)
    numbers = rng.random(shape) if kind == "uniform" else rng.standard_normal(shape)
    return numbers[stars["star"] % CHUNK].T


def _literature(rng: np.random.Generator, stars: Columns) -> dict[str, Columns]:
    """Labels of three stars in twenty, of the brighter ones rather."""
    share, unit = _drawn(rng, "uniform", stars), _drawn(rng, "normal", stars)
    rows = np.flatnonzero(_dwarfs(stars) & (share[0] < np.clip(0.004 * stars["snr_r"], 0.05, 0.5)))
    names = list(LITERATURE)
    source = (share[1, rows] < 0.5).astype(int)
    columns: Columns = {"source_id": stars["source_id"][rows], "source": np.array(names, dtype=object)[source]}
    for place, (name, digits) in enumerate({"teff": 0, "logg": 3, "m_h": 3}.items()):
        offset, scatter = np.array([LITERATURE[one][name] for one in names])[source].T
        columns[name] = np.round(stars[name][rows] + offset + scatter * unit[place, rows], digits)
        columns[f"e_{name}"] = scatter
    return {"literature.csv": columns}


def _apogee(rng: np.random.Generator, stars: Columns) -> dict[str, Columns]:
    """Labels of one star in ten, as APOGEE's table has them."""
    share, unit, again = (_drawn(rng, kind, stars) for kind in ("uniform", "normal", "normal"))
    once = np.flatnonzero(_dwarfs(stars) & (share[0] < 0.1))
    twice = once[share[1, once] < 0.05]
    rows = np.concatenate([once, twice])
    noise = np.concatenate([unit[:, once], 1.5 * again[:, twice]], axis=1)
    bad = share[2, rows] < 0.03
    values = {}
    for place, (name, (offset, scatter)) in enumerate(APOGEE.items()):
        values[name] = np.round(stars[name][rows] + offset + scatter * noise[place], 3)
        values[name][bad] += 8 * scatter * noise[4, bad]
    columns: Columns = {
        "GAIAEDR3_SOURCE_ID": stars["source_id"][rows],
        "RA": np.round(stars["ra"][rows], 7),
        "DEC": np.round(stars["dec"][rows], 7),
        "TEFF": values["teff"],
        "TEFF_ERR": np.full(len(rows), APOGEE["teff"][1]),
        "LOGG": values["logg"],
        "LOGG_ERR": np.full(len(rows), APOGEE["logg"][1]),
        "M_H": values["m_h"],
        "M_H_ERR": np.full(len(rows), APOGEE["m_h"][1]),
        "VHELIO_AVG": values["rv"],
        "SNR": np.round(np.exp(4.5 + 0.4 * noise[5]) / np.where(np.arange(len(rows)) < len(once), 1.0, 2.0), 1),
        "ASPCAPFLAG": np.where(bad, STAR_BAD, 0),
    }
    return {"apogee.csv": columns}


def _method(rng: np.random.Generator, truth: Columns) -> dict[str, Columns]:
    """Labels of spectra, one row each; each spectrum has its own four numbers, in the order of the survey."""
    unit = rng.standard_normal((len(truth["obsid"]), 4)).T
    rows = np.flatnonzero(_dwarfs(truth) & (unit[3] < 0.25) & (truth["obsid"] != INT_NULL))
    columns: Columns = {"obsid": truth["obsid"][rows]}
    for place, (name, (offset, scatter)) in enumerate(LASPM.items()):
        columns[name] = np.round(truth[name][rows] + offset + scatter * unit[place, rows], 3)
    return {"laspm.csv": columns}


def _pairs(rng: np.random.Generator, stars: Columns) -> dict[str, Columns]:
    """Pairs, bound ones and by chance, and their primaries."""
    share, unit = _drawn(rng, "uniform", stars), _drawn(rng, "normal", stars)
    bound = stars["wide_pair"].astype(bool)
    chance = _dwarfs(stars) & ~bound & (share[0] < CHANCE_PAIRS)
    rows = np.flatnonzero(bound | chance)
    by_chance, share, unit = chance[rows], share[:, rows], unit[:, rows]
    primary = stars["source_id"][rows] + 1
    probability = 10 ** np.where(by_chance & (share[1] < 0.7), -1.5 + 1.4 * share[2], -6.0 + 4.0 * share[2])
    arcsec = 10 ** (2.0 * share[3])
    m_h = np.where(by_chance, -0.1 + 0.25 * unit[0], stars["m_h"][rows])
    rv = np.where(by_chance, -5.0 + 35.0 * unit[1], stars["rv"][rows] + unit[1])
    parallax = np.round(stars["parallax"][rows], 4)
    pairs: Columns = {
        "source_id1": primary,
        "source_id2": stars["source_id"][rows],
        "parallax1": parallax,
        "parallax2": parallax,
        "pairdistance": np.round(arcsec / 3600.0, 8),
        "R_chance_align": np.array([float(f"{value:.3g}") for value in probability]),
    }
    primaries: Columns = {
        "gaia_source_id": primary,
        "teff": np.round(4600.0 + 2000.0 * share[4]),
        "feh": np.round(m_h + PRIMARY_ERRORS[0] * unit[2], 3),
        "feh_err": np.full(len(rows), PRIMARY_ERRORS[0]),
        "rv": np.round(rv + PRIMARY_ERRORS[1] * unit[3], 2),
        "rv_err": np.full(len(rows), PRIMARY_ERRORS[1]),
        "snrg": np.round(np.exp(4.0 + 0.5 * unit[4]), 1),
    }
    return {"wide_binaries.csv": pairs, "fgk_primaries.csv": primaries}


def _marks(rng: np.random.Generator, stars: Columns) -> dict[str, Columns]:
    """Variable and binary candidates: most of the true ones, and a few others."""
    share, unit = _drawn(rng, "uniform", stars), _drawn(rng, "normal", stars)
    found: dict[str, Columns] = {}
    for place, (name, part) in enumerate(FOUND.items()):
        true = stars["variable" if name == "variables" else "binary"].astype(bool)
        rows = np.flatnonzero(share[place] < np.where(true, part, FALSE))
        columns: Columns = {"source_id": stars["source_id"][rows]}
        if name == "binaries_sky":
            ra = stars["ra"][rows] + 0.3 * unit[0, rows] / 3600.0 / np.cos(np.radians(stars["dec"][rows]))
            dec = stars["dec"][rows] + 0.3 * unit[1, rows] / 3600.0
            columns = {"ra": np.round(ra % 360.0, 7), "dec": np.round(dec, 7)}
        found[f"{name}.csv"] = columns
    return found


MAKERS: Final[tuple[Callable[[np.random.Generator, Columns], dict[str, Columns]], ...]] = (
    _literature, _apogee, _pairs, _marks,
)  # fmt: skip
TABLES: Final = tuple(NOTES)
"""Names of the files."""
