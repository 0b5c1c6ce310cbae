"""The columns of labels from photometry, and of labels from spectrum and photometry together."""

from __future__ import annotations

from itertools import combinations
from typing import Any, Final

from stargap.tables.column import Column, with_error

__all__ = ["JOINT", "PHOTOMETRIC", "PHOTOMETRY"]

_LABELS: Final[dict[str, dict[str, Any]]] = {
    "teff": {"unit": "K", "ucd": "phys.temperature.effective", "valid_range": (2000, 7000), "decimals": 1},
    "logg": {"unit": "", "ucd": "phys.gravity", "valid_range": (2, 7)},
    "m_h": {"unit": "", "ucd": "phys.abund.Z", "valid_range": (-5, 2)},
}


def _label(name: str, what: str, description: str) -> tuple[Column, Column]:
    return with_error(f"{name}_{what}", description=description, **_LABELS[name])


def _correlation(one: str, other: str) -> Column:
    ucds = ";".join(_LABELS[name]["ucd"] for name in (one, other))
    about = f"Correlation of the errors of {one}_phot and {other}_phot"
    return Column(f"corr_{one}_{other}_phot", "float32", "", f"stat.correlation;{ucds}", about, (-1, 1))


def _mark(name: str, what: str) -> Column:
    return Column(f"{name}_joint", "int32", "", "meta.code.qual", f"1 if joint labels are usable{what}; else 0", (0, 1))


PHOTOMETRIC: tuple[Column, ...] = (
    *_label("teff", "phot", "Effective temperature from photometry, scale of Mann et al. 2015"),
    *_label("logg", "phot", "Surface gravity log g in dex from photometry, [log(cm s-2)]"),
    *_label("m_h", "phot", "[M/H] in dex from photometry, scale of Mann et al. 2015"),
    *(_correlation(*names) for names in combinations(_LABELS, 2)),
    Column("p_single", "float32", "", "stat.probability", "Probability of no unresolved companion", (0, 1)),
    *with_error("a_v_phot", "mag", "phys.absorption;em.opt.V", "Extinction A_V taken off magnitudes", (-10, 100)),
    Column(
        "phot_flags", "int64", "", "meta.code.qual", "Bit mask: labels from photometry null, or unsure", (0, 2**32 - 1)
    ),
)
"""Labels from photometry alone, by `stargap photometry` and in every run."""

PHOTOMETRY: tuple[Column, ...] = (
    Column("gaia_source_id", "int64", "", "meta.id;src", "Gaia DR3 source identifier"),
    *PHOTOMETRIC,
)
"""The columns of the table that ``stargap photometry`` writes, one row per source."""

JOINT: tuple[Column, ...] = (
    *_label("teff", "joint", "Effective temperature from spectrum and photometry together"),
    *_label("logg", "joint", "log g in dex from spectrum and photometry together"),
    *_label("m_h", "joint", "[M/H] in dex from spectrum and photometry together"),
    Column(
        "p_single_joint", "float32", "", "stat.probability", "Probability of no companion, by both together", (0, 1)
    ),
    Column(
        "chi2_joint",
        "float32",
        "",
        "stat.fit.chi2",
        "Reduced chi-square of spectrum's labels and photometry together",
        (0, float("inf")),
    ),
    _mark("use", ": known, and both agree"),
    _mark("care", " but with care"),
    Column("joint_flags", "int64", "", "meta.code.qual", "Bit mask: joint labels null, or unsure", (0, 2**32 - 1)),
)
"""Labels from the spectrum and photometry together, by ``stargap measure --gaia`` and in every run."""
