"""Variable and binary candidates: catalogues of others joined by identifier or by position, each setting its bit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from stargap.errors import UsageError
from stargap.flags import Companion
from stargap.settings import Settings
from stargap.tables.columns import INT_NULL
from stargap.tables.crossmatch import match_ids, match_sky
from stargap.tables.nulls import equal_columns, numbers, whole_ids
from stargap.tables.read import read_table

__all__ = ["CompanionTable", "Companions", "find_companions",
           "paper_vb_flag"]  # fmt: skip

_Floats = NDArray[np.float64]

_VIZIER = re.compile(r"(?:[IVXB]{1,4}|J)/\S+")


class CompanionTable(Settings):
    """A catalogue of variables or binaries, as ``[catalogue.companions.NAME]`` of a survey's settings declares it.

    Example:
        >>> CompanionTable(table="sb2.fits", means="binary", keys=("source_id",)).epoch
        2016.0
        >>> CompanionTable(table="J/AJ/165/180/table2", means="binary", radius_arcsec=2.5).path()
        Traceback (most recent call last):
        stargap.errors.UsageError: J/AJ/165/180/table2 is a table of VizieR, which is not fetched from here: ...
    """

    table: str
    """File, in any format that `read_table` knows. A VizieR identifier is answered with where to download it."""
    means: Literal["variable", "binary"]
    """What a star that is in the table is a candidate of."""
    keys: tuple[str, ...] = ()
    """Its columns of Gaia DR3 source identifiers; a table of pairs has two."""
    radius_arcsec: Annotated[float, Field(gt=0, le=3600)] | None = None
    """Largest separation of a match by position, for stars that no key found (arcsec)."""
    ra: str = "ra"
    """Its column of right ascension (deg)."""
    dec: str = "dec"
    """Its column of declination (deg)."""
    epoch: Annotated[float, Field(gt=1900, lt=2100)] = 2016.0
    """Epoch of its positions (Julian year); our stars are moved there by their proper motion."""

    @model_validator(mode="after")
    def _check(self) -> CompanionTable:
        if not self.keys and self.radius_arcsec is None:
            message = "give keys, its columns of Gaia identifiers, or radius_arcsec"
            raise ValueError(message)
        return self

    def absolute(self) -> CompanionTable:
        """Return the same with the file's path absolute; a VizieR identifier stays."""
        if not Path(self.table).exists() and _VIZIER.fullmatch(self.table):
            return self
        return self.model_copy(update={"table": str(Path(self.table).absolute())})

    def bare(self) -> CompanionTable:
        """Return the same with the name of the file alone, where its whole path is given."""
        path = Path(self.table)
        return self.model_copy(update={"table": path.name}) if path.is_absolute() else self

    def path(self) -> Path:
        """Return the file.

        Raises:
            UsageError: it is a VizieR identifier, and no file of that name.
        """
        path = Path(self.table)
        if not path.exists() and _VIZIER.fullmatch(self.table):
            message = (
                f"{self.table} is a table of VizieR, which is not fetched from here: download "
                f"https://vizier.cds.unistra.fr/viz-bin/asu-binfits?-source={self.table}&-out.max=unlimited&-out.all "
                "and give the file"
            )
            raise UsageError(message)
        return path


@dataclass(frozen=True, eq=False)
class Companions:
    """What `find_companions` returns: ``flags`` int32 ``(row,)``, -9999 if no table was given, and notes on each."""

    flags: NDArray[np.int32]
    notes: tuple[str, ...]


def paper_vb_flag(flags: ArrayLike) -> NDArray[np.int32]:
    """Return the paper's VBFlag ``(row,)`` of our bits: 1 variable, 2 binary, 0 neither; a variable binary is 1.

    Example:
        >>> paper_vb_flag([0, 1, 2, 3, 6, -9999])
        array([    0,     1,     2,     1,     2, -9999], dtype=int32)
    """
    bits = np.asarray(flags, dtype=np.int32)
    single = np.where(bits & Companion.VARIABLE, 1, np.where(bits & Companion.BINARY, 2, 0))
    return np.where(bits == INT_NULL, INT_NULL, single).astype(np.int32)


def find_companions(
    columns: Mapping[str, ArrayLike], tables: Mapping[str, CompanionTable], *, epoch: float = 2000.0
) -> Companions:
    """Look spectra up in catalogues of variable and binary candidates (paper section 4.5).

    Gaia identifiers come first. By position, our places are moved from `epoch` to that of the table with Gaia's
    proper motion, where it is known, and the nearest row within the radius counts; more than one sets AMBIGUOUS as
    well. A star can be variable and binary.

    Args:
        columns: spectrum_id, gaia_source_id, ra, dec (deg), pmra, pmdec (mas/yr), each ``(row,)``; but for the first,
            null everywhere where missing.
        tables: by name.
        epoch: of our positions (Julian year); those in LAMOST's headers are of about 2000.

    Raises:
        UsageError: a table cannot be read, lacks a column, or its identifiers are floats.

    Example:
        >>> from stargap.tables.columns import Column
        >>> from stargap.tables.write import write_table
        >>> file = getfixture("tmp_path") / "sb2.fits"
        >>> write_table({"source_id": [7, 9]}, file, schema=[Column("source_id", "int64")], provenance={})
        >>> sb2 = CompanionTable(table=str(file), means="binary", keys=("source_id",))
        >>> found = find_companions({"spectrum_id": [0, 1, 2], "gaia_source_id": [7, 8, -9999]}, {"sb2": sb2})
        >>> found.flags, found.notes
        (array([2, 0, 0], dtype=int32), ('sb2: 1 of 3 spectra, 1 by identifier, 0 by position (0 ambiguous)',))
    """
    given = equal_columns(columns, "spectrum_id")
    rows = len(given["spectrum_id"])
    if not tables:
        return Companions(np.full(rows, INT_NULL, dtype=np.int32), ("no catalogue of variables or binaries was given",))
    ids = whole_ids(given.get("gaia_source_id", np.full(rows, INT_NULL)), "gaia_source_id")
    place = {name: numbers(given, name, rows) for name in ("ra", "dec", "pmra", "pmdec")}
    flags, notes = np.zeros(rows, dtype=np.int32), []
    for name, declared in tables.items():
        degrees = {} if declared.radius_arcsec is None else {declared.ra: "deg", declared.dec: "deg"}
        table = read_table(declared.path(), [*declared.keys, *degrees], units=degrees)
        by_id, by_sky, ambiguous = _look_up(ids, place, table, declared, epoch, name)
        bit = Companion.VARIABLE if declared.means == "variable" else Companion.BINARY
        flags[by_id | by_sky] |= bit
        flags[ambiguous] |= Companion.AMBIGUOUS
        one, two, unsure = (np.count_nonzero(part) for part in (by_id, by_sky, ambiguous))
        counts = f"{one:,} by identifier, {two:,} by position ({unsure:,} ambiguous)"
        notes.append(f"{name}: {one + two:,} of {rows:,} spectra, {counts}")
    return Companions(flags, tuple(notes))


def _look_up(
    ids: NDArray[np.int64],
    place: Mapping[str, _Floats],
    table: Mapping[str, NDArray[Any]],
    declared: CompanionTable,
    epoch: float,
    name: str,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which rows are in the table by identifier, by position, and ambiguously so."""
    found, by_sky, ambiguous = (np.zeros(len(ids), dtype=bool) for _ in range(3))
    for key in declared.keys:
        found |= match_ids(ids, np.unique(whole_ids(table[key], f"{name}: {key}"))) >= 0
    if declared.radius_arcsec is not None:
        rest = np.flatnonzero(~found)
        ra, dec = _moved({key: values[rest] for key, values in place.items()}, declared.epoch - epoch)
        there = {"ra": declared.ra, "dec": declared.dec}
        stars = {key: numbers(table, column, len(table[column])) for key, column in there.items()}
        stars["ref_epoch"] = np.full(len(stars["ra"]), declared.epoch)
        match = match_sky(ra, dec, declared.epoch, stars, radius_arcsec=declared.radius_arcsec)
        by_sky[rest], ambiguous[rest] = match.rows >= 0, match.ambiguous
    return found, by_sky, ambiguous


def _moved(place: Mapping[str, _Floats], years: float) -> tuple[_Floats, _Floats]:
    """Return positions (deg) after some years along great circles; as given where the proper motion is null."""
    with np.errstate(invalid="ignore"):
        ra, dec = np.radians(place["ra"]), np.radians(place["dec"])
        east, north = (np.radians(np.nan_to_num(place[name]) * years / 3.6e6) for name in ("pmra", "pmdec"))
        x = np.cos(dec) - north * np.sin(dec)
        z = np.sin(dec) + north * np.cos(dec)
        turned = np.degrees(ra + np.arctan2(east, x)) % 360
        return turned, np.degrees(np.arctan2(z, np.hypot(x, east)))
