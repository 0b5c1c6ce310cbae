"""The catalogue as it is published: the tables in the formats that people use, a ReadMe for the CDS, and a README."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stargap.catalogue.build import CatalogueSettings
from stargap.catalogue.companions import paper_vb_flag
from stargap.errors import UsageError
from stargap.files import replacing
from stargap.settings import read_settings_as
from stargap.tables.cds import cds_readme, write_fixed_width
from stargap.tables.columns import CATALOGUE, INT_NULL, PAPER, STARS
from stargap.tables.fits import ascii_text
from stargap.tables.hats import write_hats
from stargap.tables.parquet import open_parquet, provenance_of, read_parts
from stargap.tables.write import write_long_table

__all__ = ["Format", "paper_table", "write_catalogue"]

Format = Literal["fits", "fits.gz", "csv", "vot", "ecsv", "cds", "hats"]
_ROWS = 40_000
"""Rows of a part; a few parts are in memory at a time."""
_FOLDERS = ("cds", "hats")
"""The formats that are more than a file per table."""

_TABLES = {
    "spectra": (CATALOGUE, "One row per spectrum, nothing left out"),
    "stars": (STARS, "One row per star, its spectra combined"),
}
_DESCRIPTION = """Radial velocities, effective temperatures, surface gravities, metallicities, spectral subtypes and
H-alpha emission of M dwarfs, measured on low-resolution spectra with synthetic spectra brought to the observed domain.
Every spectrum of the survey has a row; in_final_catalogue marks those that pass all cuts, and bit masks say why others
do not."""
_SHOWN = ("creator", "model", "model_training_data", "catalogue_creator")


def paper_table(columns: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the columns of the paper's Table 1 for the spectra in the final catalogue; null numbers are -9999.

    Errors are the paper's (eq. 8). A star that is variable and binary has VBFlag 1, and 0 if nothing is known.

    Args:
        columns: of `CATALOGUE`, ``(row,)``: those with a name in the paper, and in_final_catalogue.

    Example:
        >>> table = {c.name: np.array([c.null] * 2) for c in CATALOGUE if c.paper_name}
        >>> paper = paper_table(table | {"in_final_catalogue": np.array([True, False])})
        >>> list(paper)[:3], paper["Teff"], paper["VBFlag"]
        (['ID', 'obsid', 'RA'], array([-9999.]), array([0], dtype=int32))
    """
    ours = {column.paper_name: column.name for column in CATALOGUE if column.paper_name}
    kept = np.asarray(columns["in_final_catalogue"], dtype=bool)
    table = {}
    for column in PAPER:
        values = columns[ours[column.name]][kept]
        if column.dtype.startswith("float"):
            values = np.where(np.isnan(values), INT_NULL, values).astype(values.dtype)
        table[column.name] = values
    flags = paper_vb_flag(table["VBFlag"])
    return table | {"VBFlag": np.where(flags == INT_NULL, 0, flags).astype(np.int32)}


def write_catalogue(folder: str | Path, *, formats: Sequence[Format] = ("fits",), paper: bool = False) -> list[Path]:
    """Write a catalogue that `build_catalogue` made in further formats, beside its Parquet tables, and a README.

    ``cds`` is fixed-width text with a ReadMe, as the CDS takes it; ``hats`` are folders ``hats/spectra`` and
    ``hats/stars`` of Parquet in HEALPix pixels, for LSDB (`stargap.tables.hats`). Tables are read and written part by
    part, but for ``hats``, which holds one in memory.

    Args:
        folder: that of the catalogue.
        formats: what to write.
        paper: write the paper's Table 1 instead, ``table1`` in each of the formats but ``cds`` and ``hats``.

    Returns:
        the files written.

    Raises:
        UsageError: the folder holds no catalogue, or a format is unknown.

    Example:
        >>> from stargap.tables.parquet import write_parts
        >>> folder = getfixture("tmp_path")
        >>> write_parts([], folder / "spectra.parquet", schema=CATALOGUE, provenance={"creator": "stargap 0.1.0"})
        >>> write_parts([], folder / "stars.parquet", schema=STARS, provenance={"creator": "stargap 0.1.0"})
        >>> [path.name for path in write_catalogue(folder, formats=["vot", "cds"])]
        ['spectra.vot', 'stars.vot', 'spectra.dat', 'stars.dat', 'ReadMe', 'README.md']
        >>> [path.name for path in write_catalogue(folder, formats=["csv"], paper=True)]
        ['table1.csv', 'README.md']
    """
    folder = Path(folder)
    known = Format.__args__  # type: ignore[attr-defined]
    unknown = [name for name in formats if name not in known]
    if unknown:
        message = f"unknown format {unknown[0]!r}: choose among {', '.join(known)}"
        raise UsageError(message)
    lacking = [name for name in _TABLES if not (folder / f"{name}.parquet").exists()]
    if lacking:
        message = f"{folder}: holds no {lacking[0]}.parquet; build the catalogue first"
        raise UsageError(message)
    provenance = provenance_of(folder / "spectra.parquet")
    about = read_settings_as(
        CatalogueSettings,
        json.loads(provenance.get("catalogue_settings", "{}")),
        where=f"{folder}: was made by another version of stargap",
    )
    written: list[Path] = []
    if paper:
        for suffix in (name for name in formats if name not in _FOLDERS):
            written.append(folder / f"table1.{suffix}")
            parts = partial(_paper_parts, folder / "spectra.parquet")
            write_long_table(parts, written[-1], schema=PAPER, provenance=provenance)
    else:
        for suffix in (name for name in formats if name not in _FOLDERS):
            for name, (schema, _) in _TABLES.items():
                written.append(folder / f"{name}.{suffix}")
                parts = partial(read_parts, folder / f"{name}.parquet", rows=_ROWS)
                write_long_table(parts, written[-1], schema=schema, provenance=provenance)
        if "cds" in formats:
            written += _write_cds(folder, about, provenance)
        if "hats" in formats:
            written += [write_hats(folder / f"{name}.parquet", folder / "hats" / name) for name in _TABLES]
    written.append(folder / "README.md")
    with replacing(written[-1]) as file:
        file.write(_readme(folder, about, provenance).encode())
    return written


def _paper_parts(table: Path, names: Sequence[str]) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield columns of the paper's Table 1 part by part."""
    needed = [column.name for column in CATALOGUE if column.paper_name]
    for part in read_parts(table, [*needed, "in_final_catalogue"], rows=_ROWS):
        paper = paper_table(part)
        yield {name: paper[name] for name in names}


def _write_cds(folder: Path, about: CatalogueSettings, provenance: Mapping[str, str]) -> list[Path]:
    tables = [
        write_fixed_width(folder / f"{name}.parquet", folder / f"{name}.dat", schema=schema, about=about_table)
        for name, (schema, about_table) in _TABLES.items()
    ]
    shown = {name: provenance[name] for name in _SHOWN if name in provenance}
    shown |= {"licence": about.licence, "please cite": about.citation or "the survey, Gaia and this catalogue"}
    text = cds_readme(tables, title=about.title, authors=about.authors, description=_DESCRIPTION, provenance=shown)
    with replacing(folder / "ReadMe") as file:
        file.write(text.encode("ascii"))
    return [*(table.path for table in tables), folder / "ReadMe"]


def _readme(folder: Path, about: CatalogueSettings, provenance: Mapping[str, str]) -> str:
    lines = [f"# {about.title}", "", *([about.authors, ""] if about.authors else []), _DESCRIPTION.replace("\n", " ")]
    lines += ["", "## Files", "", "| file | rows | content |", "|---|---:|---|"]
    for name, (_, about_table) in _TABLES.items():
        with open_parquet(folder / f"{name}.parquet") as file:
            rows = file.metadata.num_rows
        lines.append(f"| `{name}.*` | {rows:,} | {about_table} |")
    lines += [
        "",
        "Each table is there as Parquet, and in the chosen formats, with the same columns; units, UCDs",
        "and descriptions are in the files. `table1.*`, if present, is the final catalogue with the columns of Table 1",
        "of the paper. Null numbers are NaN in floats and -9999 in integers; in `table1.*` they are -9999 in both.",
        "",
        "## Licence and citation",
        "",
        f"Licence: {about.licence or 'none given'}.",
        "",
        about.citation or "Please cite the survey that took the spectra, Gaia DR3, and this catalogue.",
        "",
        "## Provenance",
        "",
        *(f"* {name}: `{ascii_text(value)}`" for name, value in provenance.items()),
    ]
    cuts = folder / "cuts.md"
    if cuts.exists():
        lines += ["", "## Cuts", "", cuts.read_text(encoding="utf-8").rstrip()]
    return "\n".join([*lines, ""])
