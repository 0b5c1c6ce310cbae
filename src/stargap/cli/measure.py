"""`stargap measure`: files in, a table with one row per spectrum, spectra and pictures out."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from stargap.console import bar, console, long_imports, worker_count
from stargap.errors import UsageError

if TYPE_CHECKING:
    from stargap.measurement.measurements import Measurements
    from stargap.settings import MeasureSettings
    from stargap.spectra.reading import ReadSettings

__all__ = ["add_commands", "measure"]


def add_commands(app: App) -> None:
    """Register the command of this module."""
    app.command(measure)


@Parameter(name="*")
@dataclass(frozen=True)
class Outputs:
    """What is written.

    Parameters
    ----------
    output
        Table to write: .fits, .parquet, .csv, .vot or .ecsv.
    plot
        Folder for a picture of each fit.
    spectra
        File for spectra, pseudo-continua, models, masks and residuals: .fits, one table per star, or .parquet, one row.
    """

    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None
    plot: Path | None = None
    spectra: Path | None = None

    def check(self) -> None:
        """Refuse what cannot be written, before anything is measured."""
        from stargap.measurement.pictures import picture_folder
        from stargap.spectra.modelled import check_spectra_output
        from stargap.tables.write import check_output

        if self.output is not None:
            check_output(self.output)
        if self.spectra is not None:
            check_spectra_output(self.spectra)
        if self.plot is not None:
            picture_folder(self.plot)


@Parameter(name="*")
@dataclass(frozen=True)
class Reading:
    """How spectra are read of which files do not state everything.

    Parameters
    ----------
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

    columns: Annotated[list[str] | None, Parameter(negative="")] = None
    air: Annotated[bool | None, Parameter(negative="--vacuum")] = None
    frame: Literal["heliocentric", "observed", "rest"] | None = None
    snr: float | None = None
    instrument: str | None = None
    loader: Annotated[str | None, Parameter(name="--format")] = None

    def settings(self) -> ReadSettings:
        """Return these choices as the settings of the readers."""
        from stargap.spectra.reading import ReadSettings, named_columns

        columns = named_columns(self.columns or ())
        return ReadSettings(
            columns=columns,
            air=self.air,
            frame=self.frame,
            snr=self.snr,
            instrument=self.instrument,
            format=self.loader,
        )


@Parameter(name="*")
@dataclass(frozen=True)
class Fitting:
    """How spectra are fitted.

    Parameters
    ----------
    model
        A trained transfer (transfer.safetensors, see stargap train), a folder with emulator.safetensors and its card,
        or the name of a model inside the package: transfer-lamost (the default, experimental), emulator (no transfer;
        the default with --preset paper), or transfer-simulated (for simulated stars alone).
    preset
        Preparation of spectra: that of stargap, or the paper's.
    settings
        TOML file with the fit's settings.
    device
        What fits: the processor (cpu, the default), or a GPU (cuda).
    """

    model: Path | None = None
    preset: Literal["stargap", "paper"] | None = None
    settings: Path | None = None
    device: Literal["cpu", "cuda"] | None = None

    def chosen(self) -> MeasureSettings:
        """Return the settings of the file, or the defaults, with the preset and the device."""
        from stargap.settings import MeasureSettings, read_settings

        chosen = MeasureSettings() if self.settings is None else read_settings(self.settings)
        given = {"preset": self.preset, "device": self.device}
        return chosen.model_copy(update={name: value for name, value in given.items() if value is not None})


_OUTPUTS, _READING, _FITTING = Outputs(), Reading(), Fitting()


def measure(
    paths: list[str],
    /,
    *,
    outputs: Outputs = _OUTPUTS,
    fitting: Fitting = _FITTING,
    workers: int | None = None,
    zero_points: Path | None = None,
    gaia: Path | None = None,
    rows: int = 40,
    reading: Reading = _READING,
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
    workers
        Processes; all cores by default. Results are the same for any number.
    zero_points
        CSV with plan_id, spectrograph, rv (km/s): velocities to subtract, by plate and spectrograph.
    gaia
        Table of Gaia and 2MASS such as stargap gaia writes, joined by position: adds labels from photometry (..._phot)
        and from spectrum and photometry together (..._joint); those of the spectrum alone stay the same.
    rows
        How many rows of the table to print.
    """
    with long_imports():
        from stargap.measurement.files import measure as run
        from stargap.measurement.inputs import read_zero_points
        from stargap.spectra.inputs import find_spectra
        from stargap.survey.gaia.join import read_gaia

    settings, read = fitting.chosen(), reading.settings()
    processes = worker_count(workers, settings.device)
    outputs.check()
    offsets = None if zero_points is None else read_zero_points(zero_points)
    sources = None if gaia is None else read_gaia(gaia)
    _check_there(paths)
    found = find_spectra(paths)
    with bar("measuring", len(found)) as advance:
        table = run(
            found,
            settings=settings,
            model=fitting.model,
            workers=processes,
            spectra=outputs.spectra or False,
            read=read,
            zero_points=offsets,
            progress=advance,
        )
    notes: tuple[str, ...] = ()
    if sources is not None:
        from stargap.survey.joint import with_photometry  # scipy loads slowly

        joined, notes = with_photometry(table.arrays(), sources)
        table = type(table).of(joined, table.provenance)
    _show(table, rows, notes, fitting.model, offsets)
    if outputs.output is not None:
        table.write(outputs.output)
        print(f"wrote {outputs.output}: {len(table)} rows")
    if outputs.spectra is not None:
        print(f"wrote {outputs.spectra}: spectra and models of {len(table)} rows")
    if outputs.plot is not None:
        _draw(found, outputs.plot, table, settings, fitting.model, read, processes)
    if _nothing(table):
        print(f"stargap: none of the {len(table)} files could be read: {'; '.join(_failures(table))}", file=sys.stderr)
        sys.exit(1)


def _check_there(paths: list[str]) -> None:
    """Refuse a path that is no list or glob and does not exist.

    Raises:
        UsageError: it names the path.
    """
    from stargap.spectra.address import split_address

    for path in paths:
        if not path.startswith("@") and not set("*?[") & set(path) and not os.path.lexists(split_address(path)[0]):
            message = f"{path}: there is no such file or folder"
            raise UsageError(message)


def _nothing(table: Measurements) -> bool:
    """Whether no spectrum could be read."""
    return bool(all(table["failure"] != ""))


def _failures(table: Measurements) -> list[str]:
    """Return why spectra could not be read, with counts."""
    return [f"{count} x {reason}" for reason, count in table.failures().items()]


def _show(
    table: Measurements,
    rows: int,
    notes: tuple[str, ...],
    model: Path | None,
    offsets: dict[tuple[str, int], float] | None,
) -> None:
    """Print the table and what there is to know of it."""
    from stargap.tables.print import print_table

    if not _nothing(table):
        print_table(table.arrays(), max_rows=rows, console=console())
    print("".join(f"{note}\n" for note in notes), end="")
    if _of_simulated_stars(model):
        print(f"the model {model} was trained on simulated stars: it is not for real ones")
    if offsets is not None:
        there = set(zip(table["plan_id"].tolist(), table["spectrograph"].tolist(), strict=True))
        used = len(there.intersection(offsets))
        print(f"{used} of {len(offsets)} zero points are of plates and spectrographs measured here")
    if not _nothing(table):
        for failure in _failures(table):
            print(f"not read: {failure}")


def _draw(
    found: list[Path],
    folder: Path,
    table: Measurements,
    settings: MeasureSettings,
    model: Path | None,
    read: ReadSettings,
    workers: int,
) -> None:
    """Draw a picture of each fit; one that cannot be drawn costs that picture alone."""
    from stargap.measurement.pictures import draw_fits

    with bar("drawing", len(found)) as advance:
        faults = draw_fits(
            found,
            folder,
            table=table.arrays(),
            settings=settings,
            model=model,
            read=read,
            workers=workers,
            progress=advance,
        )
    print(f"pictures in {folder}")
    for fault in faults:
        print(f"stargap: {fault}", file=sys.stderr)


def _of_simulated_stars(model: Path | None) -> bool:
    """Say whether a model, which has been read without complaint, was trained on simulated stars."""
    if model is None or model.suffix != ".safetensors":
        return str(model) == "transfer-simulated"
    return bool(json.loads(model.with_suffix(".json").read_bytes())["simulated"])
