"""Commands of a survey run, as thin as those of `stargap.cli.main`."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from stargap.console import bars, console, sigterm_as_ctrl_c, worker_count
from stargap.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from stargap.pipeline.engine import StageState
    from stargap.pipeline.settings import SurveySettings

__all__ = ["add_commands", "read_survey", "report_states"]

FAILED = 3
"""Exit code of a run of which some pieces failed."""


MINIMAL = ("preset", "output", "input.spectra", "input.catalogue", "input.gaia")
"""The settings that a run is begun with."""


def add_commands(app: App) -> None:
    """Add the commands of this module to the command line."""
    for command in (run, stage, settings, mock, missing):
        app.command(command)


def run(
    survey: Path,
    /,
    *,
    until: str | None = None,
    since: Annotated[str | None, Parameter(name="--from")] = None,
    shard: str | None = None,
    gather: Annotated[bool, Parameter(negative="")] = False,
    workers: int | None = None,
    dask: str | None = None,
    timeout: float = 60.0,
    verify: Annotated[bool, Parameter(negative="")] = False,
    status: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Do every stage of a survey run that is not done: from spectra on disk to a catalogue and its report.

    Stages: ingest, gaia, sample, photometry, emulator, velocity, prepare, clean, labels, transfer, measure, joint,
    table, stack, catalogue, report. A run that was stopped, by Ctrl-C, a signal or a power cut, resumes when the same
    command is given again, with the same result. Exits with 0 when all is done, 3 when some pieces failed (it says
    why), 2 when the request is wrong.

    Parameters
    ----------
    survey
        TOML file with the settings; stargap settings --write makes one.
    until
        The last stage to do.
    since
        The first stage to do; it and those after it are made again.
    shard
        i/N: only every N-th shard, from the i-th on (1 to N), for job arrays on a cluster; then --gather.
    gather
        Only the stages that need every shard: the clusters, a training, the table, stacked spectra.
    workers
        Processes; by default as many as there are cores and memory for, at most four that share a GPU. Results are the
        same for any number.
    dask
        Let the workers of this Dask scheduler do the shards (tcp://host:port), or those of a new local cluster (local).
    timeout
        Minutes that one piece of work (a shard, or a stage in one piece) may take before it is interrupted and tried
        once more; 24 times as many where a model is trained.
    verify
        First compare every product with its checksum, and make damaged ones again; otherwise that is done where a
        later stage reads them.
    status
        Print how far each stage is, and do nothing.
    """
    from stargap.pipeline.engine import default_workers, run_survey, stage_states
    from stargap.pipeline.folder import Run

    chosen = read_survey(survey)
    if status:
        run_folder = Run(chosen.output.absolute(), chosen.absolute())
        report_states(stage_states(run_folder), chosen)
        if not (chosen.input.spectra or chosen.input.catalogue or run_folder.shards()):
            print(f"{survey}: input.spectra is empty, so there is nothing to do: name files, folders, globs or @lists")
        return
    if not timeout > 0:
        message = f"--timeout is {timeout:g}; it must be above 0"
        raise UsageError(message)
    count = default_workers(chosen.measure.device) if workers is None else worker_count(workers)
    with sigterm_as_ctrl_c(), ExitStack() as stack:
        client = None if dask is None else stack.enter_context(_client(dask, count))
        report = stack.enter_context(bars())
        states = run_survey(
            chosen,
            until=until,
            since=since,
            part=_part(shard),
            gather=gather,
            workers=count,
            client=client,
            timeout=60.0 * timeout,
            verify=verify,
            progress=report,
        )
    report_states(states, chosen, complete=until is None and shard is None)


def stage(name: str, survey: Path, /, *, workers: int | None = None) -> None:
    """Do one stage of a survey run; those before it must be done.

    Parameters
    ----------
    name
        ingest, gaia, sample, photometry, emulator, velocity, prepare, clean, labels, transfer, measure, joint,
        table, stack, catalogue or report.
    survey
        TOML file with the settings.
    workers
        Processes; by default as many as there are cores and memory for.
    """
    from stargap.pipeline.engine import default_workers, run_survey

    chosen = read_survey(survey)
    count = default_workers(chosen.measure.device) if workers is None else worker_count(workers)
    with sigterm_as_ctrl_c(), bars() as report:
        states = run_survey(chosen, only=name, workers=count, progress=report)
    report_states([state for state in states if state.stage == name], chosen, complete=True)


def settings(
    survey: Path | None = None,
    /,
    *,
    write: Path | None = None,
    preset: Literal["stargap", "paper"] | None = None,
    minimal: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Print the settings of a survey run with what each means, all defaults if no file is named.

    Parameters
    ----------
    survey
        TOML file to read and check.
    write
        File to write them to, instead of printing; it must not exist.
    preset
        Defaults to print: ours, or the paper's choices in every stage. A file names its preset itself.
    minimal
        Only where the spectra and Gaia's table are and where the run goes, and what is not as by default.
    """
    from stargap.files import replacing
    from stargap.pipeline.settings import SurveySettings
    from stargap.settings import example_toml

    if survey is not None and preset is not None:
        message = f'--preset is for settings without a file: write preset = "{preset}" into {survey} instead'
        raise UsageError(message)
    chosen = SurveySettings(preset=preset or "stargap") if survey is None else read_survey(survey)
    text = example_toml(chosen, only=MINIMAL if minimal else None)
    if write is None:
        print(text, end="")
        return
    if write.exists():
        message = f"{write} exists: name a new file"
        raise UsageError(message)
    with replacing(write) as file:
        file.write(text.encode())
    print(f"wrote {write}; set input.spectra, then: stargap run {write}")


def mock(
    *,
    stars: int,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("stargap-mock"),
    instrument: Literal["lamost", "desi", "sdss-v"] = "lamost",
    store: Annotated[bool, Parameter(negative="")] = False,
    seed: int = 1,
    mix: Literal["matched", "galactic"] = "galactic",
    junk: float = 0.05,
    repeats: float = 0.1,
) -> None:
    """Simulate a survey with known truth: spectra, LAMOST's catalogue, a Gaia table, and settings to run it with.

    The stars are of other physics than the models that measure them (docs/results/transfer.md); among them are repeats,
    binaries, variable and young stars, and eight kinds of junk. Tables of others on the same stars are written too
    (listed in tables.json): literature, APOGEE, variables, binaries, and wide binaries with their FGK primaries.

    Parameters
    ----------
    stars
        Number of targets.
    output
        Folder to write.
    instrument
        What the spectra are like, and the files they are in: LAMOST's, one each; DESI's coadd files, one a night for
        256 stars (0.4 MB a spectrum); SDSS-V's mwmVisit files of BOSS spectra, one a star. The stars are the same.
    store
        Write the spectra of LAMOST into a store instead of a file each: for a great many.
    seed
        Seed of everything random.
    mix
        Labels as the label prior has them, or 0.1 dex poorer in metals, 60 K cooler and wider.
    junk
        Fraction of the targets that are no M dwarfs, or spoilt.
    repeats
        Fraction of the others that is observed several times.
    """
    from stargap.files import replacing
    from stargap.mock.tables import companion_tables, reported_tables
    from stargap.mock.write import write_survey, write_survey_store
    from stargap.pipeline.settings import SurveySettings
    from stargap.settings import example_toml

    run_folder = output / "run"
    options: dict[str, Any] = {"seed": seed, "mix": mix, "junk": junk, "repeats": repeats}
    if store and instrument != "lamost":
        message = (
            f"--store is for spectra of LAMOST: leave it out, and stargap run makes a store of {instrument}'s files"
        )
        raise UsageError(message)
    with bars() as report:
        if store:
            write_survey_store(
                output, stars, **options, store=run_folder / "store", progress=lambda *done: report("simulating", *done)
            )
            given: dict[str, Any] = {}
        else:
            progress = partial(report, "simulating")
            write_survey(output, stars, **options, instrument=instrument, progress=progress)
            given = {"spectra": [str(output / "spectra")]}
            if instrument == "lamost":
                given["catalogue"] = output / "lamost.csv"
    chosen = SurveySettings(
        output=run_folder,
        input={**given, "gaia": output / "gaia.parquet", "simulated": True},  # type: ignore[arg-type]
        transfer={"use": "simulated", "prior": {"alpha": 0.0}},  # type: ignore[arg-type]
        measure={"fixed": {"a_m": 0.0}},  # type: ignore[arg-type]
        photometry={"logg_scatter": 0.06},  # type: ignore[arg-type]
        catalogue={"companions": companion_tables(output), "position_epoch": 2016.0},  # type: ignore[arg-type]
        report=reported_tables(output, instrument),
    )
    with replacing(output / "survey.toml") as file:
        file.write(example_toml(chosen).encode())
    print(f"wrote {output}; truth in {output / 'truth.parquet'}")
    print(f"next: stargap run {output / 'survey.toml'}")


def missing(catalogue: Path, folder: Path, /, *, output: Annotated[Path, Parameter(name=["--output", "-o"])]) -> None:
    """Write the list of a LAMOST catalogue's files that are not in a folder yet: obsid and path, as CSV.

    Parameters
    ----------
    catalogue
        Table of a LAMOST release: CSV with | or commas, FITS, Parquet or VOTable.
    folder
        Where the files are, in LAMOST's folders or flat; it need not exist yet.
    output
        CSV to write.
    """
    from stargap.spectra.store.lamost_files import write_missing
    from stargap.tables.read import read_table

    found = write_missing(read_table(catalogue), folder, output)
    print(f"wrote {output}: {found.files:,} files to download")
    if found.unnamed:
        rows = "1 row" if found.unnamed == 1 else f"{found.unnamed:,} rows"
        print(f"left out {rows} without lmjd, planid, spid or fiberid, the first is row {found.first_unnamed:,}")


def read_survey(path: Path) -> SurveySettings:
    """Read the settings of a run.

    Raises:
        UsageError: see `read_settings_as`.
    """
    from stargap.pipeline.settings import SurveySettings
    from stargap.settings import read_settings_as

    return read_settings_as(SurveySettings, path)


def _part(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        number, total = (int(word) for word in text.split("/"))
    except ValueError:
        message = f"--shard {text}: write i/N, such as 3/40"
        raise UsageError(message) from None
    return number, total


def _client(address: str, workers: int) -> Any:
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        message = "--dask needs dask.distributed: pip install 'stargap[dask]'"
        raise UsageError(message) from None
    if address == "local":
        return Client(LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None))
    try:
        return Client(address, timeout=20)
    except (OSError, ValueError) as error:
        message = f"--dask {address}: no scheduler answers ({error})"
        raise UsageError(message) from None


def report_states(states: list[StageState], settings: SurveySettings, *, complete: bool = False) -> None:
    """Print how far each stage is, the cuts beside the paper's, and what failed.

    Args:
        states: of the stages to print.
        settings: of the run.
        complete: exit with 3 unless every one of these stages is done.
    """
    screen = console()
    screen.print(_state_table(states))
    counts = next((state.counts for state in states if state.stage == "sample"), {})
    _print_cuts(counts, screen)
    processors = sorted({name for state in states for name in state.processors})
    if len(processors) > 1:
        print(
            f"pieces were made on processors of unlike instruction sets ({', '.join(processors)}): their numbers agree "
            "within errors, not bit for bit",
            file=sys.stderr,
        )
    _exit_where_failed(states)
    if complete and any(state.state != "done" for state in states):
        names = ", ".join(state.stage for state in states if state.state != "done")
        print(f"not done: {names}: something else changed the run meanwhile; run it again", file=sys.stderr)
        sys.exit(FAILED)
    for name, product in (("table", "measured.parquet"), ("catalogue", "catalogue"), ("report", "report/index.html")):
        if len(states) > 1 and any(state.stage == name and state.state == "done" and state.rows for state in states):
            print(f"{name:<9} {settings.output / product}")


def _state_table(states: list[StageState]) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in ("stage", "state", "pieces", "rows", "time", ""):
        table.add_column(name, justify="right" if name in ("pieces", "rows", "time") else "left")
    for state in states:
        pieces, rows = f"{state.made:,}/{state.pieces:,}", f"{state.rows:,}" if state.rows else ""
        counts = "; ".join(f"{name} {count:,.0f}" for name, count in state.counts.items() if ":" not in name)
        table.add_row(state.stage, state.state, pieces, rows, f"{state.seconds:,.1f} s", counts)
    return table


def _print_cuts(counts: dict[str, float], screen: Console) -> None:
    from stargap.pipeline.receipts import CUT_COUNTS
    from stargap.survey.sample import CutCount, Sample, print_counts

    names = list(dict.fromkeys(name.split(":")[0] for name in counts if ":" in name))
    if names:
        paper = {"class M dwarf": 818_686}
        numbers = ({what: int(counts[f"{name}: {what}"]) for what in CUT_COUNTS} for name in names)
        cuts = (CutCount(name, **one, paper=paper.get(name)) for name, one in zip(names, numbers, strict=True))
        screen.print()
        print_counts(Sample({}, tuple(cuts), ()), console=screen)


def _exit_where_failed(states: list[StageState]) -> None:
    """Print why pieces failed and what may help, and exit with 3; do nothing if none failed."""
    failures = [(state.stage, unit, why) for state in states for unit, why in state.failures.items()]
    if not failures:
        return
    for name, unit, why in failures[:20]:
        print(f"failed: {name}{'' if unit is None else f' shard {unit}'}: {why}", file=sys.stderr)
    passing = ("its process died", "it took longer", "its inputs changed")
    again = all(why.startswith(passing) for _, _, why in failures)
    advice = (
        "run the same command again to try once more, with fewer --workers or a longer --timeout where that was it"
        if again
        else "mend what is named, then run the same command again: what is done stays"
    )
    print(f"{len(failures)} pieces failed: {advice}", file=sys.stderr)
    sys.exit(FAILED)
