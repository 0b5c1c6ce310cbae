"""What files say of their spectra, as columns of the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stargap.spectra.spectrum import Facts
from stargap.tables.columns import INT_NULL, MEASURED

__all__ = ["fact_columns"]


def fact_columns(facts: Sequence[Facts]) -> dict[str, NDArray[np.generic]]:
    """Return the columns of ``MEASURED`` that are facts, ``(row,)``; null where a file does not say.

    Example:
        >>> columns = fact_columns([Facts(path="a.fits", obsid=7), Facts(path="b.fits")])
        >>> columns["path"].tolist(), columns["obsid"].tolist(), columns["ra"].tolist()
        (['a.fits', 'b.fits'], [7, -9999], [nan, nan])
    """
    known = [column for column in MEASURED if column.name in Facts.__dataclass_fields__]
    return {column.name: _column(column.dtype, [getattr(fact, column.name) for fact in facts]) for column in known}


def _column(dtype: str, values: list[Any]) -> NDArray[np.generic]:
    if dtype == "str":
        return np.array(["" if value is None else value for value in values], dtype=object)
    if dtype.startswith("int"):
        return np.array([INT_NULL if value is None else value for value in values], dtype=np.int64)
    return np.array([np.nan if value is None else value for value in values], dtype=float)
