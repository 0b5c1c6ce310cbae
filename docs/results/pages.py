"""What the scripts that make pages of results share: Markdown, the index of real spectra, baselines."""

from __future__ import annotations

import csv
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def read_index(lamost: Path, folder: str) -> list[dict[str, str]]:
    """Return the rows of the index for one folder."""
    with (lamost / "index.csv").open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["folder"] == folder]


def reflow(text: str) -> str:
    """Return Markdown whose paragraphs and list items are filled to one width; headings, tables, pictures stay."""
    blocks = []
    for block in text.split("\n\n"):
        if not block.startswith(("|", "#", "!")):
            joined = "\n".join(line.strip() for line in block.strip().splitlines())
            items = joined.replace("\n* ", "\0* ").replace("\n", " ").split("\0")
            block = "\n".join(
                textwrap.fill(
                    item, 116, subsequent_indent="  " if item.startswith("* ") else "",
                    break_long_words=False, break_on_hyphens=False,
                )
                for item in items
            )  # fmt: skip
        blocks.append(block)
    return "\n\n".join(blocks) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose first column is aligned to the left and the others to the right."""
    lines = [head, [":---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def number(value: float, digits: int, *, error: float = np.nan, sign: bool = False) -> str:
    """Return a rounded number with its error, a dash where there is none."""
    if not np.isfinite(value):
        return "–"
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    text = text.lstrip("+-") if float(text) == 0 else text
    return (f"{text} ± {error:.{digits}f}" if np.isfinite(error) else text).replace("-", "−")


def leave_one_out_line(x: ArrayLike, y: ArrayLike) -> Array:
    """Predict the `y` of each star from its `x` by the least-squares line through all other stars.

    With leverage h_i and residual r_i of the line through all stars, the prediction is y_i - r_i / (1 - h_i).

    Args:
        x: ``(star,)``, such as TiO5.
        y: ``(star,)``, such as Teff in K.

    Returns:
        predictions ``(star,)`` in the unit of `y`; NaN where x or y is, or where the other stars define no line.
    """
    first, second = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    finite = np.isfinite(first) & np.isfinite(second)
    predicted, count = np.full(first.shape, np.nan), int(finite.sum())
    if count < 3:
        return predicted
    across, up = first[finite] - first[finite].mean(), second[finite] - second[finite].mean()
    square = float(across @ across)
    if square > 0:
        left = 1.0 - 1.0 / count - across**2 / square
        residual = up - across * float(across @ up) / square
        predicted[finite] = second[finite] - residual / np.where(left > 1e-12, left, np.nan)
    return predicted


def leave_one_out_constant(y: ArrayLike) -> Array:
    """Predict the `y` of each star by the mean of all other stars, ``(star,)``; NaN below two stars."""
    array = np.asarray(y, dtype=float)
    array = np.where(np.isfinite(array), array, np.nan)
    others = np.isfinite(array).sum() - 1
    return (np.nansum(array) - array) / others if others > 0 else np.full(array.shape, np.nan)
