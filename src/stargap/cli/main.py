"""The command line: parses, calls the Python functions of the same name, prints."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, MissingArgumentError, Parameter

from stargap import __version__
from stargap.cli import completion as cli_completion
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


@app.command
def measure(
    paths: list[str],
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    plot: Path | None = None,
    spectra: Path | None = None,
    model: Path | None = None,
    workers: int | None = None,
    preset: Literal["stargap", "paper"] | None = None,
    settings: Path | None = None,
    zero_points: Path | None = None,
    gaia: Path | None = None,
    rows: int = 40,
    columns: list[str] | None = None,
    air: Annotated[bool | None, Parameter(negative="--vacuum")] = None,
    frame: Literal["heliocentric", "observed", "rest"] | None = None,
    snr: float | None = None,
    instrument: str | None = None,
    loader: Annotated[str | None, Parameter(name="--format")] = None,
) -> None:
    """Measure RV, Teff, log g, [M/H], subtype and H-alpha of spectra, one row each.

    Reads files of LAMOST, SDSS and BOSS, SDSS-V and DESI, plain or gzip (docs/formats.md); every spectrum of a file
    with several has its row, and a file that cannot be read keeps its row and says why. Exits with 0 when every file
    has its row, with 1 when none of them could be read, and with 2 when the request itself is wrong, as when a file or
    folder that it names does not exist.

    Parameters
    ----------
    paths
        Files, folders, globs, or @list.txt with one path per line.
    output
        Table to write: .fits, .parquet, .csv, .vot or .ecsv.
    plot
        Folder for a picture of each fit.
    spectra
        File for spectra, pseudo-continua, models, masks and residuals: .fits, one table per star, or .parquet, one row.
    model
        A trained transfer (transfer.safetensors, see stargap train), a folder with emulator.safetensors and its card,
        or the name of a model inside the package: transfer-lamost (the default, experimental), emulator (no transfer;
        the default with --preset paper), or transfer-simulated (for simulated stars alone).
    workers
        Processes; all cores by default. Results are the same for any number.
    preset
        Preparation of spectra: that of stargap, or the paper's.
    settings
        TOML file with the fit's settings.
    zero_points
        CSV with plan_id, spectrograph, rv (km/s): velocities to subtract, by plate and spectrograph.
    gaia
        Table of Gaia and 2MASS such as stargap gaia writes, joined by position: adds labels from photometry (*_phot)
        and from spectrum and photometry together (*_joint); those of the spectrum alone stay the same.
    rows
        How many rows of the table to print.
    columns
        Columns of a table, as wavelength=NAME flux=NAME error=NAME (or ivar=NAME), where names are not the usual ones.
    air
        Wavelengths are in air (or in vacuum), where a file does not say.
    frame
        Frame of the wavelengths, where a file does not say; velocities that are not heliocentric are flagged.
    snr
        S/N per pixel of spectra that come without errors.
    instrument
        Resolving power, or an instrument's name (lamost, sdss, boss, desi, miles, ...), where files do not tell: else
        spectra are taken to be as sharp as LAMOST's.
    loader
        Loader of specutils to read the files with.
    """
    from stargap.measurement.files import measure as run
    from stargap.measurement.inputs import read_zero_points
    from stargap.measurement.pictures import draw_fits, picture_folder
    from stargap.settings import MeasureSettings, read_settings
    from stargap.spectra.address import split_address
    from stargap.spectra.inputs import find_spectra
    from stargap.spectra.modelled import check_spectra_output
    from stargap.spectra.reading import ReadSettings, named_columns
    from stargap.survey.gaia.join import read_gaia
    from stargap.tables.print import print_table
    from stargap.tables.write import check_output

    chosen = MeasureSettings() if settings is None else read_settings(settings)
    if preset is not None:
        chosen = chosen.model_copy(update={"preset": preset})
    if output is not None:
        check_output(output)
    if spectra is not None:
        check_spectra_output(spectra)
    if plot is not None:
        picture_folder(plot)
    offsets = None if zero_points is None else read_zero_points(zero_points)
    sources = None if gaia is None else read_gaia(gaia)
    for path in paths:
        if (
            not path.startswith("@")
            and not any(mark in path for mark in "*?[")
            and not os.path.lexists(split_address(path)[0])
        ):
            message = f"{path}: there is no such file or folder"
            raise UsageError(message)
    found = find_spectra(paths)
    read = ReadSettings(
        columns=named_columns(columns or ()), air=air, frame=frame, snr=snr, instrument=instrument, format=loader
    )
    with bar("measuring", len(found)) as advance:
        table = run(
            found,
            settings=chosen,
            model=model,
            workers=worker_count(workers),
            spectra=False if spectra is None else spectra,
            read=read,
            zero_points=offsets,
            progress=advance,
        )
    notes: tuple[str, ...] = ()
    if sources is not None:
        from stargap.survey.joint import with_photometry  # scipy loads slowly

        joined, notes = with_photometry(table.arrays(), sources)
        table = type(table).of(joined, table.provenance)
    nothing = all(table["failure"] != "")
    if not nothing:
        print_table(table.arrays(), max_rows=rows, console=console())
    print("".join(f"{note}\n" for note in notes), end="")
    if _of_simulated_stars(model):
        print(f"the model {model} was trained on simulated stars: it is not for real ones")
    if offsets is not None:
        there = set(zip(table["plan_id"].tolist(), table["spectrograph"].tolist(), strict=True))
        used = len(there.intersection(offsets))
        print(f"{used} of {len(offsets)} zero points are of plates and spectrographs measured here")
    if not nothing:
        for reason, count in table.failures().items():
            print(f"not read: {count} x {reason}")
    if output is not None:
        table.write(output)
        print(f"wrote {output}: {len(table)} rows")
    if spectra is not None:
        print(f"wrote {spectra}: spectra and models of {len(table)} rows")
    if plot is not None:
        with bar("drawing", len(found)) as advance:
            faults = draw_fits(
                found,
                plot,
                table=table.arrays(),
                settings=chosen,
                model=model,
                read=read,
                workers=worker_count(workers),
                progress=advance,
            )
        print(f"pictures in {plot}")
        for fault in faults:
            print(f"stargap: {fault}", file=sys.stderr)
    if nothing:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in table.failures().items())
        print(f"stargap: none of the {len(table)} files could be read: {reasons}", file=sys.stderr)
        sys.exit(1)


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
    """
    from stargap.figures.emulator import emulator_figure
    from stargap.figures.style import png
    from stargap.files import replacing
    from stargap.theory.grids import covered_box, read_grid, read_hdf5_grid
    from stargap.theory.train_emulator import Training, emulator_error, fit_emulator

    settings = Training(resolution=resolution, seed=seed)
    ours = grid.suffix in (".h5", ".hdf5") and grid.is_file() and "phoenix-newera" not in grid.name.lower()
    spectra = read_hdf5_grid(grid) if ours else read_grid(grid, resolution=4 * resolution)
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


def _of_simulated_stars(model: Path | None) -> bool:
    """Say whether a model, which has been read without complaint, was trained on simulated stars."""
    if model is None or model.suffix != ".safetensors":
        return str(model) == "transfer-simulated"
    return bool(json.loads(model.with_suffix(".json").read_bytes())["simulated"])


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
