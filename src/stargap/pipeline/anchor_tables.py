"""Tables of stars with known labels, from the literature or from photometry, joined to their spectra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.flags import PhotFlag
from stargap.rows import AnyColumn
from stargap.tables.columns import INT_NULL
from stargap.tables.nulls import is_null_word, numbers, whole_ids
from stargap.tables.read import read_table
from stargap.transfer.anchor_labels import ERRORS, P_SINGLE, AnchorLabels

__all__ = ["AnchorTable", "photometric_anchors", "read_anchor_tables", "usable_anchors"]

LABELS = ("teff", "logg", "m_h")
UNITS = ("K", "", "")
IDS = ("gaia_source_id", "source_id")
PHOTOMETRY = "photometry"
"""Source of labels that ``stargap photometry`` wrote."""
UNSOUND = PhotFlag.INCONSISTENT | PhotFlag.NO_SOLUTION
"""Photometric labels that tie nothing."""


@dataclass(frozen=True)
class AnchorTable:
    """Known labels of spectra, one line each: ``spectra``, paths of files or rows; ``stars``, names; the ``labels``;
    ``scored (line,)``, False for spectra that only train; ``lines`` as error messages count them."""

    spectra: list[str]
    stars: list[str]
    labels: AnchorLabels
    scored: NDArray[np.bool_]
    lines: list[str]

    def within(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> AnchorTable:
        """Return the lines that `usable_anchors` keeps."""
        rows = np.flatnonzero(usable_anchors(self.labels, low, high))
        return AnchorTable(
            [self.spectra[row] for row in rows],
            [self.stars[row] for row in rows],
            self.labels[rows],
            self.scored[rows],
            [self.lines[row] for row in rows],
        )


def read_anchor_tables(
    paths: Sequence[Path], key: Literal["path", "row", "gaia_source_id"], targets: Path | None = None
) -> AnchorTable:
    """Read tables of anchors in any format, one after the other.

    Args:
        paths: each with teff, logg, m_h (K, dex), or teff_phot, logg_phot, m_h_phot, which are preferred, as ``stargap
            photometry`` writes them; optionally their errors ``e_...``, ``p_single``, ``source`` (photometry, or the
            name of the file), ``star`` and ``scored``. Stars without photometric labels, or with unsound ones, are
            left out. Of photometric labels the mean p_single counts for all: what the magnitudes of one star say of it
            is in its [M/H] already, and weighing by it would bend a regression.
        key: which column names the spectrum; a path starts at the folder of its table. With gaia_source_id it is the
            star that is named, and source_id does as well.
        targets: a table with this column and gaia_source_id, for tables of labels that have only the latter.

    Raises:
        UsageError: a table cannot be read, lacks a column, or holds what makes no sense; or no line is left.
    """
    parts = [_read(path, key, targets) for path in paths]
    if not any(part.spectra for part in parts):
        message = f"{', '.join(map(str, paths))}: no star has known labels that are sound"
        raise UsageError(message)
    return AnchorTable(
        [name for part in parts for name in part.spectra],
        [name for part in parts for name in part.stars],
        AnchorLabels.joined([part.labels for part in parts]),
        np.concatenate([part.scored for part in parts]),
        [line for part in parts for line in part.lines],
    )


def photometric_anchors(table: dict[str, AnyColumn]) -> tuple[NDArray[np.int64], AnchorLabels]:
    """Return the rows of a table of photometric labels (`stargap.photometry.labels`) that are sound, and the labels."""
    return _known_labels(Path(PHOTOMETRY), table, "_phot")


def usable_anchors(labels: AnchorLabels, low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which anchors are no photometric ones beyond their relations or some bounds ``(3,)``, ``(anchor,)``."""
    photometric = np.array([source == PHOTOMETRY for source in labels.sources], dtype=bool)
    within = ((labels.labels >= low) & (labels.labels <= high)).all(axis=1)
    return np.asarray(labels.inside & (within | ~photometric))


def _read(path: Path, key: str, targets: Path | None) -> AnchorTable:
    units = {f"{name}{end}": unit for name, unit in zip(LABELS, UNITS, strict=True) for end in ("", "_phot")}
    units |= {f"e_{name}": unit for name, unit in units.items()} | dict.fromkeys(
        ("p_single", "phot_flags", "scored"), ""
    )
    table = read_table(path, [], optional=[*units, key, *IDS, "star", "source"], units=units)
    end = "_phot" if "teff_phot" in table else ""
    identified = next((name for name in IDS if name in table), None)
    if key == "gaia_source_id" and identified:
        table[key] = np.array(_ids(path, table), dtype=object)
    missing = [f"{name}{end}" for name in LABELS if f"{name}{end}" not in table]
    if key not in table and not (identified and targets):
        missing.insert(0, key)
    if missing:
        message = f"{path}: no column {', '.join(map(repr, missing))}; needed are {key}, {', '.join(LABELS)}"
        if identified and key in missing:
            message += f", or targets, a table with {key} and gaia_source_id"
        raise UsageError(message)
    size = len(table[f"teff{end}"])
    if not size:
        message = f"{path}: no line below the names of its columns"
        raise UsageError(message)
    scored = np.nan_to_num(numbers(table, "scored", size), nan=1.0)
    _check(path, np.isin(scored, (0, 1)), "scored must be 1, or 0 for a spectrum that only trains")
    rows, labels = _known_labels(path, table, end)
    if key in table:
        spectra = [_full(path, word, key) for word in _words(table, key, size)]
        _check(path, np.array([bool(word) for word in spectra]), f"{key} is missing")
        pairs = [(spectra[row], place) for place, row in enumerate(rows.tolist())]
    else:
        assert targets is not None
        ids = _ids(path, table)
        pairs = _joined(path, {ids[row]: place for place, row in enumerate(rows.tolist()) if ids[row]}, key, targets)
    places = np.array([place for _, place in pairs], dtype=np.int64)
    rows = rows[places]
    stars, ids = _words(table, "star", size), _ids(path, table) if identified else [""] * size
    return AnchorTable(
        [name for name, _ in pairs],
        [stars[row] or ids[row] or Path(name).name for row, (name, _) in zip(rows.tolist(), pairs, strict=True)],
        labels[places],
        scored[rows] > 0,
        [f"{path}: line {row + 2}" for row in rows.tolist()],
    )


def _joined(path: Path, anchors: dict[str, int], key: str, targets: Path) -> list[tuple[str, int]]:
    """Return spectra of a table of targets, each with the place of its star in a table of labels."""
    table = read_table(targets, [key], optional=IDS)
    spectra = _words(table, key, len(table[key]))
    stars = _ids(targets, table)
    pairs = [
        (_full(targets, word, key), anchors[star]) for word, star in zip(spectra, stars, strict=True) if star in anchors
    ]
    if not pairs:
        message = f"{path}: none of its stars is among those of {targets}"
        raise UsageError(message)
    return pairs


def _known_labels(path: Path, table: dict[str, AnyColumn], end: str) -> tuple[NDArray[np.int64], AnchorLabels]:
    """Return the lines that have labels, and these, with the usual errors, chances and source where there are none."""
    size = len(table[f"teff{end}"])
    values = np.stack([numbers(table, f"{name}{end}", size) for name in LABELS], axis=1)
    errors = np.stack([numbers(table, f"e_{name}{end}", size) for name in LABELS], axis=1)
    errors = np.where(np.isnan(errors), ERRORS, errors)
    p_single = np.nan_to_num(numbers(table, "p_single", size), nan=P_SINGLE)
    if end:
        p_single = np.full(size, np.mean(p_single))
    sound = (errors > 0).all(axis=1) & (p_single >= 0) & (p_single <= 1)
    _check(path, sound, "errors must be positive, p_single from 0 to 1")
    flags = np.nan_to_num(numbers(table, "phot_flags", size)).astype(np.int64)
    if not end:
        for place, name in enumerate(LABELS):
            _check(path, np.isfinite(values[:, place]), f"{name} is missing or not a finite number")
    usual = PHOTOMETRY if end else path.stem
    sources = [word or usual for word in _words(table, "source", size)]
    labels = AnchorLabels(values, errors, p_single, sources, (flags & int(PhotFlag.OUTSIDE_RELATIONS)) == 0)
    rows = np.flatnonzero(np.isfinite(values).all(axis=1) & ((flags & int(UNSOUND)) == 0))
    return rows, labels[rows]


def _check(path: Path, sound: NDArray[np.bool_], what: str) -> None:
    if not sound.all():
        message = f"{path}: line {int(np.argmin(sound)) + 2}: {what}"
        raise UsageError(message)


def _ids(path: Path, table: dict[str, AnyColumn]) -> list[str]:
    name = next((name for name in IDS if name in table), None)
    if name is None:
        message = f"{path}: has neither gaia_source_id nor source_id, by which labels are joined to spectra"
        raise UsageError(message)
    return ["" if value < 0 else str(value) for value in whole_ids(table[name], name).tolist()]


def _full(table: Path, word: str, key: str) -> str:
    return str(table.parent / word) if key == "path" and word else word


def _words(table: dict[str, AnyColumn], name: str, size: int) -> list[str]:
    """Return a column as text without spaces around it, empty where null or missing."""
    if name not in table:
        return [""] * size
    words = [str(value).strip() for value in table[name].tolist()]
    return ["" if is_null_word(word) or word == str(INT_NULL) else word for word in words]
