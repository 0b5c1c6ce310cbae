"""The one place where an output column has its name, dtype, unit, UCD, description, null and valid range."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.errors import UsageError

__all__ = ["INT_NULL", "MEASURED", "SURVEY", "Column", "columns_table", "conform", "validate"]

INT_NULL = -9999
"""The null of every integer column."""

_INF = float("inf")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Column:
    """One column of a product.

    Args:
        name: letters, digits and underscores.
        dtype: ``int64``, ``int32``, ``float64``, ``float32``, ``bool`` or ``str``.
        unit: in the FITS standard's spelling; empty where there is none (dex is no unit of that standard).
        ucd: IVOA UCD1+.
        description: one ASCII line without a full stop.
        valid_range: lowest and highest value that is not a mistake, both included; an end can be infinite.

    Raises:
        ValueError: the name holds another character, or the dtype is none of these.

    Example:
        >>> Column("teff", "float32", "K", "phys.temperature.effective", "Effective temperature").null
        nan
        >>> Column("fiber", "int32").null
        -9999
    """

    name: str
    dtype: Literal["int64", "int32", "float64", "float32", "bool", "str"]
    unit: str = ""
    ucd: str = ""
    description: str = ""
    valid_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", self.name):
            message = f"column name {self.name!r} must be a letter, then letters, digits and underscores"
            raise ValueError(message)
        if self.dtype not in ("int64", "int32", "float64", "float32", "bool", "str"):
            message = f"column {self.name}: unknown dtype {self.dtype!r}"
            raise ValueError(message)

    @property
    def null(self) -> int | float | str | None:
        """-9999 for integers, NaN for floats, ``""`` for text; None for bool, which has no null."""
        if self.dtype == "bool":
            return None
        if self.dtype == "str":
            return ""
        return INT_NULL if self.dtype.startswith("int") else float("nan")

    def is_null(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Return where values ``(row,)`` of this column's dtype are null; a mask counts as null."""
        mask = np.ma.getmaskarray(values)
        plain = np.ma.getdata(values)
        if self.dtype == "bool" or plain.size == 0:
            return mask
        if self.dtype.startswith("float"):
            return mask | np.isnan(plain)
        return mask | (plain == self.null)


def _pair(
    name: str, unit: str, ucd: str, description: str, valid_range: tuple[float, float] | None = None
) -> tuple[Column, Column]:
    value = Column(name, "float32", unit, ucd, description, valid_range)
    return value, Column(f"e_{name}", "float32", unit, f"stat.error;{ucd}", f"1-sigma error of {name}", (0, _INF))


_RATIO = "phot.flux.density;arith.ratio"

MEASURED: tuple[Column, ...] = (
    Column("spectrum_id", "int64", "", "meta.id;meta.main", "Row number given at ingest; joins all tables"),
    Column("path", "str", "", "meta.id;meta.file", "File that the spectrum was read from"),
    Column("obsid", "int64", "", "meta.id;obs", "Observation identifier of the survey; can repeat"),
    Column("designation", "str", "", "meta.id;src", "Designation of the target in the header"),
    Column("ra", "float64", "deg", "pos.eq.ra;meta.main", "Right ascension, ICRS", (0, 360)),
    Column("dec", "float64", "deg", "pos.eq.dec;meta.main", "Declination, ICRS", (-90, 90)),
    Column("snr_r", "float32", "", "stat.snr;em.opt.R", "Median S/N per pixel in r", (-100, 1e6)),
    Column("snr_i", "float32", "", "stat.snr;em.opt.I", "Median S/N per pixel in i", (-100, 1e6)),
    Column("subclass", "str", "", "src.spType", "Spectral class given by the survey's pipeline"),
    *_pair("rv", "km/s", "spect.dopplerVeloc.opt", "Heliocentric radial velocity", (-2000, 2000)),
    *_pair("teff", "K", "phys.temperature.effective", "Effective temperature", (2000, 7000)),
    *_pair("logg", "", "phys.gravity", "Surface gravity log g in dex, [log(cm s-2)]", (2, 7)),
    *_pair("m_h", "", "phys.abund.Z", "Metallicity [M/H] in dex", (-5, 2)),
    *_pair("a_m", "", "phys.abund", "Alpha enhancement [a/M] in dex", (-1, 2)),
    Column("chi2", "float64", "", "stat.fit.chi2", "Reduced chi-square of the label fit", (0, _INF)),
    *_pair("spt", "", "src.spType", "Numeric subtype from TiO5: -2 = K5, -1 = K7, 0 to 7 = M0 to M7", (-250, 250)),
    *_pair("tio5", "", _RATIO, "TiO5 band index", (-20, 20)),
    *_pair("cah2", "", _RATIO, "CaH2 band index", (-20, 20)),
    *_pair("cah3", "", _RATIO, "CaH3 band index", (-20, 20)),
    *_pair("zeta", "", "spect.line.strength;arith.ratio", "Metallicity index zeta(TiO5, CaH2 + CaH3)"),
    *_pair(
        "halpha_ew",
        "Angstrom",
        "spect.line.eqWidth;em.opt.R",
        "H-alpha equivalent width, positive in emission",
        (-100, 1000),
    ),
    Column(
        "activity",
        "int32",
        "",
        "meta.code.class;spect.line.eqWidth",
        "1 if halpha_ew > 0.75 Angstrom, else 0",
        (0, 1),
    ),
    Column(
        "activity_3sigma",
        "int32",
        "",
        "meta.code.class;spect.line.eqWidth",
        "1 if halpha_ew - 3 e_halpha_ew > 0.75 Angstrom, else 0",
        (0, 1),
    ),
    Column("snr_source", "str", "", "meta.code", "Where the S/N comes from: header or ivar"),
    Column("layout", "str", "", "meta.code", "Structure of the file, such as lamost-image"),
    Column("release", "str", "", "meta.version;meta.dataset", "Data release named by the file"),
    Column("plan_id", "str", "", "meta.id;obs.field", "Observing plan or plate"),
    Column("lmjd", "int64", "d", "time.epoch;obs", "Local modified Julian day of the night", (40000, 100000)),
    Column("spectrograph", "int32", "", "meta.id;instr", "Spectrograph number", (1, 16)),
    Column("fiber", "int32", "", "meta.id;instr", "Fibre number", (1, 1000)),
    Column("date_obs", "str", "", "time.start;obs.exposure", "Start of the observation, as in the header"),
    Column("exposure", "float32", "s", "time.duration;obs.exposure", "Total exposure time", (0, 1e6)),
    Column("bad_fraction", "float32", "", "stat.value;instr.pixel", "Fraction of bad fitted pixels", (0, 1)),
    Column("flags", "int64", "", "meta.code.qual", "Bit mask of quality flags; flag_text spells them out"),
    Column("flag_text", "str", "", "meta.note", "The flags that are set, in words"),
    Column("failure", "str", "", "meta.note", "Why the file could not be read; empty if it could"),
)
"""The columns that ``stargap measure`` writes, in order."""


SURVEY: tuple[Column, ...] = (
    *MEASURED,
    Column("in_sample", "bool", "", "meta.code", "Whether the spectrum passes the cuts of the sample"),
    Column("sample_flags", "int64", "", "meta.code.qual", "Bit mask of the cuts of the sample"),
    Column("gaia_source_id", "int64", "", "meta.id;src", "Gaia DR3 source identifier"),
    Column("gaia_separation", "float32", "arcsec", "pos.angDistance", "Distance to the Gaia source", (0, _INF)),
    Column("parallax", "float64", "mas", "pos.parallax.trig", "Gaia parallax"),
    Column("e_parallax", "float32", "mas", "stat.error;pos.parallax.trig", "1-sigma error of parallax", (0, _INF)),
    Column("ruwe", "float32", "", "stat.error", "Gaia renormalised unit weight error", (0, _INF)),
    Column("g_mag", "float32", "mag", "phot.mag;em.opt", "Gaia G magnitude", (-5, 30)),
    Column("bp_mag", "float32", "mag", "phot.mag;em.opt.B", "Gaia BP magnitude", (-5, 30)),
    Column("rp_mag", "float32", "mag", "phot.mag;em.opt.R", "Gaia RP magnitude", (-5, 30)),
    Column("bp_rp", "float32", "mag", "phot.color;em.opt.B;em.opt.R", "Gaia colour BP - RP", (-10, 20)),
    Column("m_g", "float32", "mag", "phot.mag;phys.magAbs", "Absolute G magnitude from the parallax", (-20, 30)),
    Column("pmra", "float64", "mas/yr", "pos.pm;pos.eq.ra", "Gaia proper motion in right ascension times cos(dec)"),
    Column("pmdec", "float64", "mas/yr", "pos.pm;pos.eq.dec", "Gaia proper motion in declination"),
    Column("cluster", "int64", "", "meta.id", "Cluster of the cleaning that the spectrum belongs to"),
    Column("clean_flags", "int64", "", "meta.code.qual", "Bit mask of the cleaning: why it rejects the spectrum"),
)
"""The columns of a survey run's table, one row a spectrum, in order."""


def columns_table(schema: Sequence[Column] = MEASURED) -> str:
    """Return the schema as a Markdown table, one line a column; the documentation is made from it.

    Example:
        >>> print(columns_table([Column("snr_r", "float32", "", "stat.snr;em.opt.R", "S/N in r", (0, 1e6))]))
        | name | type | unit | UCD | description | null | valid range |
        |---|---|---|---|---|---|---|
        | `snr_r` | float32 |  | `stat.snr;em.opt.R` | S/N in r | NaN | 0 to 1e+06 |
    """
    lines = ["| name | type | unit | UCD | description | null | valid range |", "|---" * 7 + "|"]
    for column in schema:
        null = {"": "empty", "nan": "NaN", "None": ""}.get(str(column.null), str(column.null))
        low, high = column.valid_range or (-_INF, _INF)
        bounds = "" if column.valid_range is None else f"{low:g} to {high:g}" if high < _INF else f"{low:g} or more"
        about = column.description.replace("|", r"\|")
        cells = (f"`{column.name}`", column.dtype, column.unit, f"`{column.ucd}`", about, null, bounds)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def conform(columns: Mapping[str, ArrayLike], *, schema: Sequence[Column] = MEASURED) -> dict[str, NDArray[Any]]:
    """Return the columns in the schema's order and dtypes, nulls as the schema's null values.

    Integers come from integers or booleans only, so that no identifier passes through a float. None and
    masked entries become the null. A float too large for float32 becomes infinite. In text, control
    characters and undecodable bytes of file names become backslash escapes: no table format carries them.

    Args:
        columns: one array ``(row,)`` a column; bool, int, float or text, None allowed in lists.

    Raises:
        UsageError: columns are missing, unknown, of unequal lengths, or do not fit their dtype without loss.

    Example:
        >>> schema = (Column("obsid", "int64"), Column("rv", "float32", "km/s"), Column("release", "str"))
        >>> columns = {"release": ["dr10", None], "rv": [1.5, None], "obsid": [None, 2**62]}
        >>> table = conform(columns, schema=schema)
        >>> table["obsid"], table["rv"].tolist(), table["release"].tolist()
        (array([ -9999, 4611686018427387904]), [1.5, nan], ['dr10', ''])
    """
    problems = _name_problems(columns, schema)
    if problems:
        message = "; ".join(problems)
        raise UsageError(message)
    table = {column.name: _conform_one(column, columns[column.name]) for column in schema}
    problems = _length_problems(table)
    if problems:
        raise UsageError(problems[0])
    return table


def validate(table: Mapping[str, ArrayLike], *, schema: Sequence[Column] = MEASURED) -> list[str]:
    """Return one sentence for each way in which a table ``{name: (row,)}`` breaks the schema; empty if none.

    It checks names, lengths, exact dtypes, valid ranges, infinities, and that ``spectrum_id`` is set and
    unique. For an astropy table give ``table.columns``.

    Example:
        >>> schema = (Column("spectrum_id", "int64"), Column("teff", "float32", valid_range=(2000, 7000)))
        >>> teff = np.array([3100, 9999, np.nan], dtype=np.float32)
        >>> validate({"spectrum_id": np.array([1, 2, 2]), "teff": teff}, schema=schema)
        ['spectrum_id: 1 of 3 values repeat, such as 2', 'teff: 1 of 3 values outside 2000 to 7000, ...']
        >>> validate({"spectrum_id": np.arange(3)}, schema=schema)
        ["columns missing: 'teff'"]
    """
    problems = _name_problems(table, schema)
    arrays: dict[str, NDArray[Any]] = {
        column.name: np.ma.asanyarray(table[column.name]) for column in schema if column.name in table
    }
    problems += _length_problems(arrays)
    for column in schema:
        values = arrays.get(column.name)
        if values is None:
            continue
        if not _has_dtype(column, values):
            problems.append(f"{column.name}: dtype {values.dtype}, expected {column.dtype}")
            continue
        if column.name == "spectrum_id":
            problems += _identity_problems(column, values)
        if column.dtype not in ("bool", "str"):
            problems += _range_problems(column, values)
    return problems


def _name_problems(columns: Mapping[str, ArrayLike], schema: Sequence[Column]) -> list[str]:
    names = [column.name for column in schema]
    missing = ", ".join(repr(name) for name in names if name not in columns)
    extra = ", ".join(repr(name) for name in columns if name not in names)
    return [f"columns {what}: {which}" for what, which in (("missing", missing), ("unknown", extra)) if which]


def _length_problems(arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    lengths: dict[int, str] = {}
    for name, values in arrays.items():
        lengths.setdefault(values.size, name)
    if len(lengths) < 2:
        return []
    return ["columns differ in length: " + ", ".join(f"{name} has {n} rows" for n, name in lengths.items())]


def _has_dtype(column: Column, values: NDArray[Any]) -> bool:
    if column.dtype != "str":
        return values.dtype.newbyteorder("=") == np.dtype(column.dtype)
    if values.dtype.kind == "O":
        return all(isinstance(value, str) for value in np.ma.getdata(values)[~np.ma.getmaskarray(values)])
    return values.dtype.kind in "US"


def _identity_problems(column: Column, values: NDArray[Any]) -> list[str]:
    null = column.is_null(values)
    problems = [f"spectrum_id: {null.sum()} of {len(values)} values are null"] if null.any() else []
    ids, counts = np.unique(np.ma.getdata(values)[~null], return_counts=True)
    if (counts > 1).any():
        repeats = int((counts - 1).sum())
        problems.append(f"spectrum_id: {repeats} of {len(values)} values repeat, such as {ids[counts > 1][0]}")
    return problems


def _range_problems(column: Column, values: NDArray[Any]) -> list[str]:
    low, high = column.valid_range or (-_INF, _INF)
    plain = np.ma.getdata(values)
    outside = ~column.is_null(values) & ((plain < low) | (plain > high) | np.isinf(plain))
    if not outside.any():
        return []
    row = int(outside.argmax())
    what = "are infinite" if np.isinf(plain[outside]).all() else f"outside {low:g} to {high:g}"
    return [f"{column.name}: {outside.sum()} of {len(plain)} values {what}, first in row {row}: {plain[row]}"]


def _conform_one(column: Column, values: ArrayLike) -> NDArray[Any]:
    if isinstance(values, np.ndarray):
        array = values
    else:
        array = np.asarray(values, dtype=object if column.dtype == "str" else None)
    if array.ndim != 1:
        message = f"column {column.name!r}: one value a row expected, got an array of shape {array.shape}"
        raise UsageError(message)
    if array.size == 0:
        return np.empty(0, dtype=object if column.dtype == "str" else column.dtype)
    null = np.ma.getmaskarray(array)
    array = np.ma.getdata(array)
    if array.dtype.kind == "O":
        null = null | np.fromiter((value is None for value in array), bool, array.size)
    if column.dtype == "str":
        return _text(column, array, null)
    if column.dtype.startswith("float"):
        return _floats(column, array, null)
    return _whole(column, array, null)


def _floats(column: Column, array: NDArray[Any], null: NDArray[np.bool_]) -> NDArray[Any]:
    if array.dtype.kind not in "fiuO":
        raise _misfit(column, f"holds {array.dtype}")
    try:
        with np.errstate(over="ignore"):
            result = array.astype(column.dtype, copy=bool(null.any()))
    except (TypeError, ValueError) as error:
        raise _misfit(column, str(error)) from error
    if null.any():
        result[null] = np.nan
    return result


def _whole(column: Column, array: NDArray[Any], null: NDArray[np.bool_]) -> NDArray[Any]:
    target = np.dtype(column.dtype)
    if column.null is None and null.any():
        raise _misfit(column, f"{null.sum()} null values, and a bool column has no null; make it int32")
    kept = array[~null] if null.any() else array
    kinds = "b" if target.kind == "b" else "iub"
    types = (bool, np.bool_) if target.kind == "b" else (int, np.integer, np.bool_)
    if array.dtype.kind == "O":
        wrong = [value for value in kept if not isinstance(value, types)]
    else:
        wrong = [] if array.dtype.kind in kinds else kept[:1].tolist()
    if wrong:
        raise _misfit(column, f"holds {type(wrong[0]).__name__} {wrong[0]!r}")
    if target.kind == "i" and kept.size:
        limits = np.iinfo(target)
        for value in (int(kept.min()), int(kept.max())):
            if not limits.min <= value <= limits.max:
                raise _misfit(column, f"{value} does not fit")
    result = np.full(array.shape, column.null if target.kind == "i" else False, dtype=target)
    result[~null] = kept.astype(target)
    return result


def _text(column: Column, array: NDArray[Any], null: NDArray[np.bool_]) -> NDArray[Any]:
    if array.dtype.kind not in "SUO":
        raise _misfit(column, f"holds {array.dtype}")
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "backslashreplace")
    if null.any():
        array = np.where(null, "", array.astype(object))
    try:
        unprintable = _UNPRINTABLE.search("".join(array.tolist()))
    except TypeError as error:
        raise _misfit(column, str(error)) from error
    if unprintable:
        clean = [_UNPRINTABLE.sub(lambda match: _escaped(match.group()), cell) for cell in array.tolist()]
        array = np.array(clean, dtype=object)
    return array


def _escaped(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii")


def _misfit(column: Column, reason: str) -> UsageError:
    null = "" if column.null is None else f", with {column.null!r} or None where there is no value"
    return UsageError(f"column {column.name!r}: {reason}; give {column.dtype}{null}")
