"""A simulated survey as a folder: LAMOST files, LAMOST's catalogue, a Gaia table, tables of others and the truth."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from stargap import __version__
from stargap.errors import UsageError
from stargap.files import replacing
from stargap.mock.files import write_lamost
from stargap.mock.nature import Mix
from stargap.mock.spectra import mock_wavelength
from stargap.mock.survey import SurveyChunk, simulate_survey
from stargap.mock.tables import TABLES, TableFiles
from stargap.spectra.spectrum import Spectrum

__all__ = ["write_survey"]

PRODUCTS = ("truth.parquet", "gaia.parquet", "lamost.csv")
CONTENT = 2
"""Of a survey of the same name: what an earlier version made is not taken for what this one makes."""
LAMOST = [
    "obsid", "uid", "designation", "obsdate", "lmjd", "mjd", "planid", "spid", "fiberid", "ra_obs", "dec_obs", "snru",
    "snrg", "snrr", "snri", "snrz", "class", "subclass", "z", "gaia_source_id", "gaia_g_mean_mag", "fibermask", "ra",
    "dec",
]  # fmt: skip
"""The columns of LAMOST's catalogue that are written."""


def write_survey(
    folder: str | Path,
    stars: int,
    *,
    seed: int,
    mix: Mix = "galactic",
    junk: float = 0.05,
    repeats: float = 0.1,
    progress: Callable[[int, int], Any] | None = None,
) -> Path:
    """Write a simulated survey as LAMOST files, with LAMOST's catalogue, a Gaia table and the truth.

    In `folder`: ``spectra/YYYYMMDD/PLANID/spec-LMJD-PLANID_spSS-FFF.fits.gz`` in the layouts of DR2-DR8 and of DR9 and
    later, ``lamost.csv`` (pipe-delimited, LAMOST's column names), ``gaia.parquet`` (positions at 2016.0, one row a
    star), ``truth.parquet`` (one row a spectrum), the tables of others of `stargap.mock.tables` with ``tables.json``,
    and ``survey.json``, which says what the survey was made of. Every file is complete or absent, and
    ``truth.parquet`` comes last; a stopped run goes on where it was.

    Args:
        folder: where; it is made.
        stars: number of targets; `seed`, `mix`, `junk` and `repeats` as in `simulate_survey`.
        seed: of everything random.
        mix: of labels.
        junk: fraction of the targets.
        repeats: fraction observed several times.
        progress: called as ``progress(done, stars)``.

    Returns:
        `folder`.

    Raises:
        UsageError: no stars, or a folder that holds another survey.

    Example:
        >>> folder = write_survey(getfixture("tmp_path"), 2, seed=1)
        >>> sorted(path.name for path in folder.iterdir() if path.suffix != ".csv")
        ['gaia.parquet', 'spectra', 'survey.json', 'tables.json', 'truth.parquet']
        >>> sorted(path.stem for path in folder.glob("*.csv"))
        ['apogee', ..., 'lamost', 'laspm', 'literature', 'variables', 'wide_binaries']
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if stars < 1:
        message = f"{stars} stars: a survey has 1 or more"
        raise UsageError(message)
    chunks = simulate_survey(stars, seed=seed, mix=mix, junk=junk, repeats=repeats, wavelength=mock_wavelength())
    folder = Path(folder)
    made_of = {
        "stargap": __version__,
        "content": CONTENT,
        "stars": stars,
        "seed": seed,
        "mix": mix,
        "junk": junk,
        "repeats": repeats,
    }
    _claim(folder, made_of)
    if all((folder / name).exists() for name in (*PRODUCTS, *TABLES)):
        return folder
    with ExitStack() as stack:
        files = [stack.enter_context(replacing(folder / name)) for name in PRODUCTS]
        others = TableFiles(folder, stack, seed=seed)
        writers: list[pq.ParquetWriter] = []
        text = io.TextIOWrapper(files[2], encoding="utf-8", newline="", write_through=True)
        stack.callback(text.detach)
        catalogue = csv.writer(text, delimiter="|", lineterminator="\n")
        catalogue.writerow(LAMOST)
        done = 0
        for chunk in chunks:
            for row, spectrum in enumerate(chunk.spectra):
                _write(folder / "spectra" / spectrum.facts.path, spectrum)
                catalogue.writerow(_catalogue_row(chunk, row))
            tables = [
                pa.table({name: pa.array(values, from_pandas=True) for name, values in part.items()})
                for part in (chunk.truth, chunk.gaia)
            ]
            if not writers:
                note = {"stargap": json.dumps(made_of)}
                writers = [
                    stack.enter_context(pq.ParquetWriter(file, table.schema.with_metadata(note)))
                    for file, table in zip(files, tables, strict=False)
                ]
            for writer, table in zip(writers, tables, strict=True):
                writer.write_table(table)
            others.add(chunk)
            done += len(chunk.gaia["source_id"])
            if progress is not None:
                progress(done, stars)
    return folder


def _claim(folder: Path, made_of: dict[str, Any]) -> None:
    note = folder / "survey.json"
    if note.exists():
        try:
            before = json.loads(note.read_text(encoding="utf-8"))
        except ValueError as error:
            message = f"{note}: not the note of a simulated survey ({error})"
            raise UsageError(message) from None
        if before != made_of:
            message = f"{folder}: holds the survey {before}, not {made_of}: choose another folder"
            raise UsageError(message)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(note) as file:
        file.write(json.dumps(made_of, indent=1).encode())


def _write(path: Path, spectrum: Spectrum) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
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
    snr = [getattr(facts, f"snr_{band}") for band in "ugriz"]
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
        *snr,
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
