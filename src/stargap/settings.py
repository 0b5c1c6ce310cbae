"""Settings of a measurement: frozen, documented, read from TOML; an unknown key names the nearest one."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from stargap.errors import UsageError
from stargap.labels import LABELS

__all__ = ["MeasureSettings", "read_settings"]

Label = Literal["teff", "logg", "m_h", "a_m"]


class MeasureSettings(BaseModel):
    """How spectra are prepared and fitted.

    Example:
        >>> MeasureSettings(fixed={"logg": 4.8}).fixed
        {'logg': 4.8}
        >>> MeasureSettings(preset="paper").floor
        0.005
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Literal["stargap", "paper"] = "stargap"
    """Preparation: our way, or the paper's choice by choice (section 2.4)."""
    fixed: dict[Label, FiniteFloat] = {}
    """Labels held at a value: K for teff, dex for the others."""
    free_alpha: bool = False
    """Fit [a/M] instead of tying it to [M/H] by the label prior's relation (section 3.3.2)."""
    bounds: dict[Label, tuple[FiniteFloat, FiniteFloat]] = {}
    """Narrower bounds of labels; the emulator's training range by default."""
    error_floor: Annotated[float, Field(ge=0, le=1)] | None = None
    """Added in quadrature to normalised errors when weighting pixels, for what models cannot reproduce; by default
    0.015 (reduced chi-square of clean bright M dwarfs is then about 1) and 0.005 in the paper's preset."""
    starts: Literal[1, 2] = 2
    """Starting points of a fit."""
    max_iterations: Annotated[int, Field(ge=1, le=1000)] = 40
    """Model evaluations a fit may take from each start."""
    least_snr: Annotated[float, Field(ge=0)] = 5.0
    """S/N in r and i below which a spectrum is flagged (section 2.1)."""
    lamost_noise_factor: Annotated[float, Field(ge=1, le=10)] = 1.5
    """Noise of LAMOST co-adds over what their inverse variance says: repeats differ by 1.2 to 1.3 times their quoted
    errors and neighbouring pixels correlate by about 0.25 (docs/results/real-stars.md). Multiplies errors of LAMOST
    rows; those of velocities only by the part that reduced chi-square has not seen."""
    lamost_rv_floor: Annotated[float, Field(ge=0)] = 5.0
    """Velocity scatter of LAMOST repeats that noise does not explain (km/s), added in quadrature to e_rv."""

    @property
    def floor(self) -> float:
        """The error floor in force."""
        return self.error_floor if self.error_floor is not None else {"stargap": 0.015, "paper": 0.005}[self.preset]

    @model_validator(mode="after")
    def _check(self) -> MeasureSettings:
        for name, (low, high) in self.bounds.items():
            if not low < high:
                message = f"bounds of {name}: {low:g} is not below {high:g}"
                raise ValueError(message)
        if set(LABELS) == set(self.fixed) or (set(LABELS) - {"a_m"} <= set(self.fixed) and not self.free_alpha):
            message = "every label is fixed: leave at least one free"
            raise ValueError(message)
        if self.free_alpha and "a_m" in self.fixed:
            message = "a_m is fixed and free_alpha is true: choose one"
            raise ValueError(message)
        return self


def read_settings(source: str | Path | dict[str, Any]) -> MeasureSettings:
    """Return settings from a TOML file or a mapping.

    Raises:
        UsageError: the file is missing or not TOML, a key is unknown (its nearest is named) or a value is bad.

    Example:
        >>> read_settings({"preset": "paper"}).preset
        'paper'
        >>> read_settings({"error_flor": 0.01})
        Traceback (most recent call last):
        ...
        stargap.errors.UsageError: settings: unknown key 'error_flor'; did you mean 'error_floor'?
    """
    where = "settings" if isinstance(source, dict) else str(source)
    if isinstance(source, dict):
        content = source
    else:
        try:
            content = tomllib.loads(Path(source).read_text(encoding="utf-8"))
        except OSError as error:
            message = f"{where}: cannot be read ({error.strerror})"
            raise UsageError(message) from None
        except (ValueError, RecursionError) as error:
            message = f"{where}: not a TOML file ({error})"
            raise UsageError(message) from None
    known = list(MeasureSettings.model_fields)
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            message = f"{where}: unknown key {key!r}; did you mean {near!r}?"
            raise UsageError(message)
    try:
        return MeasureSettings(**content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "settings"
        reason = first["msg"].removeprefix("Value error, ")
        message = f"{where}: {place}: {reason}"
        raise UsageError(message) from None
