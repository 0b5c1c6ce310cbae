"""Which files a run starts from: paths found from what the user named."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from stargap.errors import UsageError

__all__ = ["SUFFIXES", "find_spectra"]

SUFFIXES = (".fits", ".fit", ".fits.gz", ".fit.gz")


def find_spectra(inputs: Sequence[str | Path]) -> list[Path]:
    """Expand files, folders, globs and ``@list.txt`` into paths, in the order given; folders are searched for FITS.

    A plain path that does not exist is kept, so that it gets its row.

    Raises:
        UsageError: nothing was given, a list that cannot be read, a folder or glob without a FITS file.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> _ = (folder / "a.fits").write_bytes(b"")
        >>> [path.name for path in find_spectra([folder, folder / "missing.fits"])]
        ['a.fits', 'missing.fits']
    """
    found: list[Path] = []
    for given in inputs:
        text, path = str(given), Path(given)
        exists = _is(path.exists)
        if text.startswith("@") and not exists:
            try:
                lines = Path(text[1:]).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            except (OSError, ValueError) as error:
                message = f"{text}: the list cannot be read ({error})"
                raise UsageError(message) from None
            found += [Path(line.strip()) for line in lines if line.strip() and not line.lstrip().startswith("#")]
        elif _is(path.is_dir):
            found += _inside(path)
        elif any(mark in text for mark in "*?[") and not exists:
            try:
                matches = sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
            except (ValueError, NotImplementedError) as error:
                message = f"{text}: {error}"
                raise UsageError(message) from None
            if not matches:
                message = f"{text}: no file matches"
                raise UsageError(message)
            found += matches
        else:
            found.append(path)
    if not found:
        message = "no spectra given: name files, folders, globs or @list.txt"
        raise UsageError(message)
    return found


def _is(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except (OSError, ValueError):
        return False  # the reader says why in the row


def _inside(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> NoReturn:
        message = f"{error.filename}: cannot be searched ({error.strerror})"
        raise UsageError(message) from None

    inside = sorted(
        Path(top, name)
        for top, _, names in os.walk(folder, onerror=refuse)
        for name in names
        if name.lower().endswith(SUFFIXES)
    )
    if not inside and folder.name.lower().endswith(SUFFIXES):
        return [folder]
    if not inside:
        message = f"{folder}: no FITS file in this folder (looked for {', '.join(SUFFIXES)})"
        raise UsageError(message)
    return inside
