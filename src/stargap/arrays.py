"""Names for arrays and tensors: each gives shape and kind of number (jaxtyping; checked by tests/array_checks.py).

Dimensions are ``star`` (one row per star or spectrum of a batch), ``pixel`` (the rest-frame grid that fits use),
``support`` (that grid with its margins), ``native`` (the log-lambda grid of the survey), ``blue`` (the
native pixels blueward of it that are kept), ``label`` (Teff, log g, [M/H], [a/M]) and ``parameter`` (the free labels
of a fit). Those of tables' columns are in `stargap.rows`.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

__all__ = [
    "BluePixels",
    "Bounds",
    "Coefficients",
    "Exponents",
    "InformationMatrices",
    "Jacobians",
    "LabelDirections",
    "LabelInputs",
    "Labels",
    "LabelsAndDirections",
    "LeftVectors",
    "LogFluxes",
    "NativeJacobians",
    "NativePixels",
    "NativeSpectra",
    "NodeMask",
    "Nodes",
    "NuisanceValues",
    "ParameterValues",
    "ParameterVariances",
    "ParameterVectors",
    "PerPixel",
    "PerStar",
    "PixelMask",
    "PriorSlopes",
    "PriorTerms",
    "ProblemParameters",
    "Products",
    "RightSides",
    "RightVectors",
    "RowNumbers",
    "Samples",
    "Spectra",
    "SomeRows",
    "SquareMatrices",
    "StarFlags",
    "StarMask",
    "StarRows",
    "StellarLabels",
    "SupportSpectra",
    "SupportTangents",
    "TermSlopes",
    "Terms",
    "UniformSamples",
    "Variables",
]

# torch: what fits and networks work on
Spectra = Float[Tensor, "star pixel"]
"""Normalised spectra, or their errors, on the rest-frame grid."""
SupportSpectra = Float[Tensor, "star support"]
"""Spectra on the rest-frame grid with its margins, before normalisation."""
NativeSpectra = Float[Tensor, "star native"]
"""Spectra on the log-lambda grid of the survey."""
BluePixels = Float[Tensor, "star blue"]
"""The same on the native pixels blueward of it that are kept."""
NativePixels = Int64[Tensor, "star support"]
"""Numbers of native pixels, one per pixel of the rest-frame grid with its margins."""
PixelMask = Bool[Tensor, "star pixel"]
"""True at the pixels that a fit uses."""
PerPixel = Float[Tensor, " pixel"]
"""One number per pixel, the same for all stars."""
PerStar = Float[Tensor, " star"]
"""One number per star."""
StarMask = Bool[Tensor, " star"]
"""A truth value of each star."""
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
ParameterVectors = Float[Tensor, "star parameter"]
"""One number per free parameter: gradients, steps, bounds of steps."""
NativeJacobians = Float[Tensor, "star parameter native"]
"""Derivatives with respect to the free parameters, on the log-lambda grid of the survey."""
ParameterVariances = Float[Tensor, " parameter"]
"""One number per parameter, the same for all stars."""
Bounds = Float[Tensor, " parameter"]
"""Lower or upper bounds of the free parameters."""
SquareMatrices = Float[Tensor, "star parameter parameter"]
"""Hessians and covariances of the free parameters."""
StellarLabels = Float64[Tensor, "star 3"]
"""Teff, log g and [M/H] (K, dex, dex)."""
NuisanceValues = Float64[Tensor, "star nuisance"]
"""Nuisance parameters of each star: fitted, not published."""
PriorTerms = Float64[Tensor, "star term"]
"""Departures from a prior in standard deviations."""
PriorSlopes = Float64[Tensor, "star parameter term"]
"""Derivatives of departures from a prior with respect to the free parameters."""
Variables = Float[Tensor, "star variable"]
"""Arguments of a polynomial, scaled."""
Exponents = Int64[Tensor, "term variable"]
"""Exponents of the terms of a polynomial."""
Terms = Float[Tensor, "star term"]
"""Terms of a polynomial."""
TermSlopes = Float[Tensor, "star term variable"]
"""Derivatives of the terms of a polynomial with respect to its variables."""
LeftVectors = Float[Tensor, "star k pixel"]
"""Spectra or derivatives, several per star."""
RightVectors = Float[Tensor, "star l pixel"]
"""Spectra or derivatives, several per star, of another number."""
Products = Float[Tensor, "star k l"]
"""Scalar products of the two."""
ProblemParameters = Float[Tensor, "problem parameter"]
"""Values of the free parameters, one row per problem; several problems can be of one star."""
RowNumbers = Int64[Tensor, " problem"]
"""Positions of problems or rows in a batch."""
SomeRows = Int64[Tensor, " _"]
"""Row numbers, fewer than there are stars."""
Nodes = Float64[Tensor, "node parameter"]
"""Values of the free labels at the nodes of a table."""
NodeMask = Bool[Tensor, "star node"]
"""A truth value of each node for each star."""
RightSides = Float[Tensor, "star parameter *system"]
"""Right-hand sides of systems of equations, one or several of each star."""
InformationMatrices = Float[Tensor, "star parameter+1 parameter+1"]
"""Fisher information of the velocity and the free parameters."""

LabelInputs = Float[Tensor, "star label"]
"""Labels in any precision, in the order of ``LABELS``."""
LabelDirections = Float[Tensor, "star parameter label"]
"""Derivatives of labels with respect to parameters, in any precision."""
SupportTangents = Float[Tensor, "star parameter support"]
"""Derivatives of spectra on the rest-frame grid with its margins."""
UniformSamples = Float[Tensor, "star sample"]
"""Values on a uniform grid."""
Samples = Float[Tensor, "star target"]
"""Values between the samples of a grid."""
LogFluxes = Float64[Tensor, "star support"]
"""ln surface flux (erg/s/cm2/A) of synthetic spectra on the rest-frame grid with its margins."""
Coefficients = Float[Tensor, "star component"]
"""Coefficients of spectra along principal components."""
