"""The command line: parses, calls the Python functions of the same name, prints."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, MissingArgumentError, Parameter

from stargap import __version__
from stargap.cli import completion as cli_completion
from stargap.cli import measure as cli_measure
from stargap.cli import survey as cli_survey
from stargap.cli import tables as cli_tables
from stargap.console import bar, bars, console, sigterm_as_ctrl_c, worker_count
from stargap.errors import StargapError, UsageError

__all__ = ["app", "main"]

RESUMED = {"run", "stage", "demo", "mock", "gaia"}
"""Commands that resume what was interrupted when they are given again."""

app = App(
    name="stargap",
    help="Velocities, labels, subtypes and activity of M dwarfs from low-resolution survey spectra.",
    version=__version__,
    suppress_keyboard_interrupt=False,
)
cli_measure.add_commands(app)


@app.command
def demo(
    *,
    stars: int = 2000,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("stargap-demo"),
    seed: int = 1,
    workers: int | None = None,
) -> None:
    """Simulate a survey as LAMOST files, run every stage on it, and print the paper, this run and the truth.

    Parameters
    ----------
    stars
        Targets of the survey; repeats and junk are among their spectra.
    output
        Folder for the survey and the run.
    seed
        Seed of the simulation.
    workers
        Processes; by default as many as there are cores and memory for.
    """
    from importlib.util import find_spec

    from stargap.cli.survey import report_states
    from stargap.pipeline.demo import run_demo
    from stargap.pipeline.engine import default_workers
    from stargap.validation.sheets import print_sheets

    if stars < 1:
        message = f"--stars is {stars}; it must be 1 or more"
        raise UsageError(message)
    count = default_workers() if workers is None else worker_count(workers)
    with sigterm_as_ctrl_c(), bars() as report:
        ages = find_spec("galpy") is not None
        result = run_demo(output, stars=stars, seed=seed, ages=ages, workers=count, progress=report)
    report_states(result.states, result.settings)
    screen = console()
    screen.print()
    print_sheets("The demo beside the paper and the truth", result.headlines, (), screen)
    print("found: of the true ones, how many are marked; pure: of the marked ones, how many are true. Tables of others")
    print(
        "(literature, APOGEE, wide binaries, marks) are simulated too, with offsets and gaps of their own: tables.json."
    )
    print("Simulated stars, of other physics than the models; the transfer inside the package was trained on such")
    print("stars, not on these. This tests the machinery and its errors, and says nothing of accuracy on real stars")
    print("(docs/results/real-stars.md); the paper's numbers are of real ones.")
    print(f"overview  {result.report.parent / 'figures' / '19-recovery.png'}")
    print(f"cleaning  {result.settings.output / 'cleaning.html'}")
    print(f"report    {result.report}")


@app.command
def emulator(
    grid: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    plot: Path | None = None,
    resolution: float = 1800.0,
    seed: int = 0,
    cite: str = "",
) -> None:
    """Train The Payne on a grid of synthetic spectra; `stargap measure --model FOLDER` then uses it.

    Parameters
    ----------
    grid
        HDF5 grid, or a folder of model spectra: BT-Settl, PHOENIX-ACES, PHOENIX NewEra, MARCS, SPHINX or SVO's files.
    output
        Folder for emulator.safetensors and its card.
    plot
        PNG of the validation errors over the parameter space.
    resolution
        Resolving power of the survey's spectra.
    seed
        Seed of the 8:2 split and the first weights.
    cite
        Whom users of the emulator shall cite, for its card; by default what the files of the grid say.
    """
    from dataclasses import replace

    from stargap.figures.emulator import emulator_figure
    from stargap.figures.style import png
    from stargap.files import replacing
    from stargap.theory.grids import covered_box, read_grid, read_hdf5_grid
    from stargap.theory.train_emulator import Training, emulator_error, fit_emulator

    settings = Training(resolution=resolution, seed=seed)
    ours = grid.suffix in (".h5", ".hdf5") and grid.is_file() and "phoenix-newera" not in grid.name.lower()
    spectra = read_hdf5_grid(grid) if ours else read_grid(grid, resolution=4 * resolution)
    spectra = replace(spectra, citation=cite or spectra.citation)
    print(covered_box(spectra.labels))
    with bar("training", settings.steps) as advance:
        trained, held_out = fit_emulator(spectra, settings, progress=lambda step, total, loss: advance(200))
    output.mkdir(parents=True, exist_ok=True)
    trained.save(output / "emulator.safetensors")
    errors = trained.card.validation
    print(
        f"validation error (eq. 1): median {100 * errors['median']:.3f} %, 99 % below "
        f"{100 * errors['percentile_99']:.2f} %, largest {100 * errors['largest']:.2f} %"
    )
    print(f"wrote {output / 'emulator.safetensors'}")
    if plot is not None:
        values = emulator_error(trained, spectra, rows=held_out)
        try:
            picture = png(emulator_figure(spectra.labels[held_out], values), dpi=120)
        except Exception as error:  # whatever a drawing library raises: the emulator is written
            print(f"stargap: {plot}: no picture ({type(error).__name__}: {error})", file=sys.stderr)
            return
        with replacing(plot) as file:
            file.write(picture)
        print(f"picture {plot}")


@app.command
def train(
    settings: Path | None = None,
    /,
    *,
    example: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Train a transfer between synthetic and observed spectra; `stargap measure --model` then uses it.

    A few stars of known labels are enough for architecture = "anchored"; thousands of unlabelled spectra for "default".

    Everything is said in one TOML file; stargap train --example prints one with every default and what it means. A
    run that was stopped goes on when the same command is given again.

    Parameters
    ----------
    settings
        TOML file: architecture, spectra, label prior, sizes, output folder. Paths start at the working folder.
    example
        Print a settings file with all defaults, explained, and do nothing else.
    """
    with sigterm_as_ctrl_c():
        try:
            _train(settings, example)
        except KeyboardInterrupt:
            print("stargap: stopped; run the same command again to go on", file=sys.stderr)
            sys.exit(130)


def _train(path: Path | None, example: bool) -> None:
    if not example and path is None:
        message = "give a settings file, or --example to print one"
        raise UsageError(message)

    from stargap.pipeline.train_settings import TrainSettings
    from stargap.settings import example_toml, read_settings_as

    if path is None:
        print(example_toml(TrainSettings()), end="")
        return

    from stargap.pipeline.train import train

    chosen = read_settings_as(TrainSettings, path)
    result = train(chosen, progress=True)
    if result.path is None:
        raise KeyboardInterrupt
    if chosen.architecture == "anchored":
        print(f"trained in {result.seconds:.0f} s; each star left out in turn, ours - literature:")
    else:
        simulated = ", simulated: for simulated stars alone" if chosen.data.simulated is not None else ""
        print(f"trained on {result.spectra} spectra{simulated}; {result.seconds:.0f} s")
    for name, value in result.scores.items():
        print(f"  {name:<32} {value:.5g}")
    print(f"wrote {result.path}")
    print(f"use: stargap measure SPECTRA --model {result.path}")


for commands in (cli_survey, cli_tables, cli_completion):
    commands.add_commands(app)


def _missing(error: MissingArgumentError) -> str:
    """Say which argument a command lacks, or which option lacks its value."""
    command = " ".join(error.command_chain or ())
    name = error.argument.name if error.argument else "an argument"
    lacking = f"{error.keyword} of {command} needs a value" if error.keyword else f"{command} needs {name}"
    return f"{lacking}; stargap {command} --help says more"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors of use print one line and exit with 2, Ctrl-C with 130, a broken pipe with 141."""
    if arguments is None:
        atexit.register(gc.freeze)  # else all objects are looked through once more before the process ends
    try:
        app(arguments, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except (StargapError, CycloptsError) as error:
        text = _missing(error) if isinstance(error, MissingArgumentError) else " ".join(str(error).split())
        print(f"stargap: {text}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        command = (sys.argv[1:] if arguments is None else arguments)[:1]
        advice = "; run the same command again to resume" if RESUMED.issuperset(command) else ""
        print(f"stargap: interrupted{advice}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        print(f"stargap: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
