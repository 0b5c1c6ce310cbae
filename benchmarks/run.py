"""Speeds of stargap beside scipy and numpy in the same run: ``make benchmarks``.

``--write`` makes docs/results/speed.md.

Everything runs on simulated stars (seed 1), made and written by stargap.mock. A figure is the median of repeated runs.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import least_squares

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from helpers.stars import mock_stars

import stargap
from stargap.fit.forward import EmulatorModel
from stargap.fit.labels import fit_labels
from stargap.fit.parameters import Parameters
from stargap.measurement.files import measure
from stargap.measurement.velocity import emulator_templates, measure_velocity
from stargap.mock.files import write_lamost
from stargap.pixels import LOG_LAMBDA, SPEED_OF_LIGHT, STARGAP
from stargap.spectra.log_lambda import to_log_lambda
from stargap.spectra.prepare import prepare
from stargap.spectra.readers import fitsfile
from stargap.spectra.readers.read import read_spectrum
from stargap.spectra.smoother import normalise
from stargap.spectra.spectrum import Spectrum
from stargap.theory.emulator import shipped_emulator

STARS = 1024
BASELINE_STARS = 8


def write_mock_survey(folder, stars):
    """Write simulated stars as LAMOST files, in the three layouts in turn, every other one compressed."""
    folder.mkdir(parents=True, exist_ok=True)
    layouts = ("lamost-image", "lamost-table", "lamost-dr1")
    paths = []
    for row, (flux, ivar) in enumerate(zip(stars.flux, stars.ivar, strict=True)):
        layout = layouts[row % 3]
        packed = row % 2 == 0
        path = folder / f"spec-58000-SIM_sp{1 + row // 250:02d}-{1 + row % 250:03d}.fits{'.gz' if packed else ''}"
        write_lamost(
            path,
            stars.wavelength,
            flux,
            ivar,
            layout=layout,
            andmask=(ivar == 0).astype(int),
            obsid=None if layout == "lamost-dr1" else 900_000_000 + row,
            ra=float((row * 137.508) % 360),
            dec=float(-10 + 60 * ((row * 0.618) % 1)),
            spectrograph=1 + row // 250 % 16,
            fiber=1 + row % 250,
            compress=packed,
        )
        paths.append(path)
    return paths


def timed(work, repeats=5, clock=time.perf_counter):
    """Median seconds of `work()`, after one run that is not counted."""
    work()
    spent = []
    for _ in range(repeats):
        start = clock()
        work()
        spent.append(clock() - start)
    return statistics.median(spent)


def gaussian_continuum_numpy(flux, weight, wave):
    """The double sum of METHOD section 2 as one dense matrix product a star."""
    kernel = np.exp(-0.5 * ((wave[:, None] - wave) / 30.0) ** 2)
    return [flux[i] / ((kernel @ (flux[i] * weight[i])) / (kernel @ weight[i])) for i in range(len(flux))]


def velocity_numpy(wave, normal, ivar, template_wave, templates):
    """Chi-square at every 5 km/s for each template, one star at a time, then a parabola."""
    velocity = np.arange(-1000.0, 1001.0, 5.0)
    shifted = wave / (1 + velocity[:, None] / SPEED_OF_LIGHT)
    best = []
    for d, w in zip(normal, ivar, strict=True):
        curves = []
        for template in templates:
            model = np.interp(shifted, template_wave, template)
            curves.append(((d - model) ** 2 * w).sum(axis=1))
        curve = np.min(curves, axis=0)
        k = int(np.clip(curve.argmin(), 1, len(velocity) - 2))
        a, b, c = curve[k - 1 : k + 2]
        best.append(velocity[k] + 2.5 * (a - c) / (a - 2 * b + c))
    return best


def time_reading(paths, row):
    """Processor time of compressed images and tables: plain HDUs from their bytes, and every HDU by astropy."""
    for kind, packed in (("image", paths[::6] + paths[2::6]), ("table", paths[4::6])):
        some = packed[:100]

        def read_all(some=some):
            return [read_spectrum(path) for path in some]

        ours = timed(read_all, clock=time.process_time) / len(some)
        with mock.patch.object(fitsfile, "plain_hdu", return_value=None):
            base = timed(read_all, clock=time.process_time) / len(some)
        row(f"read a .fits.gz file, {kind}", "1 core", ours, "<= 1.5 ms", base, "every HDU by astropy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="also write docs/results/speed.md")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    emulator = shipped_emulator()
    stars = mock_stars(emulator, STARS, seed=1, survey_noise=True)
    spectra = [Spectrum(stars.wavelength, f, i) for f, i in zip(stars.flux, stars.ivar, strict=True)]
    rows, took = [], {}

    def row(what, unit, ours, goal, baseline=None, name=""):
        took[what] = ours, None if baseline is None else baseline / ours
        ratio = "" if baseline is None else f"{baseline / ours:.1f}x"
        rows.append((what, f"{1e3 * ours:.2f} ms", f"{1 / ours:.0f}/s", goal, unit, name,
                     "" if baseline is None else f"{1e3 * baseline:.2f} ms", ratio))  # fmt: skip

    with tempfile.TemporaryDirectory() as temporary:
        paths = write_mock_survey(Path(temporary) / "spectra", stars)
        time_reading(paths, row)

        native = to_log_lambda(spectra)
        rv = torch.as_tensor(stars.rv)
        support = torch.rand(STARS, STARGAP.support.size) + 1
        weight = (torch.rand_like(support) > 0.02).float()
        ours = timed(lambda: normalise(support, weight)) / STARS
        few = slice(0, BASELINE_STARS)
        f, w = support[few].double().numpy(), weight[few].double().numpy()
        base = timed(lambda: gaussian_continuum_numpy(f, w, STARGAP.support), 3) / BASELINE_STARS
        row("pseudo-continuum, ivar-weighted", "2 threads", ours, "<= 0.3 ms", base, "numpy matrix product")
        base = timed(
            lambda: [x / (gaussian_filter1d(x * g, 30) / gaussian_filter1d(g, 30)) for x, g in zip(f, w, strict=True)]
        )
        row("  the same", "2 threads", ours, "", base / BASELINE_STARS, "scipy Gaussian filter")
        ours = timed(lambda: prepare(native, rv)) / STARS
        row("prepare: resample, normalise, mask", "2 threads", ours, "", None)

        templates = emulator_templates(emulator)
        ours = timed(lambda: measure_velocity(native, templates), 3) / STARS
        wave = LOG_LAMBDA.wavelength
        use = (wave > 5930) & (wave < 8970)
        fine = 10.0 ** (templates.first + templates.step * np.arange(templates.flux.shape[1]))
        normal = (native.flux / native.flux.mean(dim=1, keepdim=True)).numpy()[few][:4, use].astype(float)
        ivar = native.ivar.numpy()[few][:4, use].astype(float)
        some = templates.flux.double().numpy()
        base = timed(lambda: velocity_numpy(wave[use], normal, ivar, fine, some), 1) / 4
        row("velocity, +-1000 km/s, 36 templates", "2 threads", ours, "<= 3 ms", base, "numpy, one star at a time")

        prepared = prepare(native, rv)
        model = EmulatorModel(emulator, prepared)
        box = Parameters(emulator.card.lower, emulator.card.upper)
        ours = timed(lambda: fit_labels(prepared, model, emulator, box), 3) / STARS
        low, high = (side.numpy() for side in box.bounds())

        def fit_scipy():
            for star in range(BASELINE_STARS):
                good = prepared.good[star].numpy()
                if good.sum() < 200:
                    continue
                d, s = prepared.flux[star].numpy()[good], np.hypot(prepared.sigma[star].numpy()[good], 0.01)

                def residual(x, star=star, good=good, d=d, s=s):
                    theta = torch.as_tensor(np.array([x[0] * 1000, x[1], x[2]]))[None]
                    labels, directions = box.expand(theta)
                    return (model(labels, directions[:, :0], torch.tensor([star]))[0][0].numpy()[good] - d) / s

                scale = np.array([1e-3, 1, 1])
                least_squares(residual, np.array([3.5, 4.8, -0.1]), bounds=(low * scale, high * scale), diff_step=1e-3)

        base = timed(fit_scipy, 1) / BASELINE_STARS
        row("label fit, 3 labels, 2901 pixels", "2 threads", ours, ">= 400/s", base, "scipy least_squares, same model")

        plain = timed(lambda: measure(paths, workers=2, model="emulator"), 3) / STARS
        row("files to rows, emulator alone, in Python", "2 workers", plain, ">= 80/s", None)
        ours = timed(lambda: measure(paths, workers=2), 3) / STARS
        row("files to rows, transfer-lamost, in Python", "2 workers", ours, ">= 60/s", plain, "emulator alone")
        command = [sys.executable, "-m", "stargap", "measure", str(Path(temporary) / "spectra"), "--workers", "2",
                   "-o", str(Path(temporary) / "labels.fits")]  # fmt: skip
        ours = timed(lambda: subprocess.run(command, check=True, capture_output=True), 3) / STARS
        row("the same, stargap measure, start included", "2 workers", ours, ">= 60/s", None)
        one = [sys.executable, "-m", "stargap", "measure", str(paths[0])]
        ours = timed(lambda: subprocess.run(one, check=True, capture_output=True))
        base = timed(lambda: subprocess.run([sys.executable, "-c", "import torch"], check=True))
        row("stargap measure of one file, start included", "", ours, "<= 2.2 s", base, "import torch alone")
        help_time = timed(
            lambda: subprocess.run([sys.executable, "-m", "stargap", "--help"], check=True, capture_output=True)
        )
        row("stargap --help", "", help_time, "<= 0.3 s", None)

    titles = ("task", "a spectrum", "rate", "goal", "on", "baseline", "its time", "ratio")
    table = Table(title=f"stargap {stargap.__version__}, {STARS} simulated stars")
    for title in titles:
        table.add_column(title, justify="left" if title in ("task", "baseline", "on") else "right")
    for cells in rows:
        table.add_row(*cells)
    Console(width=160).print(table)
    if arguments.write:
        lines = ["| " + " | ".join(cells) + " |" for cells in [titles, ["---"] * len(titles), *rows]]
        text = f"""# Speed

{findings(took)}

Made by `python benchmarks/run.py --write` (`make benchmarks` prints the same table): {STARS} simulated stars, seed 1,
medians of 3 to 5 runs, baselines in the same run. Measured on {machine()};
read it as +-30 %.

{chr(10).join(lines)}

"a spectrum" is wall time over spectra, of reading processor time. The first label fit of a star takes two starts where
they can disagree; a whole measurement fits twice (docs/decisions/003-velocity.md), and once more through a transfer;
these stars are the emulator's own, which the transfer for LAMOST does not fit well. The scipy baseline starts at one
point, with numerical derivatives.
"""
        (Path(__file__).parents[1] / "docs/results/speed.md").write_text(text, encoding="utf-8")


def findings(took: dict[str, tuple[float, float | None]]) -> str:
    """Return the findings of the page, from seconds of a spectrum and ratios to baselines by task."""
    lamost, alone = (took[f"files to rows, {model}, in Python"][0] for model in ("transfer-lamost", "emulator alone"))
    (velocity, by_loop), (fit, by_scipy) = (
        took[what] for what in ("velocity, +-1000 km/s, 36 templates", "label fit, 3 labels, 2901 pixels")
    )
    (image, images), (table, tables) = (took[f"read a .fits.gz file, {kind}"] for kind in ("image", "table"))
    start, torch_alone = took["stargap measure of one file, start included"]
    return "\n".join((
        f"* **From files to rows** two workers measure {1 / lamost:.0f} spectra a second with the default model,",
        f"  {1 / alone:.0f} with the emulator alone.",
        f"* **A velocity** takes {1e3 * velocity:.1f} ms, {by_loop:.0f} times less than a loop in numpy; a",
        f"  **label fit** {1e3 * fit:.1f} ms, {by_scipy:.0f} times less than scipy's least squares of the same model.",
        f"* **Reading a file** takes {1e3 * image:.1f} ms (an image) or {1e3 * table:.1f} ms (a table),",
        f"  {images:.1f} and {tables:.1f} times less than with astropy's objects ([why](../decisions/024-reading.md)).",
        f"* **One file**, from the command to its table, takes {start:.1f} s, where importing torch alone",
        f"  takes {start * torch_alone:.1f} s.",
    ))  # fmt: skip


def machine() -> str:
    """Cores and processor family of this machine."""
    import os

    parts = f"{os.cpu_count()} cores, {platform.machine()}, no GPU"
    return f"{parts}, Python {platform.python_version()}, torch {torch.__version__}"


if __name__ == "__main__":
    main()
