"""Names for columns of tables: each gives the shape and the kind of number, and tests check both (jaxtyping).

They are apart from `stargap.arrays` so that reading a table loads no torch. ``row`` is one row per row of a table.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Shaped

__all__ = [
    "AnyColumn",
    "AnyFloats",
    "BandCovariance",
    "BoolColumn",
    "ComponentTerms",
    "FloatColumn",
    "IntColumn",
    "LabelArray",
    "LabelCovariances",
    "LabelDraws",
    "LabelRanges",
    "MagnitudeSlopes",
    "Magnitudes",
    "MappedLabels",
    "PixelMaskRows",
    "PixelRows",
    "RowNumbersArray",
    "SomeRowNumbers",
    "TermColumns",
    "TwoByTwo",
    "TwoLabels",
]

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
MappedLabels = Float64[np.ndarray, "row 3"]
"""Teff (K), log g and [M/H] (dex)."""
TwoLabels = Float64[np.ndarray, "row 2"]
"""Teff (K) and [M/H] (dex)."""
LabelCovariances = Float64[np.ndarray, "row 3 3"]
"""Covariances of Teff, log g and [M/H] of each row."""
LabelDraws = Float64[np.ndarray, "draw label"]
"""Labels drawn from the prior, in the order of ``LABELS``."""
RowNumbersArray = Int64[np.ndarray, " row"]
"""Row numbers, in any order."""
SomeRowNumbers = Int64[np.ndarray, " some"]
"""Numbers of some of the rows."""
LabelRanges = Float64[np.ndarray, "source 2 3"]
"""Lowest and highest Teff, log g and [M/H] of each source of labels."""
TermColumns = Float64[np.ndarray, "row term"]
"""Terms of a polynomial at each row."""
PixelRows = Float[np.ndarray, "row pixel"]
"""Numbers at every pixel of some spectra."""
PixelMaskRows = Bool[np.ndarray, "row pixel"]
"""Truth values at every pixel of some spectra."""

AnyFloats = Float64[np.ndarray, "..."]
"""Numbers of any shape."""
TwoByTwo = Float64[np.ndarray, "*batch 2 2"]
"""Matrices of Teff and [M/H]."""
ComponentTerms = Float64[np.ndarray, "row component"]
"""A number for each kind of star, single or a pair, of each row."""
Magnitudes = Float64[np.ndarray, "row 6"]
"""Magnitudes in four bands, log g and what else `stargap.photometry.surface` has of a star."""
MagnitudeSlopes = Float64[np.ndarray, "row 6 2"]
"""Their slopes in Teff and [M/H]."""
BandCovariance = Float64[np.ndarray, "band band"]
"""Covariance of magnitudes or colours."""
