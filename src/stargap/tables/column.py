"""One column of a product: its name, dtype, unit, UCD, description, null and valid range."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["INT_NULL", "Column", "with_error"]

INT_NULL = -9999
"""The null of every integer column."""


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
        paper_name: in Table 1 of the paper; the only other name a column can have.
        decimals: of a float in fixed-width text.

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
    paper_name: str = ""
    decimals: int = 3

    def __post_init__(self) -> None:
        if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", self.name) and (not self.name or self.name != self.paper_name):
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
            return np.asarray(mask | np.isnan(plain))
        return np.asarray(mask | (plain == self.null))


def with_error(
    name: str,
    unit: str,
    ucd: str,
    description: str,
    valid_range: tuple[float, float] | None = None,
    paper_name: str = "",
    decimals: int = 3,
) -> tuple[Column, Column]:
    """Return the column of a quantity, and that of its error, which stands right after it.

    Example:
        >>> [column.name for column in with_error("teff", "K", "phys.temperature.effective", "Effective temperature")]
        ['teff', 'e_teff']
    """
    value = Column(name, "float32", unit, ucd, description, valid_range, paper_name, decimals)
    error = f"1-sigma error of {name}"
    return value, Column(f"e_{name}", "float32", unit, f"stat.error;{ucd}", error, (0, float("inf")), decimals=decimals)
