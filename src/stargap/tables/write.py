"""Tables on disk as FITS, Parquet, CSV, VOTable or ECSV, complete or not there at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

from numpy.typing import ArrayLike, NDArray

from stargap.errors import UsageError
from stargap.files import replacing
from stargap.tables.columns import MEASURED, Column
from stargap.tables.conform import conform
from stargap.tables.fits import write_fits, write_fits_gz
from stargap.tables.parquet import write_parquet
from stargap.tables.source import Parts
from stargap.tables.text import write_csv, write_ecsv
from stargap.tables.votable import write_votable

__all__ = ["check_folder", "check_output", "write_long_table", "write_table"]

_Provenance = Mapping[str, str]


def check_output(path: str | Path) -> str:
    """Return the suffix that names the format of `path`, or refuse it before any work is done.

    Raises:
        UsageError: the suffix is unknown, the folder does not exist, or `path` is a folder.

    Example:
        >>> check_output("labels.parquet")
        '.parquet'
    """
    path = Path(path)
    suffix = next((suffix for suffix in _WRITERS if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        message = f"cannot write {path.name!r}: its name must end in {', '.join(_WRITERS)}"
        raise UsageError(message)
    check_folder(path)
    return suffix


def check_folder(path: Path) -> None:
    """Refuse a file that could not be written where it is to be.

    Raises:
        UsageError: the folder does not exist or nothing can be written there, or `path` is a folder.
    """
    if not path.parent.is_dir():
        message = f"cannot write {path}: the folder {path.parent} does not exist; create it first"
        raise UsageError(message)
    if not os.access(path.parent, os.W_OK):
        message = f"cannot write {path}: no permission to write in {path.parent}"
        raise UsageError(message)
    if path.is_dir():
        message = f"cannot write {path}: it is a folder; name a file"
        raise UsageError(message)
    try:
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        message = f"cannot write {path}: no file can be made in {path.parent} ({error.strerror})"
        raise UsageError(message) from None


def write_table(
    columns: Mapping[str, ArrayLike],
    path: str | Path,
    *,
    schema: Sequence[Column] = MEASURED,
    provenance: _Provenance,
) -> None:
    r"""Write a table in the format that the file's suffix names, replacing a file of that name.

    The bytes go to a hidden file in the same folder, which takes the final name once it is complete and on
    the disk; on any error nothing is left behind. Equal tables give equal bytes. Values outside the valid
    range are written unchanged: ask :func:`stargap.tables.conform.validate`.

    ============================  ==========================================================================
    ``.fits``, ``.fits.gz``       binary table; TUNIT, TUCD, TCOMM, TNULL, TLMIN and TLMAX of each column,
                                  CHECKSUM and DATASUM; provenance as cards ``PROV1 = 'name = value'``
    ``.parquet``                  unit, ucd and description in the metadata of each field, provenance in that
                                  of the schema, beside an IVOA VOParquet header; integer nulls are nulls
    ``.csv``                      a header line and rows only; nulls are empty; no provenance
    ``.vot``, ``.xml``            VOTable 1.4, TABLEDATA; provenance as INFO
    ``.ecsv``                     astropy's CSV with units, descriptions, and provenance in ``meta``
    ============================  ==========================================================================

    FITS text is ASCII: any other character, a backslash, and a space or ``&`` at the end are written as
    Python escapes, which ``text.encode().decode("unicode_escape")`` undoes. VOTable spells the Angstrom
    ``0.1nm``, as its standard asks.

    Args:
        columns: one array ``(row,)`` per column, as :func:`stargap.tables.conform.conform` takes them.
        path: file to write, in a folder that exists.
        provenance: names and values kept with the table, such as version, settings and model hash.

    Raises:
        UsageError: the suffix is unknown, the folder does not exist, or the columns do not fit the schema.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> schema = (Column("obsid", "int64", "", "meta.id"), Column("rv", "float32", "km/s"))
        >>> temporary = tempfile.TemporaryDirectory()
        >>> folder = Path(temporary.name)
        >>> table = {"obsid": [101, None], "rv": [-12.5, None]}
        >>> write_table(table, folder / "labels.csv", schema=schema, provenance={"version": "0.1.0"})
        >>> print((folder / "labels.csv").read_text())
        obsid,rv
        101,-12.5
        ,
        >>> write_table(table, folder / "labels.xls", schema=schema, provenance={})
        Traceback (most recent call last):
        stargap.errors.UsageError: cannot write 'labels.xls': its name must end in .fits, .fits.gz, ...
        >>> temporary.cleanup()
    """
    suffix = check_output(path)
    arrays = conform(columns, schema=schema)
    with replacing(path) as file:
        _WRITERS[suffix](lambda some: [{one.name: arrays[one.name] for one in some}], schema, provenance, file)


def write_long_table(
    parts: Callable[[Sequence[str]], Iterable[Mapping[str, ArrayLike]]],
    path: str | Path,
    *,
    schema: Sequence[Column],
    provenance: _Provenance,
) -> None:
    """Write a table as `write_table` does, with the same bytes but for Parquet, in the memory of a few parts.

    Args:
        parts: called for columns of the given names from their start, part by part; FITS asks for texts twice.
        path: file to write, in a folder that exists.
        schema: of the table.
        provenance: names and values kept with the table.

    Raises:
        UsageError: see `write_table`.
        OSError: the file cannot be written.
    """

    def conformed(some: Sequence[Column]) -> Iterable[dict[str, NDArray[Any]]]:
        return (conform(part, schema=some) for part in parts([column.name for column in some]))

    suffix = check_output(path)
    with replacing(path) as file:
        _WRITERS[suffix](conformed, schema, provenance, file)


_WRITERS: dict[str, Callable[[Parts, Sequence[Column], _Provenance, BinaryIO], None]] = {
    ".fits": write_fits,
    ".fits.gz": write_fits_gz,
    ".parquet": write_parquet,
    ".csv": write_csv,
    ".vot": write_votable,
    ".xml": write_votable,
    ".ecsv": write_ecsv,
}
