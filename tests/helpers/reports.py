"""Reports that are written at once, for tests that are not about their figures and errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stargap import statistics
from stargap.figures.style import png

SAMPLES = 20


@contextmanager
def quick_reports() -> Iterator[None]:
    """Draw figures of reports small and without a layout, and few bootstrap samples: most of a report's time."""
    bootstrap = statistics._bootstrap

    def drawn(figure, *, dpi):
        figure.set_layout_engine("none")
        return png(figure, dpi=dpi / 4)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stargap.validation.report.figures.png", drawn)
        patch.setattr(statistics, "_bootstrap", lambda count, samples, seed: bootstrap(count, SAMPLES, seed))
        yield
