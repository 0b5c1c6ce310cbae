"""A simulated survey on disk: its spectra as files or in a store, and beside them every table and the truth."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stargap import __version__
from stargap.errors import UsageError
from stargap.files import claim_folder, replacing
from stargap.mock.collections import write_collections
from stargap.mock.files import write_lamost
from stargap.mock.nature import Mix
from stargap.mock.spectrographs import Instrument, mock_wavelength
from stargap.mock.survey import SurveyChunk, simulate_survey
from stargap.mock.tables import TABLES, TableFiles
from stargap.spectra.log_lambda import NativeBatch, concatenate, empty_batch, native_batch
from stargap.spectra.spectrum import Facts, Spectrum
from stargap.spectra.store.shards import SHARD_ROWS, Dtype, write_shard
from stargap.spectra.store.store import finish
from stargap.tables.parquet import parquet_writer

__all__ = ["write_survey", "write_survey_store"]

CONTENT = 4
"""Version of what a survey of given settings holds; the files of another version are not taken for its own."""
LAMOST = [
    "obsid", "uid", "designation", "obsdate", "lmjd", "mjd", "planid", "spid", "fiberid", "ra_obs", "dec_obs", "snru",
    "snrg", "snrr", "snri", "snrz", "class", "subclass", "z", "gaia_source_id", "gaia_g_mean_mag", "fibermask", "ra",
    "dec",
]  # fmt: skip
"""The columns of LAMOST's catalogue that are written."""


SpectrumWriter = AbstractContextManager[Callable[[SurveyChunk], None]]
"""Writes the spectra of a survey chunk by chunk; leaving the ``with`` block without an error completes them."""


def write_survey(
    folder: str | Path,
    stars: int,
    *,
    seed: int,
    mix: Mix = "galactic",
    junk: float = 0.05,
    repeats: float = 0.1,
    instrument: Instrument = "lamost",
    progress: Callable[[int, int], Any] | None = None,
) -> Path:
    """Write a simulated survey as files of its instrument, with a Gaia table and the truth.

    In `folder`: ``spectra/YYYYMMDD/PLANID/spec-LMJD-PLANID_spSS-FFF.fits.gz`` in the layouts of DR2-DR8 and of DR9 and
    later, ``lamost.csv`` (pipe-delimited, LAMOST's column names), or in their places DESI's files, one a tile and
    night, or SDSS-V's ``mwmVisit`` files, one a star (`stargap.mock.collections`); ``gaia.parquet`` (positions at
    2016.0, one row per star), ``truth.parquet`` (one row per spectrum), the tables of `stargap.mock.tables` with
    ``tables.json``, and ``survey.json``, which says what the survey was made of. Every file is complete or absent, and
    ``truth.parquet`` comes last; a run that was stopped goes on where it was.

    Args:
        folder: where to write; made, or one of an earlier call.
        stars: number of targets; `seed`, `mix`, `junk` and `repeats` as in `simulate_survey`.
        seed: of everything random.
        mix: of labels.
        junk: fraction of the targets.
        repeats: fraction of the targets that is observed several times.
        instrument: that observes them; the stars are the same for all.
        progress: called as ``progress(done, stars)``.

    Returns:
        `folder`.

    Raises:
        UsageError: no stars, or a folder that holds another survey or files of others.

    Example:
        >>> folder = write_survey(getfixture("tmp_path"), 2, seed=1)
        >>> sorted(path.name for path in folder.iterdir() if path.suffix != ".csv")
        ['.stargap', 'gaia.parquet', 'spectra', 'survey.json', 'tables.json', 'truth.parquet']
        >>> sorted(path.stem for path in folder.glob("*.csv"))
        ['apogee', ..., 'lamost', 'laspm', 'literature', 'variables', 'wide_binaries']
    """
    folder = Path(folder)
    made_of: dict[str, Any] = {"stars": stars, "seed": seed, "mix": mix, "junk": junk, "repeats": repeats}
    options: dict[str, Any] = {"seed": seed, "mix": mix, "junk": junk, "repeats": repeats, "instrument": instrument}
    if instrument == "lamost":
        chunks = simulate_survey(stars, **options, wavelength=mock_wavelength())
        last = folder / "lamost.csv"
        spectra: SpectrumWriter = _lamost_files(folder)
    else:
        made_of["instrument"] = instrument
        chunks = simulate_survey(stars, **options)
        last = folder / "truth.parquet"
        spectra = nullcontext(partial(write_collections, folder, seed=seed))
    if _begin(folder, made_of, last):
        _write_all(folder, chunks, made_of, spectra, progress)
    return folder


def write_survey_store(
    folder: str | Path,
    stars: int,
    *,
    seed: int,
    mix: Mix = "galactic",
    junk: float = 0.05,
    repeats: float = 0.1,
    store: str | Path | None = None,
    dtype: Dtype = "float32",
    shard_rows: int = SHARD_ROWS,
    progress: Callable[[int, int], Any] | None = None,
) -> Path:
    """Write a simulated survey whose spectra go straight into a store: as many as one likes, without a file for each.

    Beside the store stand the tables of `write_survey` except LAMOST's catalogue, whose Gaia identifiers the store has.

    Args:
        folder: where to write; made, or one of an earlier call.
        stars: number of targets; `seed`, `mix`, `junk` and `repeats` as in `simulate_survey`.
        seed: of everything random.
        mix: of labels.
        junk: fraction of the targets.
        repeats: fraction of the targets that is observed several times.
        store: folder of the store, by default ``store`` in `folder`.
        dtype: of the pixels in the store.
        shard_rows: spectra per shard.
        progress: called as ``progress(done, stars)``.

    Returns:
        `folder`.

    Raises:
        UsageError: no stars, or a folder that holds another survey or files of others.

    Example:
        >>> folder = write_survey_store(getfixture("tmp_path"), 2, seed=1, repeats=0.0)
        >>> sorted(path.name for path in folder.iterdir() if path.suffix != ".csv")
        ['.stargap', 'gaia.parquet', 'store', 'survey.json', 'tables.json', 'truth.parquet']
    """
    folder = Path(folder)
    store = folder / "store" if store is None else Path(store)
    chunks = simulate_survey(stars, seed=seed, mix=mix, junk=junk, repeats=repeats)
    made_of: dict[str, Any] = {"stars": stars, "seed": seed, "mix": mix, "junk": junk, "repeats": repeats}
    made_of |= {"dtype": dtype, "shard_rows": shard_rows}
    if _begin(folder, made_of, store / "manifest.json"):
        settings = {"simulated": stars, "seed": seed, "mix": mix}
        _write_all(folder, chunks, made_of, _store_shards(store, settings, dtype, shard_rows), progress)
    return folder


def _begin(folder: Path, made_of: dict[str, Any], last: Path) -> bool:
    """Claim the folder for a survey, and return whether any of it is still to be written."""
    if made_of["stars"] < 1:
        message = f"{made_of['stars']} stars: a survey has 1 or more"
        raise UsageError(message)
    claim_folder(folder, "simulated survey")
    note, made_of = folder / "survey.json", _note(made_of)
    if note.exists():
        try:
            before = json.loads(note.read_text(encoding="utf-8"))
        except ValueError as error:
            message = f"{note}: not the note of a simulated survey ({error})"
            raise UsageError(message) from None
        if before != made_of:
            message = f"{folder}: holds the survey {before}, not {made_of}: choose another folder"
            raise UsageError(message)
    else:
        with replacing(note) as file:
            file.write(json.dumps(made_of, indent=1).encode())
    return not all(
        path.exists() for path in (last, *(folder / name for name in ("truth.parquet", "gaia.parquet", *TABLES)))
    )


def _note(made_of: dict[str, Any]) -> dict[str, Any]:
    return {"stargap": __version__, "content": CONTENT, **made_of}


def _write_all(
    folder: Path,
    chunks: Iterator[SurveyChunk],
    made_of: dict[str, Any],
    spectra: SpectrumWriter,
    progress: Callable[[int, int], Any] | None,
) -> None:
    import pyarrow as pa

    done = 0
    with ExitStack() as stack:  # closed in reverse: the truth is renamed after everything else
        files = [stack.enter_context(replacing(folder / name)) for name in ("truth.parquet", "gaia.parquet")]
        add_spectra = stack.enter_context(spectra)
        others = TableFiles(folder, stack, seed=made_of["seed"])
        writers: list[Any] = []
        for chunk in chunks:
            add_spectra(chunk)
            tables = [
                pa.table({name: pa.array(values, from_pandas=True) for name, values in part.items()})
                for part in (chunk.truth, chunk.gaia)
            ]
            if not writers:
                note = {"stargap": json.dumps(_note(made_of))}
                writers = [
                    stack.enter_context(parquet_writer(file, table.schema.with_metadata(note)))
                    for file, table in zip(files, tables, strict=True)
                ]
            for writer, table in zip(writers, tables, strict=True):
                writer.write_table(table)
            others.add(chunk)
            done += len(chunk.gaia["source_id"])
            if progress is not None:
                progress(done, made_of["stars"])


@contextmanager
def _lamost_files(folder: Path) -> Iterator[Callable[[SurveyChunk], None]]:
    """Write spectra as LAMOST files below ``spectra/``, with LAMOST's catalogue; files that exist are kept."""

    def add(chunk: SurveyChunk) -> None:
        for row, spectrum in enumerate(chunk.spectra):
            path = folder / "spectra" / spectrum.facts.path
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                _write_file(path, spectrum)
            catalogue.writerow(_catalogue_row(chunk, row))

    with replacing(folder / "lamost.csv") as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        catalogue = csv.writer(text, delimiter="|", lineterminator="\n")
        catalogue.writerow(LAMOST)
        try:
            yield add
        finally:
            text.detach()


def _write_file(path: Path, spectrum: Spectrum) -> None:
    facts = spectrum.facts
    write_lamost(
        path,
        spectrum.wavelength,
        spectrum.flux,
        spectrum.ivar,
        layout="lamost-image" if facts.layout == "lamost-image" else "lamost-table",
        andmask=(spectrum.ivar == 0).astype(int),
        obsid=facts.obsid,
        designation=facts.designation,
        ra=facts.ra,
        dec=facts.dec,
        snr={band: getattr(facts, f"snr_{band}") for band in "ugriz"},
        subclass=facts.subclass or "",
        release=facts.release,
        plan_id=facts.plan_id or "",
        lmjd=facts.lmjd or 0,
        spectrograph=facts.spectrograph or 0,
        fiber=facts.fiber or 0,
        fiber_mask=facts.fiber_mask or 0,
        pipeline_z=facts.pipeline_z,
        compress=True,
    )


def _catalogue_row(chunk: SurveyChunk, row: int) -> list[Any]:
    facts = chunk.spectra[row].facts
    star = int(np.searchsorted(chunk.gaia["source_id"], chunk.truth["source_id"][row]))
    known = chunk.truth["gaia_in_lamost"][row]
    values = [
        facts.obsid,
        chunk.truth["uid"][row],
        facts.designation,
        (facts.date_obs or "")[:10],
        facts.lmjd,
        facts.lmjd,
        facts.plan_id,
        facts.spectrograph,
        facts.fiber,
        facts.ra,
        facts.dec,
        *(getattr(facts, f"snr_{band}") for band in "ugriz"),
        facts.object_class,
        facts.subclass,
        facts.pipeline_z,
        chunk.truth["source_id"][row] if known else None,
        round(float(chunk.gaia["phot_g_mean_mag"][star]), 3) if known else None,
        facts.fiber_mask,
        facts.ra,
        facts.dec,
    ]
    return [-9999 if value is None else value for value in values]


@dataclass
class _Rows:
    """Spectra that wait for their shard to be full."""

    native: NativeBatch = field(default_factory=lambda: empty_batch(0))
    facts: list[Facts] = field(default_factory=list)
    failure: list[str] = field(default_factory=list)
    source: list[int | None] = field(default_factory=list)

    def __getitem__(self, rows: slice) -> _Rows:
        return _Rows(self.native[rows], self.facts[rows], self.failure[rows], self.source[rows])


@contextmanager
def _store_shards(
    store: Path, settings: dict[str, Any], dtype: Dtype, shard_rows: int
) -> Iterator[Callable[[SurveyChunk], None]]:
    """Write spectra into the shards of a store, whose manifest comes last."""
    waiting, number = _Rows(), 0

    def add(chunk: SurveyChunk) -> None:
        nonlocal waiting
        native, facts, failure = native_batch(chunk.spectra)
        known = zip(chunk.truth["source_id"].tolist(), chunk.truth["gaia_in_lamost"].tolist(), strict=True)
        source = [source if in_lamost else None for source, in_lamost in known]
        waiting = _Rows(
            concatenate([waiting.native, native]),
            waiting.facts + facts,
            waiting.failure + failure,
            waiting.source + source,
        )
        while len(waiting.facts) >= shard_rows:
            write_next()

    def write_next() -> None:
        nonlocal waiting, number
        rows, waiting = waiting[:shard_rows], waiting[shard_rows:]
        columns: dict[str, list[Any]] = {"failure": rows.failure, "gaia_source_id": rows.source}
        write_shard(store, number, rows.native, columns, rows.facts, dtype=dtype, shard_rows=shard_rows)
        number += 1

    claim_folder(store, "store")
    yield add
    rows = number * shard_rows + len(waiting.facts)
    if waiting.facts:
        write_next()
    finish(store, rows, settings=settings, dtype=dtype, shard_rows=shard_rows)
