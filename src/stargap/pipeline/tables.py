"""The stages that need every shard: the cleaning, the table of the survey, the catalogue."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stargap.catalogue.ages import Ages, kinematic_ages
from stargap.catalogue.build import build_catalogue
from stargap.catalogue.precision import Precision, fit_precision, published_errors
from stargap.catalogue.publish import write_catalogue
from stargap.catalogue.stars import star_numbers
from stargap.catalogue.velocity import VelocityScale, fit_velocity_scale, on_scale
from stargap.files import part_folder, replacing, sweep_parts
from stargap.memory import release_memory
from stargap.pipeline.folder import Columns, Made, Run, content_digest, joined_rows
from stargap.spectra.prepared import PreparedSpectra
from stargap.spectra.store.shards import Shard
from stargap.survey.cleaning.bins import Features
from stargap.survey.cleaning.clean import Cleaning, clean
from stargap.survey.cleaning.marked import overrule_spectra, read_marked, refuse_other_run
from stargap.survey.cleaning.page import overrule, write_cleaning_page
from stargap.survey.cleaning.rules import is_rejected
from stargap.tables.columns import CATALOGUE, INT_NULL, SURVEY
from stargap.tables.parquet import parquet_writer, read_columns, write_columns, write_parts

__all__ = ["companion_digests", "make_catalogue", "make_clean", "make_table", "overrule_digest"]


def make_clean(run: Run, unit: int | None) -> Made:
    """Clean the whole sample, and show the rejected clusters in ``cleaning.html``."""
    parts = [Features.load(run.bins(number)) for number in range(run.shards())]
    (run.folder / "clean").mkdir(exist_ok=True)
    sweep_parts(run.folder / "clean")
    with part_folder(run.folder / "clean") as folder:
        cleaning = clean(parts, run.settings.cleaning, folder=folder)
    if run.settings.input.overrule is not None:
        cleaning = overrule(cleaning, run.settings.input.overrule)
    if run.settings.input.marked is not None:
        cleaning = _overruled_one_by_one(run, cleaning, run.settings.input.marked)
    starts = np.cumsum([0, *map(len, parts)])
    shown = partial(_prepared_rows, run, starts)
    products, first = list(write_cleaning_page(run.folder / "cleaning.html", cleaning, shown)), 0
    for number in range(run.shards()):
        ids = read_columns(run.part("velocity", number), ["spectrum_id"])["spectrum_id"]
        part = slice(first, first + len(ids))
        columns = {"spectrum_id": ids, "cluster": cleaning.cluster[part], "clean_flags": cleaning.flags[part]}
        products.append(run.part("clean", number))
        write_columns(products[-1], columns | {"rejected": cleaning.rejected[part]})
        first += len(ids)
    return Made(products, first, {"rejected": int(cleaning.rejected.sum())})


def _prepared_rows(run: Run, starts: NDArray[np.int64], rows: NDArray[np.int64]) -> PreparedSpectra:
    """Return some of all spectra, ascending, prepared; shards begin at `starts` ``(shard + 1,)``."""
    from stargap.pipeline.spectra import prepared_spectra

    places = np.split(rows, np.searchsorted(rows, starts[1:-1]))
    parts = [prepared_spectra(run, unit, some - starts[unit]) for unit, some in enumerate(places) if some.size]
    return PreparedSpectra.joined(parts)


def _overruled_one_by_one(run: Run, cleaning: Cleaning, path: Path) -> Cleaning:
    """Apply a person's marks, unless they are of another run, whose spectra of these numbers are other ones."""
    marked, units = read_marked(path), range(run.shards())
    ids = [read_columns(run.part("velocity", number), ["spectrum_id"])["spectrum_id"] for number in units]
    for number in {*(marked["spectrum_id"] // max(run.rows(0), 1)).tolist()} & {*units}:
        index = read_columns(Shard.open(run.store, number).file("index.parquet"), ["spectrum_id", "obsid"])
        refuse_other_run(marked, index["spectrum_id"], index["obsid"], path)
    return overrule_spectra(cleaning, marked, np.concatenate([np.empty(0, dtype=np.int64), *ids]), path)


def overrule_digest(run: Run, unit: int | None) -> dict[str, str]:
    """Return the checksums of a person's verdicts."""
    given = {"overrule": run.settings.input.overrule, "marked": run.settings.input.marked}
    return {name: content_digest(path) for name, path in given.items() if path is not None}


def make_table(run: Run, unit: int | None) -> Made:
    """Join everything by ``spectrum_id``, one row per spectrum, in its order."""
    path = run.folder / "measured.parquet"
    parts = (_joined_shard(run, number) for number in range(run.shards()))
    write_parts(parts, path, schema=SURVEY, provenance=run.provenance())
    groups = _write_groups(run, path)
    return Made([path, groups], run.rows(None))


_GROUPED = ("spectrum_id", "gaia_source_id", "in_sample", "clean_flags", "rv", "use_rv", "use_teff")


def _write_groups(run: Run, path: Path) -> Path:
    """Write the spectra that are stacked, star by star, a row group per shard: stars whose first spectrum is in it.

    They are the usable spectra of stars that have several.
    """
    import pyarrow as pa

    table = read_columns(path, list(_GROUPED))
    usable = table["in_sample"] & ~is_rejected(table["clean_flags"]) & (table["gaia_source_id"] != INT_NULL)
    usable &= (table["use_rv"] == 1) & (table["use_teff"] == 1)
    rows = np.flatnonzero(usable)
    star, count = star_numbers(table["gaia_source_id"][rows])
    order = np.argsort(star, kind="stable")
    rows, star = rows[order], star[order]
    first, spectra = rows[np.searchsorted(star, np.arange(count))], np.bincount(star, minlength=count)
    rows, first = rows[spectra[star] > 1], first[star][spectra[star] > 1]
    edges = np.searchsorted(first, np.arange(run.shards() + 1) * run.rows(0))
    chosen = pa.table({name: table[name][rows] for name in ("spectrum_id", "gaia_source_id", "rv")})
    with replacing(run.groups) as file, parquet_writer(file, chosen.schema) as writer:
        for begin, end in pairwise(edges.tolist()):
            writer.write_table(chosen.slice(begin, end - begin), row_group_size=max(1, end - begin))
    return run.groups


def _joined_shard(run: Run, unit: int) -> Columns:
    """Return the columns ``SURVEY`` of one shard; spectra that were not cleaned are in no cluster."""
    measured, sample, clean = (read_columns(run.part(stage, unit)) for stage in ("measure", "sample", "clean"))
    ids = measured["spectrum_id"]
    inside = joined_rows(ids, sample["spectrum_id"], run.part("sample", unit))
    cleaned = joined_rows(clean["spectrum_id"], ids, run.part("measure", unit))
    columns = {name: values[inside] for name, values in sample.items()}
    for stage in ("photometry", "joint"):
        labels = read_columns(run.part(stage, unit))
        labelled = joined_rows(ids, labels["spectrum_id"], run.part(stage, unit))
        columns |= {name: values[labelled] for name, values in labels.items()}
    columns |= {"cluster": np.full(len(ids), INT_NULL), "clean_flags": np.zeros(len(ids), dtype=np.int64)}
    for name in ("cluster", "clean_flags"):
        columns[name][cleaned] = clean[name]
    columns |= measured
    return {column.name: columns[column.name] for column in SURVEY}


def companion_digests(run: Run, unit: int | None) -> dict[str, str]:
    """Return checksums of the tables of variables and binaries."""
    return {name: content_digest(one.path()) for name, one in run.settings.catalogue.companions.items()}


LABELS_WITH_ERRORS = ("rv", "teff", "logg", "m_h")
AGAINST_GAIA = ("rv_zero", "e_rv_sys", "gaia_rv", "e_gaia_rv", "ruwe", "use_rv")
MOTION = ("ra", "dec", "parallax", "e_parallax", "pmra", "pmdec", "e_pmra", "e_pmdec", "rv", "e_rv")
_KINDS = {column.name: column.dtype for column in CATALOGUE}
CALIBRATION, OTHER = "rgb", "msto"
"""Age calibrations: first the one of the paper's cut, then the other one."""


def make_catalogue(run: Run, unit: int | None) -> Made:
    """Calibrate errors on repeats and velocities on Gaia's, add ages, cross-match, cut, and write (paper section 4)."""
    table, folder = run.folder / "measured.parquet", run.folder / "catalogue"
    folder.mkdir(exist_ok=True)
    precision, scale, added, counts = _calibrated(run, table)
    models: dict[str, Precision | VelocityScale] = {"precision.json": precision}
    models |= {} if scale is None else {"velocity.json": scale}
    for name, found in models.items():
        with replacing(folder / name) as file:
            file.write(found.model_dump_json(indent=1).encode())
    release_memory()
    built = build_catalogue(
        table,
        folder,
        run.settings.catalogue,
        added=added,
        population=run.settings.photometry,
        stacks=_calibrated_stacks(run, precision),
    )
    release_memory()
    written = write_catalogue(folder, formats=run.settings.publish.formats)
    if run.settings.publish.paper_table:
        written += write_catalogue(folder, formats=run.settings.publish.formats, paper=True)
    final = int(read_columns(built.spectra, ["in_final_catalogue"])["in_final_catalogue"].sum())
    reports = [*models, "cuts.md", "cuts.json"]
    files = [*(folder / name for name in reports), built.spectra, built.stars, *dict.fromkeys(written)]
    return Made(files, run.rows(None), {"stars": built.star_count, "final": final, **counts})


def _calibrated_stacks(run: Run, precision: Precision) -> Columns:
    """Return the labels of stacked spectra, with the errors that repeats show at their S/N."""
    parts = [read_columns(run.part("stack", unit)) for unit in range(run.shards())]
    stacks = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for name in LABELS_WITH_ERRORS[1:]:
        error = precision.errors[name].calibrated_error(stacks[f"e_{name}_stack"], stacks["snr_r_stack"])
        stacks[f"e_{name}_stack"] = error.astype(np.float32)
    return stacks


def _calibrated(run: Run, table: Path) -> tuple[Precision, VelocityScale | None, Columns, dict[str, int]]:
    """Return what repeats and Gaia's velocities say, the columns that follow, ages too, and counts to report."""
    names = {"spectrum_id", "gaia_source_id", "snr_r", "in_sample", "clean_flags", *AGAINST_GAIA}
    names |= {f"{mark}{name}" for name in LABELS_WITH_ERRORS for mark in ("", "e_")}
    names |= {*MOTION} if run.settings.publish.ages else set()
    columns = read_columns(table, sorted(names))
    usable = columns["in_sample"] & ~is_rejected(columns["clean_flags"])
    precision = fit_precision(columns, use=usable)
    errors = published_errors(precision, columns)
    paper = run.settings.catalogue.errors == "paper"
    if paper:
        errors |= {f"e_{name}": errors[f"e_{name}_paper"] for name in LABELS_WITH_ERRORS}
    added, scale = {"spectrum_id": columns["spectrum_id"]}, None
    if not paper:
        scale = fit_velocity_scale(columns | {"e_rv": errors["e_rv"]}, use=usable)
        columns |= on_scale(scale, columns)
        added |= {name: columns[name] for name in ("rv", "rv_zero", "e_rv_sys")}
    added |= {name: values for name, values in errors.items() if name in _KINDS}
    if not run.settings.publish.ages:
        return precision, scale, _as_published(added), {}
    ages = kinematic_ages({**columns, "e_rv": np.hypot(errors["e_rv"], np.nan_to_num(columns["e_rv_sys"]))})
    counts = {f"young by {name}": number for name, number in ages.young.items()}
    return precision, scale, _as_published(added | _age_columns(ages)), counts


def _as_published(columns: Columns) -> Columns:
    """Return columns in the types of the catalogue, which need half the memory."""
    return {name: values.astype(_KINDS[name], copy=False) for name, values in columns.items()}


def _age_columns(ages: Ages) -> Columns:
    """Name the columns of ages as the catalogue does."""
    found = {name: ages.columns[name] for name in ("ln_jz", "e_ln_jz", "age_flags")}
    found |= {f"age_{what}": ages.columns[f"age_{CALIBRATION}_{what}"] for what in ("mean", "median", "p16", "p84")}
    return {**found, f"age_median_{OTHER}": ages.columns[f"age_{OTHER}_median"]}
