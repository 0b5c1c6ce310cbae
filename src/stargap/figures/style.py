"""The style of every figure: matplotlib's defaults and the Agg canvas, whatever the user's own settings say."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["new_figure", "plain_style", "png"]


@contextmanager
def plain_style() -> Iterator[None]:
    """Draw with matplotlib's own defaults; the user's settings are back at the end.

    A figure takes its settings when its parts are made and when it is written, so both are done in this style: every
    function that returns a figure is decorated with it, and `png` writes in it.

    Example:
        >>> import matplotlib
        >>> with matplotlib.rc_context({"text.usetex": True}):
        ...     with plain_style():
        ...         inside = matplotlib.rcParams["text.usetex"]
        ...     inside, matplotlib.rcParams["text.usetex"]
        (False, True)
    """
    _import_matplotlib()
    from matplotlib import style

    with style.context("default"):
        yield


@plain_style()
def new_figure(width: float, height: float, *, title: str = "") -> Figure:
    """Return an empty figure of this size (inch) that pyplot does not know of, with `title` above all panels.

    As the last value of a notebook's cell it is shown, whether pyplot was imported or not.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=10, parse_math=False)
    setattr(figure, "_repr_png_", partial(png, figure, dpi=100))  # noqa: B010  what a notebook asks for
    return figure


@plain_style()
def png(figure: Figure, *, dpi: float) -> bytes:
    """Return a figure as the bytes of a PNG file.

    Example:
        >>> png(new_figure(1, 1), dpi=50)[:4]
        b'\\x89PNG'
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    content, before = io.BytesIO(), figure.dpi
    figure.dpi = dpi
    save: Callable[..., None] = FigureCanvasAgg(figure).print_png  # savefig draws twice
    try:
        save(content)
    finally:
        figure.dpi = before
    return content.getvalue()


def _import_matplotlib() -> None:
    """Import matplotlib although MPLBACKEND names a backend that is not installed, as in a notebook's subprocesses."""
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend is not None:
        try:
            matplotlib.rcParams["backend"] = backend
        except ValueError:
            return
