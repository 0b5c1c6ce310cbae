"""Polynomials in several variables, and their derivatives, that keep their value beyond a range."""

from __future__ import annotations

import torch
from torch import Tensor

from stargap.arrays import Exponents, Terms, TermSlopes, Variables

__all__ = ["clamp_to_range", "monomial_slopes", "monomials"]


def clamp_to_range(values: Variables, low: Tensor, high: Tensor) -> tuple[Variables, Tensor]:
    """Return `values` clamped to a range, and where they are inside it; elsewhere a polynomial of them has slope 0.

    Args:
        values: variables, ``(row, variable)``.
        low: least value of each variable.
        high: largest value of each.

    Returns:
        the clamped values, and True where they did not change and are not at an end, ``(row, variable)`` each.

    Example:
        >>> ends = torch.tensor([0.0]), torch.tensor([1.0])
        >>> clamp_to_range(torch.tensor([[0.5], [2.0]]), *ends)
        (tensor([[0.5000],
                [1.0000]]), tensor([[ True],
                [False]]))
    """
    return values.clamp(low, high), (values > low) & (values < high)


def monomials(x: Variables, exponents: Exponents) -> Terms:
    """Return prod_k x_k^e_k for every row of `x` and every row e of `exponents`, ``(row, term)``.

    Example:
        >>> monomials(torch.tensor([[2.0, 3.0]]), torch.tensor([[0, 0], [1, 0], [1, 2]]))
        tensor([[ 1.,  2., 18.]])
    """
    return torch.prod(x[:, None] ** exponents, dim=2)


def monomial_slopes(x: Variables, exponents: Exponents) -> TermSlopes:
    """Return the derivatives of `monomials` with respect to every variable, ``(row, term, variable)``.

    Example:
        >>> monomial_slopes(torch.tensor([[2.0, 3.0]]), torch.tensor([[0, 0], [1, 0], [1, 2]]))
        tensor([[[ 0.,  0.],
                 [ 1.,  0.],
                 [ 9., 12.]]])
    """
    lowered = (exponents[:, None] - torch.eye(x.shape[1], dtype=exponents.dtype)).clamp_min(0)
    return exponents * torch.prod(x[:, None, None] ** lowered, dim=3)
