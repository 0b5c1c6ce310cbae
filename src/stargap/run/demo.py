"""The demonstration: a simulated survey in LAMOST's own files, through every stage, beside the paper and the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stargap.atomic import replacing
from stargap.catalogue.cleaning_rules import is_rejected
from stargap.catalogue.crossmatch import match_ids
from stargap.catalogue.precision import Precision
from stargap.catalogue.write import read_columns
from stargap.labels import LABELS
from stargap.mock.survey_files import write_survey
from stargap.run.engine import StageState, run_survey
from stargap.run.settings import SurveySettings
from stargap.settings import example_toml
from stargap.validation.figures.recovery import recovery_figure
from stargap.validation.report_headlines import PAPER_OFFSETS, PAPER_REPEATS
from stargap.validation.statistics import robust_scatter

__all__ = ["Demo", "Headline", "headlines", "run_demo"]

QUANTITIES = ("rv", "teff", "logg", "m_h")
UNITS = {"rv": "RV (km/s)", "teff": "Teff (K)", "logg": "log g (dex)", "m_h": "[M/H] (dex)"}
DIGITS = {"rv": 1, "teff": 0, "logg": 2, "m_h": 2}
BINS = ((5.0, 10.0), (10.0, 20.0), (20.0, 50.0), (50.0, 1e9))
"""Bins of S/N in r."""
EXPLORED = 500
"""Spectra in the report's explorer."""


@dataclass(frozen=True)
class Headline:
    """One number of the paper, what this run finds in the same way, and how this run compares with the truth.

    Pulls are over the published error and the systematic one together.
    """

    quantity: str
    paper: str
    run: str
    truth: str


@dataclass(frozen=True)
class Demo:
    """What `run_demo` made: the folder, the settings, how far each stage is, the numbers, and the report's page."""

    folder: Path
    settings: SurveySettings
    states: list[StageState]
    headlines: list[Headline]
    report: Path


def run_demo(
    folder: str | Path,
    *,
    stars: int = 2000,
    seed: int = 1,
    ages: bool = False,
    workers: int = 1,
    progress: Callable[[str, int, int], Any] | None = None,
) -> Demo:
    """Simulate a survey as LAMOST files and run every stage on it, with the transfer for simulated stars.

    Nature is not the model here: the stars are of other physics than the synthetic spectra, and the transfer inside the
    package was trained on such stars, not on these. What comes out says how the machinery does, and nothing of accuracy
    on real stars.

    Args:
        folder: where the survey, the run (``run/``) and ``recovery.png`` go; a demo that was stopped goes on there.
        stars: targets of the survey.
        seed: of everything random.
        ages: add kinematic ages, which need galpy.
        workers: processes.
        progress: called as ``progress(what, done, total)``.
    """
    folder = Path(folder)
    write_survey(
        folder,
        stars,
        seed=seed,
        mix="matched",
        progress=None if progress is None else lambda done, total: progress("simulating", done, total),
    )
    settings = SurveySettings.model_validate(
        {
            "output": folder / "run",
            "input": {
                "spectra": [str(folder / "spectra")],
                "catalogue": folder / "lamost.csv",
                "gaia": folder / "gaia.parquet",
                "simulated": True,
            },
            "transfer": {"use": "simulated", "prior": {"alpha": 0.0}},
            "publish": {"ages": ages, "formats": ["fits"]},
            "report": {"truth": folder / "truth.parquet", "spectra": EXPLORED},
        }
    )
    with replacing(folder / "survey.toml") as file:
        file.write(example_toml(settings).encode())
    states = run_survey(settings, workers=workers, progress=progress)
    columns, truth = _joined(folder)
    with replacing(folder / "recovery.png") as file:
        plain = _plain(columns, truth)
        labels = np.stack([truth[name][plain] for name in LABELS], axis=1)
        drawn = {name: values[plain] for name, values in columns.items()}
        figure = recovery_figure(drawn, labels, truth["rv"][plain], truth["snr_r"][plain])
        figure.savefig(file, format="png", dpi=120)
    return Demo(folder, settings, states, headlines(folder), folder / "run/report/index.html")


def headlines(folder: str | Path) -> list[Headline]:
    """Return the paper's numbers beside those of a demo, by repeats and against the truth.

    Args:
        folder: that of a finished demo.
    """
    columns, truth = _joined(Path(folder))
    precision = Precision.model_validate_json((Path(folder) / "run/catalogue/precision.json").read_bytes())
    rejected, junk = is_rejected(columns["clean_flags"]), truth["kind"] != "dwarf"
    inside = columns["in_sample"]
    final = int(columns["in_final_catalogue"].sum())
    rows = [
        Headline("spectra", "818,686", f"{len(inside):,}", ""),
        Headline("in the sample", "", f"{int(inside.sum()):,}", f"{int((inside & junk).sum())} of them junk"),
        Headline(
            "rejected by cleaning",
            "by eye",
            f"{int((rejected & inside).sum()):,}",
            f"{_share(rejected[inside & junk])} of junk, {_share(rejected[inside & ~junk])} of stars",
        ),
        Headline("in the catalogue", "507,513", f"{final:,}", ""),
    ]
    plain = _plain(columns, truth)
    for name in QUANTITIES:
        digits, model = DIGITS[name], precision.errors[name]
        median, scatter = PAPER_OFFSETS[name]
        told = f"{median:+.{digits}f} ± {scatter:.{digits}f}"
        rows.append(Headline(UNITS[name], told, "", _offset(columns, truth, name, plain)))
        for low, high in BINS:
            some = plain & (truth["snr_r"] >= low) & (truth["snr_r"] < high)
            title = f"  S/N {low:.0f}-{high:.0f}" if high < 1e9 else f"  S/N above {low:.0f}"
            rows.append(Headline(title, "", "", _offset(columns, truth, name, some)))
        for snr, paper in zip((10.0, 100.0), PAPER_REPEATS[name], strict=True):
            found = float(model.repeat_error(snr))
            told = f"{found:.{digits}f}" if np.isfinite(found) else "too few"
            rows.append(Headline(f"  repeats at S/N {snr:.0f}", f"{paper:.{digits}f}", told, ""))
    return rows


def _joined(folder: Path) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Columns of the catalogue of spectra, and the truth of the same rows."""
    columns = read_columns(folder / "run/catalogue/spectra.parquet")
    columns["in_sample"] = read_columns(folder / "run/measured.parquet", ["in_sample"])["in_sample"]
    truth = read_columns(folder / "truth.parquet")
    rows = match_ids(columns["obsid"], truth["obsid"])
    return columns, {name: values[rows] for name, values in truth.items()}


def _plain(columns: dict[str, NDArray[Any]], truth: dict[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Inactive M dwarfs in the sample with labels: active ones have no labels to trust."""
    dwarf = (truth["kind"] == "dwarf") & ~truth["active"].astype(bool)
    return np.asarray(
        dwarf & np.isfinite(columns["teff"]) & columns["in_sample"] & ~is_rejected(columns["clean_flags"])
    )


def _offset(
    columns: dict[str, NDArray[Any]], truth: dict[str, NDArray[Any]], name: str, rows: NDArray[np.bool_]
) -> str:
    off = (columns[name] - truth[name])[rows].astype(float)
    if off.size < 2:
        return "too few"
    error = np.hypot(columns[f"e_{name}"], np.nan_to_num(columns.get(f"e_{name}_sys", 0.0)))
    pull = off / error[rows]
    digits = DIGITS[name]
    return f"{np.median(off):+.{digits}f} ± {robust_scatter(off):.{digits}f}, pulls {robust_scatter(pull):.2f}"


def _share(rows: NDArray[np.bool_]) -> str:
    return f"{np.mean(rows):.1%}" if rows.size else "none"
