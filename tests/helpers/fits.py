"""Fits in two domains compared bit for bit."""

from __future__ import annotations

from dataclasses import fields

from stargap.fit.domains import DomainFit
from stargap.fit.labels import LabelFit

__all__ = ["arrays", "differing"]


def arrays(fit):
    """Every array of a two-domain fit by name."""
    own = {f.name: getattr(fit, f.name) for f in fields(DomainFit) if f.name not in ("synthetic", "observed")}
    for domain in ("synthetic", "observed"):
        own |= {f"{domain}.{f.name}": getattr(getattr(fit, domain), f.name) for f in fields(LabelFit)}
    return own


def differing(one, other, rows=slice(None), other_rows=slice(None)):
    """Names of the arrays that are not the same bits (NaN equals NaN)."""
    pairs = {name: (a[rows], arrays(other)[name][other_rows]) for name, a in arrays(one).items()}
    assert all(a.shape == b.shape for a, b in pairs.values())
    return [name for name, (a, b) in pairs.items() if not ((a == b) | ((a != a) & (b != b))).all()]
