"""Settings: frozen, documented, read from TOML; an unknown key names the nearest one."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stargap.errors import UsageError
from stargap.files import read_text
from stargap.labels import LABELS

__all__ = ["MeasureSettings", "Settings", "example_toml", "nearest", "read_settings", "read_settings_as"]

AnySettings = TypeVar("AnySettings", bound=BaseModel)
Label = Literal["teff", "logg", "m_h", "a_m"]


class Settings(BaseModel):
    """Base of all settings: frozen, without unknown keys, every float finite, so that each can be written as TOML."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MeasureSettings(Settings):
    """How spectra are prepared and fitted.

    Example:
        >>> MeasureSettings(fixed={"logg": 4.8}).fixed
        {'logg': 4.8}
        >>> MeasureSettings(preset="paper").floor
        0.005
    """

    preset: Literal["stargap", "paper"] = "stargap"
    """Preparation of spectra: that of stargap, or the paper's (section 2.4)."""
    fixed: dict[Label, float] = {}
    """Values of labels that are not fitted (K for teff, dex for the others)."""
    free_alpha: bool = False
    """Fit [a/M]; otherwise it follows [M/H] by the relation of the label prior (section 3.3.2)."""
    bounds: dict[Label, tuple[float, float]] = {}
    """Bounds of labels, inside the training range of the emulator, which is the default."""
    error_floor: Annotated[float, Field(ge=0, le=1)] | None = None
    """Error added in quadrature to normalised errors when pixels are weighted, for what models cannot reproduce; by
    default 0.015 (reduced chi-square of clean bright M dwarfs is then about 1), and 0.005 in the paper's preset."""
    starts: Literal[1, 2] = 2
    """Number of starting points of a fit."""
    optimiser: Literal["lm", "lbfgs"] = "lm"
    """Optimiser of the fit whose labels are published: Levenberg-Marquardt, or the paper's L-BFGS, star by star and
    several times slower (section 3.5)."""
    exact: bool = False
    """Fit every star with the whole model from the start on. Otherwise fits begin in a few numbers (principal
    components), and those of published labels end with the whole model: several times faster, with the same labels to a
    small fraction of their errors (docs/results/speed-fits.md)."""
    device: Literal["cpu", "cuda"] = "cpu"
    """What fits: the processor, or a GPU (`cuda`), many stars at once; its results are not the processor's bit for bit
    (docs/decisions/025-gpu.md)."""
    max_iterations: Annotated[int, Field(ge=1, le=1000)] = 40
    """Largest number of model evaluations from each start."""
    least_snr: Annotated[float, Field(ge=0)] = 5.0
    """S/N in r and i below which a spectrum is flagged (section 2.1)."""
    lamost_noise_factor: Annotated[float, Field(ge=1, le=10)] = 1.5
    """Ratio of the noise of LAMOST co-adds to what their inverse variance says: repeats differ by 1.2 to 1.3 times
    their quoted errors, and neighbouring pixels correlate by about 0.25 (docs/results/emulator-stars.md). It multiplies
    the errors of LAMOST rows, those of velocities as far as reduced chi-square does not show it already."""
    lamost_rv_floor: Annotated[float, Field(ge=0)] = 2.7
    """What velocities of LAMOST spectra of M dwarfs scatter by about those of Gaia beyond noise (km/s), added in
    quadrature to e_rv: the wavelength calibration changes from night to night (docs/results/calibration.md)."""

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
    return read_settings_as(MeasureSettings, source)


def read_settings_as(
    kind: type[AnySettings], source: str | Path | dict[str, Any], *, where: str = "settings"
) -> AnySettings:
    """Return settings of some kind from a TOML file or a mapping; tables are settings of their own.

    Args:
        kind: class of the settings.
        source: the file, or its content.
        where: what a message calls a mapping.

    Raises:
        UsageError: as `read_settings`.
    """
    if isinstance(source, dict):
        content = source
    else:
        where = str(source)
        try:
            content = tomllib.loads(read_text(source))
        except OSError as error:
            message = f"{where}: cannot be read ({error.strerror})"
            raise UsageError(message) from None
        except (ValueError, RecursionError) as error:
            message = f"{where}: not a TOML file ({error})"
            raise UsageError(message) from None
    _check_keys(kind, content, where, "")
    try:
        return kind(**content)
    except ValidationError as error:
        first = error.errors()[0]
        place, reason = [str(part) for part in first["loc"]], first["msg"].removeprefix("Value error, ")
        if place[-1:] == ["[key]"]:
            known = re.findall("'([^']*)'", str(first.get("ctx", {}).get("expected", "")))
            place, key, table = place[:-2], place[-2], "".join(f"{part}." for part in place[:-2])
            reason = f"unknown key {table + key!r}"
            reason += nearest(key, known, table) if known else ""
        message = f"{where}: {'.'.join(place) or 'settings'}: {reason}"
        raise UsageError(message) from None


def _check_keys(kind: type[BaseModel], content: dict[str, Any], where: str, table: str) -> None:
    known = list(kind.model_fields)
    for key, value in content.items():
        if key not in known:
            message = f"{where}: unknown key {table + key!r}{nearest(key, known, table)}"
            raise UsageError(message)
        inner = kind.model_fields[key].annotation
        if isinstance(value, dict) and isinstance(inner, type) and issubclass(inner, BaseModel):
            _check_keys(inner, value, where, f"{table}{key}.")


def nearest(name: str, known: Sequence[str], prefix: str = "") -> str:
    """Return the question after the known name that somebody who wrote another one probably meant; else the names.

    Args:
        name: as it was written.
        known: names, at least one.
        prefix: what stands before each of them.

    Example:
        >>> nearest("mesure", ["table", "measure"])
        "; did you mean 'measure'?"
        >>> nearest("foo", ["table", "measure"])
        '; known are table, measure'
    """
    begun = [one for one in known if name and one.startswith(name)]
    inside = [one for one in known if name and name.lower() in one.lower()]
    near = begun or difflib.get_close_matches(name, known, n=1, cutoff=0.6) or inside
    if near:
        return f"; did you mean {prefix + near[0]!r}?"
    return f"; known are {', '.join(prefix + one for one in known)}"


def example_toml(settings: BaseModel, *, only: Sequence[str] | None = None) -> str:
    """Return settings as TOML with their explanations; what is None stands there as a comment.

    Args:
        settings: of any kind.
        only: leave out what is as by default, save these: names with the tables that they are in, as ``input.gaia``.

    Raises:
        UsageError: a path is not UTF-8, which TOML cannot hold.

    Example:
        >>> print("\\n".join(example_toml(MeasureSettings()).splitlines()[:2]))
        # Preparation of spectra: that of stargap, or the paper's (section 2.4).
        preset = "stargap"
        >>> print(example_toml(MeasureSettings(starts=1), only=["preset"]))
        # Preparation of spectra: that of stargap, or the paper's (section 2.4).
        preset = "stargap"
        # Number of starting points of a fit.
        starts = 1
        <BLANKLINE>
    """
    text = "\n".join(_example_lines(settings, "", only)).lstrip("\n") + "\n"
    odd = next((line for line in text.splitlines() if not _is_utf8(line)), None)
    if odd is not None:
        message = f"{odd.encode('utf-8', 'backslashreplace').decode()}: is not UTF-8, which a settings file cannot hold"
        raise UsageError(message)
    return text


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _example_lines(settings: BaseModel, table: str, only: Sequence[str] | None = None) -> Iterator[str]:
    explained = _explanations(type(settings))
    tables = {name: value for name, value in settings if isinstance(value, (BaseModel, dict))}
    for name, value in settings:
        if name not in tables and (only is None or table + name in only or not _is_default(settings, name)):
            yield from explained.get(name, ())
            yield f"# {name} =" if value is None else f"{name} = {_toml_value(value)}"
    for name, inner in tables.items():
        lines = list(_table_lines(inner, f"{table}{name}", only))
        if only is None or lines:
            yield ""
            yield from explained.get(name, ())
            yield f"[{table}{name}]"
            yield from lines


def _table_lines(inner: BaseModel | dict[str, Any], table: str, only: Sequence[str] | None) -> Iterator[str]:
    """Yield the lines of a table below its head."""
    if isinstance(inner, BaseModel):
        yield from _example_lines(inner, f"{table}.", only)
        return
    for key, value in inner.items():
        if not isinstance(value, BaseModel):
            yield f"{_toml_key(key)} = {_toml_value(value)}"
    for key, value in inner.items():
        if isinstance(value, BaseModel):
            yield f"[{table}.{_toml_key(key)}]"
            yield from _example_lines(value, f"{table}.{_toml_key(key)}.", only)


def _is_default(settings: BaseModel, name: str) -> bool:
    field = type(settings).model_fields[name]
    return not field.is_required() and getattr(settings, name) == field.get_default(call_default_factory=True)


def _toml_value(value: Any) -> str:
    import tomlkit

    if isinstance(value, tuple | list):
        value = [str(part) if isinstance(part, Path) else part for part in value]
    return tomlkit.item(str(value) if isinstance(value, Path) else value).as_string()


def _toml_key(name: str) -> str:
    import tomlkit

    return tomlkit.key(name).as_string() if name else '""'


@cache
def _explanations(kind: type[BaseModel]) -> dict[str, list[str]]:
    """Return the docstrings of the fields of a class and of its bases as comments, by name."""
    found: dict[str, list[str]] = {}
    for one in reversed(kind.__mro__[: kind.__mro__.index(BaseModel)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0].body  # type: ignore[attr-defined]
        found |= {
            field.target.id: [f"# {line}" for line in textwrap.wrap(inspect.cleandoc(str(text.value.value)), 110)]
            for field, text in pairwise(body)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        }
    return found
