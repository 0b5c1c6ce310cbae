"""Commands for the tables of a survey: its catalogue, its report, and questions to any table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from stargap.cli.survey import read_survey, report_states
from stargap.console import bars, console, sigterm_as_ctrl_c
from stargap.errors import UsageError

__all__ = ["add_commands"]


def add_commands(app: App) -> None:
    """Add the commands of this module to the command line."""
    for command in (gaia, extinction, photometry, catalogue, report, view, compare, binaries, show, validate, limits):
        app.command(command)


def gaia(spectra: Path, /, *, output: Annotated[Path, Parameter(name=["--output", "-o"])]) -> None:
    """Ask the Gaia archive for the sources of a survey's spectra; stargap run takes the table as input.gaia.

    A download that was stopped goes on when the same command is given again. Needs a network and stargap[tap].

    Parameters
    ----------
    spectra
        Table of a LAMOST release, index.parquet of a store, or any table with gaia_source_id, or ra and dec.
    output
        Parquet table to write.
    """
    from stargap.survey.gaia.archive import fetch_gaia, read_targets

    with sigterm_as_ctrl_c(), bars() as report:
        found = fetch_gaia(read_targets(spectra), output, progress=report)
    print(f"{found.found:,} of {found.ids:,} identifiers and {found.positions:,} positions: {found.sources:,} sources")
    print(f"wrote {output}")


def extinction(
    table: Path, /, *, output: Annotated[Path, Parameter(name=["--output", "-o"])], dust_map: Path | None = None
) -> None:
    """Add the extinction up to each source to a Gaia table: columns a_v and e_a_v, which photometry then uses.

    From the three-dimensional map of Edenhofer et al. (2024), which reaches from 69 to 1250 pc; none within 70 pc.
    Needs stargap[dust] and the map (3 GB): python -c "import dustmaps.edenhofer2023 as map; map.fetch()".

    Parameters
    ----------
    table
        Table that stargap gaia wrote, or any with source_id, ra, dec, parallax and parallax_error.
    output
        Table to write: .parquet, .fits, .csv, .vot or .ecsv.
    dust_map
        File of the map, mean_and_std_healpix.fits, if it is not where dustmaps keeps it.
    """
    from stargap.survey.gaia.dust import write_extinction

    found = write_extinction(table, output, file=dust_map)
    print(f"{found.known:,} of {found.sources:,} sources have an extinction, A_V = {found.median:.2f} in the median")
    print(f"wrote {output}")


def photometry(table: Path, /, *, output: Annotated[Path, Parameter(name=["--output", "-o"])]) -> None:
    """Label M dwarfs from Gaia's and 2MASS's photometry alone: Teff, log g, [M/H] with errors, single star or pair.

    Labels are on the scale of Mann et al. (2015). stargap run makes them too, of the table in input.gaia.

    Parameters
    ----------
    table
        Table that stargap gaia wrote, or any with source_id, G, BP, RP, parallaxes and their errors; Ks, RUWE and
        extinction (a_v or ebv, with errors) are used where they are there.
    output
        Table to write: .parquet, .fits, .csv, .vot or .ecsv.
    """
    from stargap.photometry.tables import write_photometric_labels

    found = write_photometric_labels(table, output)
    print(f"{found.labelled:,} of {found.sources:,} sources have labels; {found.paired:,} are probably pairs")
    print(f"wrote {output}")


def catalogue(
    survey: Path,
    /,
    *,
    formats: Annotated[
        list[Literal["fits", "vot", "csv", "ecsv", "cds", "hats"]] | None, Parameter(consume_multiple=True)
    ] = None,
    paper: bool = False,
) -> None:
    """Make the catalogue of a survey run that is done up to its table: one row per spectrum, and one per star.

    Errors are calibrated on repeats, spectra of a star combined, variables and binaries marked, and the cuts of the
    final catalogue made as bits; the settings say how ([catalogue], [publish]).

    Parameters
    ----------
    survey
        TOML file with the settings.
    formats
        Further formats to write it in, beside Parquet and those of the settings.
    paper
        Write the paper's Table 1 too.
    """
    from stargap.catalogue.publish import write_catalogue
    from stargap.pipeline.engine import run_survey

    chosen = read_survey(survey)
    with sigterm_as_ctrl_c(), bars() as report:
        states = run_survey(chosen, only="catalogue", progress=report)
    report_states([state for state in states if state.stage == "catalogue"], chosen, complete=True)
    folder = chosen.output / "catalogue"
    chosen_formats = formats or chosen.publish.formats
    written = write_catalogue(folder, formats=formats) if formats else []
    written += write_catalogue(folder, formats=chosen_formats, paper=True) if paper else []
    print((folder / "cuts.md").read_text(), end="")
    for path in dict.fromkeys(written):
        print(f"wrote {path}")
    print(f"catalogue {folder}")


def report(
    survey: Path,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    truth: Path | None = None,
    spectra: int | None = None,
) -> None:
    """Write a run's report: a page that opens without a network, with figures, counts and an explorer of spectra.

    stargap run makes it too, as its last stage; this makes it again in any case, also of a run of another version. What
    it shows beside the run, such as tables of others, the settings say ([report]).

    Parameters
    ----------
    survey
        TOML file with the settings of a run that is done up to its catalogue.
    output
        Folder to write; report in the run's folder by default.
    truth
        Table of true values of a simulated survey (truth.parquet), instead of the one in the settings.
    spectra
        Spectra in the explorer, at most, instead of what the settings say.
    """
    from stargap.pipeline.report import write_run_report

    chosen = read_survey(survey)
    given = {name: value for name, value in (("truth", truth), ("spectra", spectra)) if value is not None}
    shown = type(chosen.report).model_validate(chosen.report.model_dump() | given)
    print(f"report {write_run_report(chosen.output, shown, output)}")


def view(
    run: Path,
    /,
    *,
    marks: Path | None = None,
    port: int = 0,
    open: Annotated[bool, Parameter(name="--open")] = True,
) -> None:
    """Look through a whole survey in the browser: diagrams of all stars, filters, any spectrum with its model.

    The page is served to this machine alone, at an address that holds a secret, until Ctrl-C. Needs stargap[view].

    Parameters
    ----------
    run
        Folder of a run that has a catalogue; it may have been moved.
    marks
        CSV for stars that you mark, with notes; stargap run takes it as input.marked. Nothing else is written.
    port
        Port of this machine; any free one by default.
    open
        Open the browser, where there is a display.
    """
    from stargap.validation.viewer.serve import serve

    with sigterm_as_ctrl_c():
        serve(run, marks=marks, port=port, open_browser=open)


def compare(
    ours: Path,
    table: Path,
    /,
    *,
    reference: str | None = None,
    settings: Path | None = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
) -> None:
    """Compare velocities and labels with those of any other table: median, scatter, outliers, trends, by S/N.

    Parameters
    ----------
    ours
        A catalogue, the table of a survey run, or one of stargap measure.
    table
        The other table: FITS, CSV, Parquet or VOTable.
    reference
        Name of ready settings for a published table; an unknown name lists all.
    settings
        TOML file that says how the other table is joined and what its columns are called.
    output
        Folder for comparison.md and comparison.csv.
    """
    from stargap.settings import read_settings_as
    from stargap.validation.compare import run_compare
    from stargap.validation.matching import CompareSettings
    from stargap.validation.references import reference_settings

    if (reference is None) == (settings is None):
        message = "give --reference NAME or --settings FILE: how the other table is joined and what its columns are"
        raise UsageError(message)
    if settings is not None:
        chosen = read_settings_as(CompareSettings, settings)
    else:
        chosen = reference_settings(reference or "")
    run_compare(ours, table, chosen, output).print(console())
    if output is not None:
        print(f"wrote {output / 'comparison.md'}")


def binaries(
    ours: Path,
    pairs: Path,
    primaries: Path,
    /,
    *,
    settings: Path | None = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
) -> None:
    """Compare [M/H] of M dwarfs with that of the FGK stars they are bound to, beside the paper's numbers, by S/N.

    The paper's cuts are made and counted: probability of a chance alignment below 0.01, separation above 3 arcsec,
    velocities within 10 km/s. With RUN/compare/NAME as output, stargap report draws the pairs.

    Parameters
    ----------
    ours
        A catalogue, the table of a survey run, or one of stargap measure.
    pairs
        Table of wide binaries; columns are those of El-Badry et al. 2021 unless the settings name others.
    primaries
        Table of FGK stars with [M/H] or [Fe/H] and velocities; columns are those of LAMOST's LRS catalogue of A, F, G
        and K stars unless the settings name others.
    settings
        TOML file with names of columns and the cuts, as [report.binaries.settings] of stargap settings has them.
    output
        Folder for binaries.md and binaries.csv.
    """
    from stargap.settings import read_settings_as
    from stargap.validation.binaries import BinarySettings, run_binaries

    chosen = BinarySettings() if settings is None else read_settings_as(BinarySettings, settings)
    run_binaries(ours, pairs, primaries, chosen, output).print(console())
    if output is not None:
        print(f"wrote {output / 'binaries.md'}")


def show(table: Path, /, *, id: Annotated[list[str], Parameter(name="--id", negative="")]) -> None:
    """Print all columns of a table for some spectra or stars, with units and flags in words.

    Parameters
    ----------
    table
        Any table of stargap, in any of its formats.
    id
        spectrum_id, obsid, gaia_source_id, designation or path; can be given several times. The first row that stargap
        measure prints has spectrum_id 0.
    """
    from stargap.tables.show import print_rows

    print_rows(table, id, console=console())


def validate(table: Path, /) -> None:
    """Check a table of stargap against its schema and list every violation; exits with 1 if there is one.

    Parameters
    ----------
    table
        Any table of stargap, in any of its formats.
    """
    from stargap.tables.validate import validate_file

    problems = validate_file(table)
    for problem in problems:
        print(problem)
    count = f"{len(problems)} violation{'s' * (len(problems) > 1)}" if problems else "as the schema says"
    print(f"{table}: {count}")
    if problems:
        sys.exit(1)


def limits(*, teff: float, m_h: float = 0.0, snr: float, logg: float | None = None, logg_width: float = 0.05) -> None:
    """Print what a LAMOST spectrum can tell: the smallest errors of RV, Teff, log g and [M/H] that its noise allows.

    Parameters
    ----------
    teff
        Teff (K).
    m_h
        [M/H] (dex).
    snr
        S/N per pixel in r.
    logg
        log g (dex); that of the main sequence by default.
    logg_width
        Standard deviation (dex) of the prior of log g about the main sequence, in the second column.
    """
    from stargap.measurement.limits import limits as bounds

    free = bounds(teff, m_h, snr, logg=logg)
    with_prior = bounds(teff, m_h, snr, logg=logg, logg_width=logg_width)
    print(f"Cramer-Rao bounds at Teff {teff:g} K, [M/H] {m_h:+g}, S/N {snr:g} (docs/what-a-spectrum-tells.md)")
    print(f"{'':12} spectrum alone   with log g within {logg_width:g} dex of the main sequence")
    titles = {
        "rv": ("RV", "km/s", 1),
        "teff": ("Teff", "K", 0),
        "logg": ("log g", "dex", 3),
        "m_h": ("[M/H]", "dex", 3),
    }
    for name, (title, unit, digits) in titles.items():
        print(f"{title:6} {unit:5} {free[name]:14.{digits}f}   {with_prior[name]:.{digits}f}")
