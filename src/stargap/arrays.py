"""Names for arrays and tensors: each gives the shape and the kind of number, and tests check both (jaxtyping).

Dimensions are ``star`` (one row per star or spectrum of a batch), ``pixel`` (the rest-frame grid that fits use),
``support`` (that grid with its margins), ``native`` (the log-lambda grid of the survey), ``label`` (Teff, log g,
[M/H], [a/M]), ``parameter`` (the free labels of a fit) and ``row`` (one row per row of a table).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor

__all__ = [
    "AnyColumn",
    "BoolColumn",
    "FloatColumn",
    "IntColumn",
    "Jacobians",
    "LabelArray",
    "Labels",
    "LabelsAndDirections",
    "NativeSpectra",
    "ParameterValues",
    "PerPixel",
    "PerStar",
    "PixelMask",
    "Spectra",
    "StarFlags",
    "StarRows",
    "SupportSpectra",
]

# torch: what fits and networks work on
Spectra = Float[Tensor, "star pixel"]
"""Normalised spectra, or their errors, on the rest-frame grid."""
SupportSpectra = Float[Tensor, "star support"]
"""Spectra on the rest-frame grid with its margins, before normalisation."""
NativeSpectra = Float[Tensor, "star native"]
"""Spectra on the log-lambda grid of the survey."""
PixelMask = Bool[Tensor, "star pixel"]
"""True at the pixels that a fit uses."""
PerPixel = Float[Tensor, " pixel"]
"""One number per pixel, the same for all stars."""
PerStar = Float[Tensor, " star"]
"""One number per star."""
StarFlags = Int64[Tensor, " star"]
"""Bit flags of each star."""
StarRows = Int64[Tensor, " star"]
"""Which prepared spectrum each row belongs to."""
Labels = Float64[Tensor, "star label"]
"""Labels in the order of ``LABELS``: K, dex, dex, dex."""
ParameterValues = Float64[Tensor, "star parameter"]
"""Values of the free labels of a fit."""
LabelsAndDirections = Float64[Tensor, "star parameter label"]
"""Derivatives of the labels with respect to the free parameters."""
Jacobians = Float[Tensor, "star parameter pixel"]
"""Derivatives of spectra with respect to the free parameters."""

# numpy: what tables are made of
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
