"""Checks of annotated types, shapes of arrays among them, at every call in tests; imported before the package is.

The checker is beartype through jaxtyping's import hook; ints are accepted where floats are annotated (PEP 484).
"""

from __future__ import annotations

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

CHECKED = ("stargap.fit", "stargap.measurement", "stargap.theory")

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
install_import_hook(CHECKED, "array_checks.check")
