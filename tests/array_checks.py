"""Checks of the shapes and kinds of arrays at every call in tests: `conftest` imports this before the package.

The import hook of jaxtyping calls `check` for every function. beartype checks the arguments and results whose
annotations name arrays of `stargap.arrays` and `stargap.rows`; tests of other wrong arguments reach the functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, install_import_hook

PACKAGES = ("fit", "measurement", "photometry", "spectra", "starnet", "statistics", "tables", "theory", "transfer")

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: Callable) -> Callable:
    """Return the function with the arrays of its annotations checked."""
    hints = {name: _resolved(hint, function) for name, hint in function.__annotations__.items()}
    function.__annotations__ = {name: hint for name, hint in hints.items() if _names_arrays(hint)}
    return _beartype(function) if function.__annotations__ else function


def _resolved(hint: Any, function: Callable) -> Any:
    try:
        return eval(hint, function.__globals__) if isinstance(hint, str) else hint
    except NameError:  # imported for type checkers alone
        return object


def _names_arrays(hint: Any) -> bool:
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or any(map(_names_arrays, get_args(hint)))


install_import_hook([f"stargap.{name}" for name in PACKAGES], "array_checks.check")
