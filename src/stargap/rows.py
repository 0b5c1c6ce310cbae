"""Names for columns of tables: each gives the shape and the kind of number, and tests check both (jaxtyping).

They are apart from `stargap.arrays` so that reading a table loads no torch. ``row`` is one row per row of a table.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Shaped

__all__ = ["AnyColumn", "BoolColumn", "FloatColumn", "IntColumn", "LabelArray", "RowNumbersArray"]

AnyColumn = Shaped[np.ndarray, " row"]
"""One column of a table."""
FloatColumn = Float[np.ndarray, " row"]
"""A column of floats, NaN where null."""
IntColumn = Int64[np.ndarray, " row"]
"""A column of int64, -9999 where null."""
BoolColumn = Bool[np.ndarray, " row"]
"""A column of truth values."""
LabelArray = Float64[np.ndarray, "row label"]
"""Labels in the order of ``LABELS``: K, dex, dex, dex."""
RowNumbersArray = Int64[np.ndarray, " row"]
"""Row numbers, in any order."""
