"""The last stage of a run: its report."""

from __future__ import annotations

from pathlib import Path

from stargap.errors import UsageError
from stargap.pipeline.folder import Made, Run, content_digest
from stargap.validation.report.settings import ReportSettings

__all__ = ["check_report_files", "make_report", "report_digests", "write_run_report"]


def make_report(run: Run, unit: int | None) -> Made:
    """Write the report of a run that is done up to its catalogue, unless settings turn it off."""
    if run.settings.report.skip:
        return Made([], 0)
    from stargap.validation.report.page import report_files

    products = report_files(write_run_report(run.folder, run.settings.report))
    return Made(products, run.rows(None), {"figures": sum(product.suffix == ".png" for product in products)})


def write_run_report(folder: Path, chosen: ReportSettings, output: Path | None = None) -> Path:
    """Write the report of a run as its settings say, and return the page.

    Args:
        folder: of the run.
        chosen: what the report shows; whether the run skips it does not matter here.
        output: folder to write; by default ``report`` in the run's folder.

    Raises:
        UsageError: there is no catalogue, or a table cannot be read or joined.
    """
    from stargap.validation.report.page import write_report

    pairs, primaries = chosen.binaries.pairs, chosen.binaries.primaries
    return write_report(
        folder,
        output=output,
        truth=chosen.truth,
        comparisons=[(one.table, one.chosen) for one in chosen.comparisons.values()],
        binaries=None if pairs is None or primaries is None else (pairs, primaries, chosen.binaries.settings),
        spectra=chosen.spectra,
        points=chosen.points,
        seed=chosen.seed,
    )


def report_digests(run: Run, unit: int | None) -> dict[str, str]:
    """Return checksums of what a report shows beside the run: tables of others, and results in ``compare/``."""
    chosen = run.settings.report
    if chosen.skip:
        return {}
    results = [path for suffix in ("json", "csv") for path in sorted((run.folder / "compare").glob(f"*/*.{suffix}"))]
    found = {str(path.relative_to(run.folder)): content_digest(path) for path in results}
    shown = enumerate(chosen.files, start=1)
    return found | {f"{n} {path.name}": content_digest(path) if path.exists() else "missing" for n, path in shown}


def check_report_files(chosen: ReportSettings) -> None:
    """Refuse a report of files that are not there, before a run that takes days.

    Raises:
        UsageError: one is not there.
    """
    for path in [] if chosen.skip else chosen.files:
        if not path.is_file():
            message = f"report: {path}: there is no such file"
            raise UsageError(message)
