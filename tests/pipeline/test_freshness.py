"""What a run follows from: whatever changes is made again or refused, and damage is noticed where it is read."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from stargap.errors import StargapError, UsageError
from stargap.mock.tables import companion_tables, reported_tables
from stargap.pipeline import stages
from stargap.pipeline.engine import run_survey
from stargap.pipeline.folder import Run
from stargap.pipeline.freshness import (
    pending,
    piece_key,
    refuse_other_settings,
    remove_damaged,
    stage_named,
    stage_states,
    units_of,
)
from stargap.pipeline.perform import Job, perform
from stargap.pipeline.receipts import Receipt, read_receipt, write_receipt
from stargap.pipeline.settings import SurveySettings
from stargap.tables.columns import Column
from stargap.theory.emulator import shipped_emulator
from stargap.transfer.residual.model import shipped_transfer


@pytest.fixture(scope="module")
def files(survey, tmp_path_factory):
    """A copy of the survey's files, a transfer and verdicts, all of which settings name."""
    folder = tmp_path_factory.mktemp("files")
    shutil.copytree(survey, folder / "survey")
    transfer = shipped_transfer()
    card = transfer.card
    about = {name: getattr(card, name) for name in ("training_data", "settings", "scores", "simulated", "seed")}
    transfer.save(folder / "t.safetensors", **about)
    (folder / "emulator").mkdir()
    transfer.emulator.save(folder / "emulator/emulator.safetensors")
    (folder / "verdicts.toml").write_text('made_for = "0"\n[clusters]\n')
    (folder / "marked.csv").write_text("spectrum_id,mark\n0,reject\n")
    return folder


@pytest.fixture(scope="module")
def everything(files):
    """Settings in which every path is given."""
    survey = files / "survey"
    return SurveySettings.model_validate(
        {
            "output": files / "run",
            "input": {
                "spectra": [str(survey / "spectra")],
                "catalogue": survey / "lamost.csv",
                "gaia": survey / "gaia.parquet",
                "overrule": files / "verdicts.toml",
                "marked": files / "marked.csv",
            },
            "ingest": {"shard_rows": 16},
            "emulator": {"model": files / "emulator"},
            "transfer": {"use": "model", "model": files / "t.safetensors", "prior": {"alpha": 0.0}},
            "measure": {"fixed": {"logg": 4.8}, "bounds": {"teff": (3000.0, 4000.0)}, "error_floor": 0.01},
            "catalogue": {"companions": companion_tables(survey)},
            "report": reported_tables(survey).model_dump(),
        }
    )


@pytest.fixture(scope="module")
def pretended(everything):
    """A run all of whose pieces have receipts, although nothing was made."""
    run = Run(everything.output, everything)
    run.folder.mkdir()
    run.plan()
    for stage in stages.STAGES:
        for unit in units_of(run, stage):
            receipt = Receipt(
                key=piece_key(run, stage, unit), stargap=stages_version(), processor="AVX2", rows=0, seconds=0.0,
                settings=stage.settings(run.settings), counts={}, products={},
            )  # fmt: skip
            write_receipt(run.receipt(stage.name, unit), receipt)
    assert is_fresh(everything)
    return everything


def stages_version():
    from stargap import __version__

    return __version__


def is_fresh(settings, *, plan=True):
    """Whether a run with these settings would make nothing; a refusal counts as noticed.

    Its inputs are looked for unless they are known to be those that are planned.
    """
    run = Run(settings.output, settings)
    try:
        refuse_other_settings(run, ())
        if plan:
            run.plan()
        return bool(run.shards()) and not any(pending(run, stage) for stage in stages.STAGES)
    except StargapError:
        return False


def leaves(settings: BaseModel, place: tuple[str, ...] = ()):
    """Every setting that is no table, with the type it is declared with."""
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, (*place, name))
        elif isinstance(value, dict) and value and all(isinstance(one, BaseModel) for one in value.values()):
            for key, one in value.items():
                yield from leaves(one, (*place, name, key))
        else:
            yield (*place, name), value, field.annotation


def others(value: Any, kind: Any, files: Path):
    """Other values of a setting, of which at least one should be allowed."""
    choices = [kind, *get_args(kind)]
    for choice in choices:
        if get_origin(choice) is Literal:
            yield from (one for one in get_args(choice) if one != value)
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value - 1, value * 0.9, value * 1.1)
    elif isinstance(value, Path):
        yield files / "other.csv"
    elif isinstance(value, str):
        yield from (f"{value}x", str(files / "other.csv"))
    elif isinstance(value, tuple) and value and isinstance(value[0], float):
        yield (*value[:-1], value[-1] + 0.5)
    elif isinstance(value, tuple | list):
        yield from ([*value, "x"], [*value, "cds"], value[1:])
    elif isinstance(value, dict):
        yield from ({**value, name: other} for name in value for other in ("x", 1.5, (0.0, 1.0)))
        yield from ({"logg": 4.8}, {"m_h": (-0.5, 0.5)}, {"flux": "SPEC"}, {"x": 1}, {"x": (0, 1)}, {"teff": 1.0})
    elif value is None:
        yield from (0.02, 1, "x", files / "other.csv")


def changed(settings, place, value):
    content = settings.model_dump()
    inner = content
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    return SurveySettings.model_validate(content)


def copied(settings, files, to):
    """Copy a run with its inputs, and return the settings of the copy."""
    shutil.copytree(files, to)
    return SurveySettings.model_validate_json(settings.model_dump_json().replace(str(files), str(to)))


def test_a_run_that_moved_with_its_inputs_is_as_it_was(pretended, files, tmp_path):
    """Content counts, not the place: no receipt holds a whole path."""
    there = copied(pretended, files, tmp_path / "elsewhere")
    assert is_fresh(there)
    receipts = [path.read_text() for path in (there.output / "receipts").rglob("*.json")]
    assert receipts
    assert not any(str(files) in text for text in receipts)


def test_every_setting_that_changes_is_noticed(pretended, files):
    (files / "other.csv").write_text("obsid\n1\n")
    unnoticed, same, count = [], [], 0
    for place, value, kind in leaves(pretended):
        if ".".join(place) in ("output", "preset", "transfer.architecture"):
            continue  # another run, nothing where every setting is given, and the paper's choice, which may stand there
        for other in others(value, kind, files):
            try:
                new = changed(pretended, place, other)
            except ValidationError:
                continue
            if new != pretended:
                count += 1
                break
        else:
            same.append(".".join(place))
            continue
        if is_fresh(new, plan=place[0] in ("input", "ingest")):
            unnoticed.append((".".join(place), value, other))
    assert [name for name, _, _ in unnoticed] == []
    assert count > 90
    # what cannot be changed alone, or does nothing here and is refused
    alone = ("measure.preset", "emulator.resolution", "emulator.seed", "emulator.grid")
    allowed = (*alone, "transfer.", "report.binaries", "settings", "reference")
    assert [name for name in same if not name.startswith(allowed) and not name.endswith(allowed)] == []


@pytest.mark.parametrize("name", ["photometry", "measure", "table", "catalogue"])
def test_a_new_column_is_noticed(name, pretended, monkeypatch):
    new = Column("tio2", "float32", "", "phot.flux.density;arith.ratio", "TiO2 band index")
    changed = [replace(s, schema=(*s.schema, new)) if s.name == name else s for s in stages.STAGES]
    monkeypatch.setattr(stages, "STAGES", tuple(changed))
    run = Run(pretended.output, pretended)
    assert [stage.name for stage in stages.STAGES if pending(run, stage)] == [name]


def test_every_file_that_changes_is_noticed(pretended, files, tmp_path):
    pretended = copied(pretended, files, tmp_path / "copy")
    named = [path for path in paths_in(pretended.model_dump()) if path.exists()]
    assert len({path.name for path in named}) > 8
    spectrum = sorted((pretended.input.catalogue.parent / "spectra").rglob("*.fits.gz"))[0]
    for path in [*named, spectrum]:
        if path.is_dir() or path == pretended.output:
            continue
        before = path.read_bytes()
        path.write_bytes(before + b"\n")
        fresh = is_fresh(pretended)
        path.write_bytes(before)
        assert not fresh or path.name == "lamost.csv", path
    model = pretended.emulator.model / "emulator.safetensors"
    shipped_emulator().save(model)
    assert is_fresh(pretended) == (shipped_emulator().card.sha256 == shipped_transfer().emulator.card.sha256)


def paths_in(content):
    if isinstance(content, dict | list | tuple):
        for one in content.values() if isinstance(content, dict) else content:
            yield from paths_in(one)
    elif isinstance(content, Path) or (isinstance(content, str) and content.startswith("/")):
        yield Path(content)


def test_fewer_inputs_are_refused(survey, asked, tmp_path):
    paths = [str(path) for path in sorted((survey / "spectra").rglob("*.fits.gz"))[:4]]
    run_survey(asked(tmp_path / "run", input={"spectra": paths}), until="ingest")
    with pytest.raises(UsageError, match=f"no longer name, such as {paths[2]}: a run keeps its spectra"):
        run_survey(asked(tmp_path / "run", input={"spectra": [*paths[:2], paths[3]]}), until="ingest")


# ---- inputs that change while a piece is made, and damage


def job(run, name, unit):
    return Job(run.folder, name, unit, 60.0, run.digest)


def test_a_piece_whose_inputs_changed_meanwhile_has_no_receipt(whole, asked, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    run_survey(asked(folder), until="ingest")
    run = Run(folder, asked(folder).absolute())
    place = [stage.name for stage in stages.STAGES].index("velocity")
    make = stages.STAGES[place].make

    def disturbed(run, unit):
        made = make(run, unit)
        receipt = json.loads(run.receipt("sample", unit).read_text())
        receipt["products"][f"sample/{unit:05d}.parquet"]["sha256"] = "0"
        run.receipt("sample", unit).write_text(json.dumps(receipt))
        return made

    from dataclasses import replace

    odd = replace(stages.STAGES[place], make=disturbed)
    monkeypatch.setattr(stages, "STAGES", (*stages.STAGES[:place], odd, *stages.STAGES[place + 1 :]))
    run.receipt("velocity", 1).unlink()
    outcome = perform(job(run, "velocity", 1))
    assert outcome.failure == "its inputs changed while it was made"
    assert not run.receipt("velocity", 1).exists()


def flip(path, place=0.5):
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("product", "again"),
    [("measured.parquet", "catalogue"), ("measure/00001.parquet", "table"), ("bins/00000/depth.npy", "clean"),
     ("emulator/emulator.safetensors", "velocity")],
)  # fmt: skip
def test_a_flipped_bit_is_noticed_by_the_stage_that_reads_it(whole, asked, tmp_path, product, again):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    before = (folder / product).read_bytes()
    flip(folder / product)
    shutil.rmtree(folder / "receipts" / again)
    states = run_survey(asked(folder))
    assert {state.state for state in states} == {"done"}
    assert (folder / product).read_bytes() == before
    for name in ("measured.parquet", "catalogue/spectra.parquet"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_verify_finds_what_no_stage_reads_again(whole, asked, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    flip(folder / "catalogue/stars.parquet")
    assert {state.state for state in run_survey(asked(folder))} == {"done"}, "nothing is read, so nothing is noticed"
    assert {state.state for state in run_survey(asked(folder), verify=True)} == {"done"}
    assert (folder / "catalogue/stars.parquet").read_bytes() == (whole / "catalogue/stars.parquet").read_bytes()


def test_a_damaged_store_is_named_and_left_alone(whole, asked, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    flip(folder / "store/shard-00001/flux.npy")
    run = Run(folder, asked(folder).absolute())
    with pytest.raises(UsageError, match=r"shard-00001/flux.npy: damaged.* delete the folder .*shard-00001 and run"):
        remove_damaged(run)
    shutil.rmtree(folder / "receipts/velocity")
    with pytest.raises(UsageError, match=r"shard-00001/flux.npy: its checksum does not fit, it is damaged"):
        run_survey(asked(folder))
    shutil.rmtree(folder / "store/shard-00001")
    assert {state.state for state in run_survey(asked(folder))} == {"done"}


@pytest.mark.parametrize("name", ["flux.npy", "index.parquet"])
def test_a_shard_without_one_of_its_files_is_not_done(whole, asked, tmp_path, name):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "store/shard-00001" / name).unlink()
    states = {state.stage: state for state in stage_states(Run(folder, asked(folder).absolute()))}
    assert (states["ingest"].state, states["ingest"].made) == ("part", states["ingest"].pieces - 1)
    assert run_survey(asked(folder), until="ingest")[0].state == "done"
    assert (folder / "store/shard-00001" / name).exists()


def test_what_a_shard_is_made_from_does_not_grow_with_the_shards(whole, asked):
    """Else every shard compares the checksums of all, and time grows with their square."""
    run = Run(whole, asked(whole).absolute())
    assert run.shards() > 1
    of_shards = {f"{unit:05d}" for unit in range(run.shards())}
    for stage in (stage for stage in stages.STAGES if stage.sharded):
        for name in stage.after(run.settings):
            if not stage_named(name).sharded:
                receipt = read_receipt(run.receipt(name, None))
                assert of_shards.isdisjoint(Path(product).stem for product in receipt.products), (stage.name, name)
