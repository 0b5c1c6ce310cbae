"""Which numbers of a spectrum can be used, and which with care: the one place where flags become marks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stargap.flags import Flag, JointFlag

__all__ = ["CARE", "JOINT_CARE", "MARKED", "UNUSABLE", "usable", "with_joint_marks", "with_marks"]

MARKED: Final = ("rv", "teff", "logg", "m_h", "activity")
"""The quantities that have the marks ``use_*`` and ``care_*``."""

_NO_VELOCITY: Final = (
    Flag.UNREADABLE
    | Flag.NOT_SELECTED
    | Flag.UNLIKE_TRAINING
    | Flag.BAD_FIT
    | Flag.RV_WEAK
    | Flag.RV_EDGE
    | Flag.NOT_CONVERGED
    | Flag.RV_AMBIGUOUS
)
_NO_LABELS: Final = (
    _NO_VELOCITY
    | Flag.TOO_FEW_PIXELS
    | Flag.GIANT
    | Flag.DOUBLE_LINED
    | Flag.EMISSION
    | Flag.FAR_OUTSIDE
    | Flag.TEFF_AT_BOUND
    | Flag.LOGG_AT_BOUND
    | Flag.M_H_AT_BOUND
    | Flag.POOR_FIT
)
UNUSABLE: Final[Mapping[str, Flag]] = {
    "rv": _NO_VELOCITY | Flag.FRAME_UNKNOWN,
    "teff": _NO_LABELS,
    "logg": _NO_LABELS,
    "m_h": _NO_LABELS,
    "activity": _NO_VELOCITY,
}
"""The flags any of which makes a quantity unusable. A label at a bound spoils the others, which depend on it, and a
spectrum at a wrong velocity has neither labels nor H-alpha."""

_CARE_ALWAYS: Final = Flag.LOW_SN | Flag.MANY_BAD_PIXELS | Flag.BAD_CONTINUUM
_CARE_LABELS: Final = (
    _CARE_ALWAYS
    | Flag.OUTSIDE_TRAINING
    | Flag.STARTS_DISAGREE
    | Flag.DOMAINS_DISAGREE
    | Flag.ACTIVE
    | Flag.A_M_AT_BOUND
    | Flag.PARTIAL_COVERAGE
)
CARE: Final[Mapping[str, Flag]] = {
    "rv": _CARE_ALWAYS | Flag.POOR_FIT | Flag.DOUBLE_LINED,
    "teff": _CARE_LABELS,
    "logg": _CARE_LABELS,
    "m_h": _CARE_LABELS,
    "activity": _CARE_ALWAYS | Flag.DOUBLE_LINED,
}
"""The flags any of which means that a quantity, if it is usable, should be used with care."""

JOINT_CARE: Final = JointFlag.BINARY_LIKELY | JointFlag.OUTSIDE_RELATIONS
"""The flags any of which means that joint labels, if they are usable, should be used with care."""


def usable(name: str, flags: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return where none of the flags makes a quantity unusable, ``(row,)``; a null of ``flags`` makes it so.

    Args:
        name: one of `MARKED`.
        flags: bits of `Flag`, ``(row,)``.

    Example:
        >>> usable("teff", np.array([0, int(Flag.ACTIVE), int(Flag.NOT_CONVERGED)]))
        array([ True,  True, False])
    """
    return np.asarray((flags >= 0) & (flags & int(UNUSABLE[name]) == 0))


def with_marks(columns: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the columns with ``use_*`` and ``care_*`` (0 or 1) of every quantity of `MARKED`.

    A quantity is usable where none of `UNUSABLE` is set and its value is known, and to be used with care where,
    moreover, any of `CARE` is set.

    Args:
        columns: ``flags`` and the quantities of `MARKED`, ``(row,)`` each.

    Example:
        >>> row = {name: np.array([1.0]) for name in MARKED} | {"flags": np.array([int(Flag.ACTIVE)])}
        >>> marked = with_marks(row | {"rv": np.array([np.nan])})
        >>> [int(marked[name][0]) for name in ("use_rv", "use_teff", "care_teff", "use_activity", "care_activity")]
        [0, 1, 1, 1, 0]
    """
    flags, marks = np.asarray(columns["flags"], dtype=np.int64), dict(columns)
    for name in MARKED:
        values = np.asarray(columns[name])
        known = values >= 0 if values.dtype.kind == "i" else np.isfinite(values.astype(float))
        use = usable(name, flags) & known
        marks[f"use_{name}"] = use.astype(np.int32)
        marks[f"care_{name}"] = (use & (flags & int(CARE[name]) != 0)).astype(np.int32)
    return marks


def with_joint_marks(columns: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the columns with ``use_joint`` and ``care_joint`` (0 or 1) of the joint labels.

    They are usable where they are known and spectrum and photometry agree, and to be used with care where the
    spectrum's own labels are, or any of `JOINT_CARE` is set.

    Args:
        columns: ``teff_joint``, ``joint_flags`` and ``care_teff``, ``care_logg``, ``care_m_h``, ``(row,)`` each.

    Example:
        >>> row = {"teff_joint": np.array([3500.0]), "joint_flags": np.array([int(JointFlag.BINARY_LIKELY)])}
        >>> marked = with_joint_marks(row | {f"care_{name}": np.array([0]) for name in ("teff", "logg", "m_h")})
        >>> marked["use_joint"], marked["care_joint"]
        (array([1], dtype=int32), array([1], dtype=int32))
    """
    flags = np.asarray(columns["joint_flags"], dtype=np.int64)
    use = np.isfinite(columns["teff_joint"]) & (flags & int(JointFlag.TENSION) == 0)
    spectrum = np.any([np.asarray(columns[f"care_{name}"]) == 1 for name in ("teff", "logg", "m_h")], axis=0)
    care = use & (spectrum | (flags & int(JOINT_CARE) != 0))
    return dict(columns) | {"use_joint": use.astype(np.int32), "care_joint": care.astype(np.int32)}
