"""Models on disk: any damaged, foreign or mismatched file is a ModelError, and no pickle is read (cases 41, 42)."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import math
import os
import pickle
import re
import struct
from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from helpers.models import forge
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from stargap.errors import ModelError
from stargap.labels import LABELS
from stargap.modelfile import LARGEST_CARD, Card, kind_of, load_model, save_model, settle_models
from stargap.theory.emulator import Emulator, shipped_emulator

few = settings(max_examples=40, derandomize=True, deadline=None, database=None)
many = settings(max_examples=150, derandomize=True, deadline=None, database=None)


class ToyCard(Card):
    size: int
    names: tuple[str, ...]
    scale: float
    errors: dict[str, float]


TOY = ToyCard(kind="toy", version=2, stargap="0.1.0", size=3, names=("a", "b"), scale=0.5, errors={"median": 0.1})
TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([1.5, -2.0])}


def load_toy(path):
    return load_model(path, ToyCard, "toy", 2)


@pytest.fixture
def toy(tmp_path):
    save_model(tmp_path / "toy.safetensors", TOY, TENSORS)
    return tmp_path / "toy.safetensors"


@cache
def shipped():
    folder = files("stargap") / "models"
    return (folder / "emulator.safetensors").read_bytes(), json.loads((folder / "emulator.json").read_bytes())


def put(folder, card=None, content=None, *, keep_digest=False, name="model"):
    """Write the shipped emulator with changes."""
    return forge(Path(folder) / f"{name}.safetensors", shipped(), card, content, keep_digest=keep_digest)


def refused(path, *parts, loader=Emulator.load):
    """The message of the ModelError, which must hold every one of `parts` and be of one line."""
    with pytest.raises(ModelError) as caught:
        loader(path)
    message = str(caught.value)
    assert path.stem in message
    for part in parts:
        assert str(part) in message, (part, message)
    return message


def attempt(path, loader=Emulator.load):
    """What the loader gives, or None and the message of the refusal."""
    try:
        return loader(path), ""
    except ModelError as error:
        return None, str(error)


def with_tensors(**changes):
    tensors = load(shipped()[0]) | changes
    return save({name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None})


def foreign(header, data=b""):
    """A safetensors file with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


@pytest.fixture
def no_pickle(monkeypatch):
    def forbidden(*_args, **_kwargs):
        pytest.fail("a pickle was read")

    for owner, names in ((pickle, ("load", "loads", "Unpickler", "_Unpickler")), (torch, ("load",))):
        for name in names:
            monkeypatch.setattr(owner, name, forbidden)


# ---- what is written is read


def test_a_model_survives_the_disk(toy):
    card, tensors = load_toy(toy)
    assert card.model_dump(exclude={"sha256"}) == TOY.model_dump(exclude={"sha256"})
    assert card.sha256 == hashlib.sha256(toy.read_bytes()).hexdigest()
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype
    assert sorted(path.name for path in toy.parent.iterdir()) == ["toy.json", "toy.safetensors"]


def test_the_same_model_gives_the_same_bytes(toy, tmp_path):
    save_model(str(tmp_path / "new" / "folder" / "toy.safetensors"), TOY, dict(reversed(TENSORS.items())))
    again = tmp_path / "new" / "folder" / "toy.safetensors"
    assert again.read_bytes() == toy.read_bytes()
    assert again.with_suffix(".json").read_bytes() == toy.with_suffix(".json").read_bytes()


def test_tensors_that_train_or_are_not_contiguous_are_saved(tmp_path):
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    save_model(tmp_path / "t.safetensors", TOY, {"weight": weight, "turned": weight.T})
    _, tensors = load_toy(tmp_path / "t.safetensors")
    assert torch.equal(tensors["turned"], weight.detach().T)
    assert not tensors["weight"].requires_grad


# ---- files (case 41)


def test_nothing_there(tmp_path):
    path = tmp_path / "none.safetensors"
    refused(path, "none.json: cannot be read", "none.safetensors and none.json", "No such file")


@pytest.mark.parametrize(("gone", "left"), [(".json", ".safetensors"), (".safetensors", ".json")])
def test_a_missing_half(toy, gone, left):
    toy.with_suffix(gone).unlink()
    assert toy.with_suffix(left).exists()
    refused(toy, f"toy{gone}: cannot be read", "a model is two files", loader=load_toy)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_folder_in_its_place(toy, suffix):
    toy.with_suffix(suffix).unlink()
    toy.with_suffix(suffix).mkdir()
    refused(toy, f"toy{suffix}", loader=load_toy)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_dangling_link(toy, suffix):
    toy.with_suffix(suffix).unlink()
    toy.with_suffix(suffix).symlink_to("nowhere")
    refused(toy, f"toy{suffix}", "No such file", loader=load_toy)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_empty_files(toy, suffix):
    toy.with_suffix(suffix).write_bytes(b"")
    refused(toy, "not JSON" if suffix == ".json" else "does not match its card", loader=load_toy)


def test_an_empty_file_with_a_card_to_fit(tmp_path):
    refused(put(tmp_path, content=b""), "not a safetensors file")


@few
@given(kept=st.floats(0, 1, exclude_max=True), honest=st.booleans())
def test_a_truncated_file(tmp_path_factory, kept, honest):
    whole = shipped()[0]
    path = put(tmp_path_factory.getbasetemp(), content=whole[: int(kept * len(whole))], keep_digest=not honest)
    message = refused(path)
    if honest:
        assert "not a safetensors file" in message
    else:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert digest[:12] in message
        assert shipped()[1]["sha256"][:12] in message


@few
@given(place=st.integers(0, len(shipped()[0]) - 1) | st.integers(0, 900), bit=st.integers(0, 7))
def test_a_flipped_bit(tmp_path_factory, place, bit):
    damaged = bytearray(shipped()[0])
    damaged[place] ^= 1 << bit
    refused(put(tmp_path_factory.getbasetemp(), content=bytes(damaged), keep_digest=True), "damaged, cut short")


@many
@given(
    edits=st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 255)), min_size=1, max_size=6),
    kept=st.floats(0.5, 1.2),
)
def test_a_damaged_header_with_a_card_to_fit(tmp_path_factory, edits, kept):
    damaged = bytearray(save(TENSORS))
    for place, bits in edits:
        damaged[place % len(damaged)] ^= bits
    content = bytes(damaged)[: int(kept * len(damaged))] + b"x" * int(max(kept - 1, 0) * len(damaged))
    facts = TOY.model_dump() | {"sha256": hashlib.sha256(content).hexdigest()}
    path = tmp_path_factory.getbasetemp() / "header.safetensors"
    path.write_bytes(content)
    path.with_suffix(".json").write_text(json.dumps(facts))
    found, message = attempt(path, load_toy)
    if found is None:
        assert str(path) in message
    else:
        assert all(isinstance(tensor, torch.Tensor) for tensor in found[1].values())


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04" + bytes(100),
        b"\x93NUMPY\x01\x00" + bytes(100),
        b"<html><body>404</body></html>",
        b"\x89HDF\r\n\x1a\n" + bytes(100),
        bytes(8),
        b"\xff" * 64,
        struct.pack("<Q", 2**62) + b"{}",
        foreign(b"[]"),
        foreign(b"{" * 5000),
        foreign({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, bytes(8)),
        foreign({"a": {"dtype": "F32", "shape": [2**62, 8], "data_offsets": [0, 8]}}, bytes(8)),
        foreign({"a": {"dtype": "WHAT", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
        foreign({"a": {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}}, bytes(4)),
        foreign({"a": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]}}, bytes(4)),
    ],
    ids=(
        "zip",
        "numpy",
        "html",
        "hdf5",
        "zeros",
        "ones",
        "long",
        "list",
        "deep",
        "short",
        "huge",
        "what",
        "f4",
        "e8m0",
    ),
)
def test_foreign_files_with_a_card_to_fit(tmp_path, content):
    refused(put(tmp_path, content=content), "not a safetensors file")


def test_an_honest_safetensors_file_of_another_model(tmp_path):
    refused(put(tmp_path, content=save(TENSORS)), "tensors do not match", "bias", "basis")


# ---- pickles


class Trap:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("honest", [True, False])
@pytest.mark.parametrize("protocol", [0, 2, 5, "torch"])
def test_a_renamed_pickle_is_refused_and_never_run(tmp_path, honest, protocol, no_pickle):
    mark = tmp_path / "mark"
    if protocol == "torch":
        torch.save({"weight": Trap(mark)}, tmp_path / "m.pt")
        content = (tmp_path / "m.pt").read_bytes()
    else:
        content = pickle.dumps({"weight": Trap(mark)}, protocol)
    path = put(tmp_path, content=content, keep_digest=not honest)
    refused(path, "not a safetensors file" if honest else "does not match its card")
    path.with_suffix(".json").write_bytes(content)
    refused(path, "not JSON")
    assert not mark.exists()


def test_no_pickle_is_read_on_the_good_way_either(tmp_path, no_pickle):
    assert torch.equal(Emulator.load(put(tmp_path)).mean, shipped_emulator().mean)


# ---- mismatches: both sides are named


@pytest.mark.parametrize("kind", ["nature", "", None, 1, ["payne"], {"payne": 1}, "\ud800"])
def test_another_kind(tmp_path, kind):
    refused(put(tmp_path, {"kind": kind}), repr(kind), "version 1", "expected 'payne' version 1")


@pytest.mark.parametrize("version", [0, 2, -1, "1", None, 1.5, 10**30, math.nan, math.inf, [1]])
def test_another_version(tmp_path, version):
    refused(put(tmp_path, {"version": version}), "'payne' version", repr(version), "expected 'payne' version 1")


@pytest.mark.parametrize("version", [True, 1.0])
def test_a_version_of_another_type(tmp_path, version):
    refused(put(tmp_path, {"version": version}), "version")


@pytest.mark.parametrize("grid", ["6000-8900/2901", "", "5910-8990/3080"])
def test_another_pixel_grid(tmp_path, grid):
    refused(put(tmp_path, {"pixel_grid": grid}), "pixel_grid", repr(grid), "'5910-8990/3081'")


@pytest.mark.parametrize("wavelength", [[6000.0, 8900.0, 2901], [5910.0, 8990.0, 10**9], [5910.0, 8990.5, 3081]])
def test_other_wavelengths(tmp_path, wavelength):
    refused(put(tmp_path, {"wavelength": wavelength}), tuple(wavelength), (5910.0, 8990.0, 3081))


@pytest.mark.parametrize(
    "labels",
    [["logg", "teff", "m_h", "a_m"], ["teff", "logg", "m_h"], [*LABELS, "vmic"], [], ["Teff", "logg", "m_h", "a_m"]],
)
def test_another_label_order(tmp_path, labels):
    refused(put(tmp_path, {"labels": labels}), "labels", tuple(labels), LABELS)


@pytest.mark.parametrize(
    "change", [{"hidden": 64}, {"basis": 30}, {"hidden": 127}, {"basis": 61}, {"hidden": 4096, "basis": 4096}]
)
def test_sizes_that_are_not_those_of_the_tensors(tmp_path, change):
    refused(put(tmp_path, change), "tensors do not match the architecture", *change.values())


@pytest.mark.parametrize(
    "change",
    [
        {"hidden": 0},
        {"hidden": -1},
        {"basis": 0},
        {"basis": 10**12},
        {"hidden": 10**30},
        {"lower": [1.0]},
        {"upper": []},
    ],
)
def test_impossible_sizes(tmp_path, change):
    value = next(iter(change.values()))
    refused(put(tmp_path, change), "impossible", len(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(
    "change",
    [
        {"lower": [math.nan, 4.0, -2.0, 0.0]},
        {"upper": [math.inf, 5.5, 0.5, 0.4]},
        {"lower": [-math.inf, 4.0, -2.0, 0.0]},
        {"lower": [4600.0, 4.0, -2.0, 0.0]},
        {"upper": [2800.0, 5.5, 0.5, 0.4]},
        {"upper": [4500.0, 3.9, 0.5, 0.4]},
        {"lower": [-2800.0, 4.0, -2.0, 0.0]},
        {"lower": [0.0, 4.0, -2.0, 0.0]},
        {"resolution": math.nan},
        {"resolution": 0.0},
        {"resolution": -1800.0},
        {"resolution": math.inf},
    ],
    ids=str,
)
def test_bounds_and_resolution_that_make_no_sense(tmp_path, change):
    refused(put(tmp_path, change), next(iter(change)))


# ---- tensors


@pytest.mark.parametrize("name", sorted(load(shipped()[0])))
def test_a_missing_tensor(tmp_path, name):
    refused(put(tmp_path, content=with_tensors(**{name: None})), "tensors do not match", name)


def test_an_extra_tensor(tmp_path):
    refused(put(tmp_path, content=with_tensors(extra=torch.zeros(3))), "tensors do not match", "extra", (3,))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("mean", (3080,)), ("mean", (3081, 1)), ("basis", (3081, 60)), ("level", (1,)), ("offset", (0,)), ("scale", (3,))],
)
def test_a_tensor_of_another_shape(tmp_path, name, shape):
    right = tuple(shipped_emulator().state_dict()[name].shape)
    path = put(tmp_path, content=with_tensors(**{name: torch.zeros(shape)}))
    refused(path, "tensors do not match", name, shape, right)


def test_every_tensor_of_another_shape(tmp_path):
    tensors = {name: torch.zeros(2, 2) for name in load(shipped()[0])}
    refused(put(tmp_path, content=save(tensors)), "tensors do not match")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", sorted(load(shipped()[0])))
def test_values_that_are_not_finite(tmp_path, name, value):
    tensor = load(shipped()[0])[name].clone()
    tensor.view(-1)[-1] = value
    refused(put(tmp_path, content=with_tensors(**{name: tensor})), "not finite")


FLOATS = (torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
OTHERS = (torch.int8, torch.int64, torch.bool, torch.complex64)


@pytest.mark.parametrize("dtype", [*FLOATS, *OTHERS], ids=str)
def test_tensors_of_another_type(tmp_path, dtype):
    tensor = load(shipped()[0])["mean"].to(dtype)
    refused(put(tmp_path, content=with_tensors(mean=tensor)), "mean", dtype, torch.float32)


def test_a_number_that_float32_does_not_hold(tmp_path):
    tensor = load(shipped()[0])["mean"].double()
    tensor[0] = 1e300
    refused(put(tmp_path, content=with_tensors(mean=tensor)))


# ---- cards (case 42)


def fields():
    return sorted(shipped()[1])


@pytest.mark.parametrize("field", fields())
def test_a_card_without_a_field(tmp_path, field):
    path = put(tmp_path)
    facts = json.loads(path.with_suffix(".json").read_text())
    del facts[field]
    path.with_suffix(".json").write_text(json.dumps(facts))
    refused(path, "does not match its card" if field == "sha256" else field if field != "kind" else "None")


def test_a_card_with_a_field_of_tomorrow(tmp_path):
    refused(put(tmp_path, {"colour": "red"}), "1 bad fields in the card, first colour")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden", "128"),
        ("hidden", 128.5),
        ("hidden", True),
        ("resolution", "1800"),
        ("resolution", None),
        ("labels", "teff"),
        ("labels", [1, 2, 3, 4]),
        ("lower", ["2800", 4, -2, 0]),
        ("lower", 2800.0),
        ("spectra", [559]),
        ("spectra", [559, 140, 0]),
        ("validation", [0.1]),
        ("validation", {"median": "small"}),
        ("citation", 7),
        ("wavelength", [5910.0, 8990.0]),
        ("wavelength", [5910.0, 8990.0, 3081.5]),
    ],
)
def test_a_field_of_another_type(tmp_path, field, value):
    refused(put(tmp_path, {field: value}), "model.json", "bad fields in the card", field)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "null", "true", "3", "[]", '"payne"', "{", "{}", "{'kind': 1}", "[" * 50, "[" * 200_000,
        '{"a":' * 200_000,
        '{"kind": "payne", "version": 1', '{"kind": "payne", "version": 1}', '{"version": ' + "9" * 5000 + "}",
        '{"kind": "payne", "version": 1, "hidden": ' + "9" * 4000 + "}", '{"kind": "payne", "version": 1e999}',
        '{"kind": ' + "[" * 500 + "]" * 500 + "}", '{"kind": ' + "[" * 950 + "]" * 950 + "}",
        '{"kind": "payne", "version": 1, "\ud800": 1}', "\x00", "\ufeff{}",
    ],
    ids=lambda text: repr(text[:12]) + str(len(text)),
)  # fmt: skip
def test_broken_cards(tmp_path, text):
    path = put(tmp_path)
    path.with_suffix(".json").write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(path)


def test_a_card_of_a_million_bytes_is_not_read(tmp_path):
    path = put(tmp_path)
    path.with_suffix(".json").write_text(" " * LARGEST_CARD + path.with_suffix(".json").read_text())
    refused(path, "model.json", LARGEST_CARD)


@few
@given(depth=st.integers(1, 3000), field=st.sampled_from(fields()), brace=st.booleans())
def test_deep_nesting_anywhere(tmp_path_factory, depth, field, brace):
    path = put(tmp_path_factory.getbasetemp(), {field: "@"}, keep_digest=True, name="deep")
    nested = '{"a":' * depth + "1" + "}" * depth if brace else "[" * depth + "]" * depth
    text = path.with_suffix(".json").read_text().replace('"@"', nested)
    path.with_suffix(".json").write_text(text)
    refused(path)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**30), 2**63, 1e308, 5e-324])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["payne", "teff", "5910-8990/3081", "\x00", "\ud800"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def mutated(draw):
    """The shipped card after a few edits of the kinds that a careless hand or program makes."""
    facts = copy.deepcopy(shipped()[1])
    for _ in range(draw(st.integers(1, 4))):
        field = draw(st.sampled_from(fields()))
        what = draw(st.sampled_from(["set", "drop", "rename", "nudge", "shuffle", "lengthen", "swap"]))
        value = facts.get(field)
        if what == "set":
            facts[field] = draw(JSON)
        elif what == "drop":
            facts.pop(field, None)
        elif what == "rename":
            facts[draw(st.text(max_size=8))] = facts.pop(field, None)
        elif what == "nudge" and isinstance(value, int | float) and not isinstance(value, bool):
            facts[field] = draw(st.sampled_from([value + 1, -value, float(value), str(value), value * 10]))
        elif what == "shuffle" and isinstance(value, list):
            facts[field] = draw(st.permutations(value))
        elif what == "lengthen" and isinstance(value, list):
            facts[field] = value * 2
        elif what == "swap":
            other = draw(st.sampled_from(fields()))
            facts[field], facts[other] = facts.get(other), value
    return facts


MEASURED = ("kind", "version", "sha256", "pixel_grid", "labels", "wavelength", "hidden", "basis")
"""Fields of which one value only fits the tensors and this version."""


@many
@given(facts=mutated())
def test_fuzzed_cards(tmp_path_factory, facts):
    path = put(tmp_path_factory.getbasetemp(), name="fuzz")
    path.with_suffix(".json").write_text(json.dumps(facts))
    emulator, message = attempt(path)
    if emulator is None:
        assert "fuzz" in message
        return
    whole = shipped()[1]
    for field in MEASURED:
        assert facts[field] == whole[field], field
    assert facts.keys() == whole.keys()
    assert all(type(getattr(emulator.card, field)) is type(getattr(shipped_emulator().card, field)) for field in facts)
    labels = torch.tensor([[3500.0, 4.8, 0.0, 0.0]])
    assert torch.equal(emulator(labels), shipped_emulator()(labels))


@few
@given(data=st.binary(max_size=300), start=st.integers(0, 1200), gap=st.integers(0, 300))
def test_cards_with_random_bytes(tmp_path_factory, data, start, gap):
    path = put(tmp_path_factory.getbasetemp(), name="bytes")
    raw = path.with_suffix(".json").read_bytes()
    raw = raw[:start] + data + raw[start + gap :]
    path.with_suffix(".json").write_bytes(raw)
    emulator, message = attempt(path)
    if emulator is None:
        assert "bytes" in message
    else:
        assert emulator.card.labels == LABELS
        assert emulator.card.sha256 == shipped_emulator().card.sha256


# ---- writing: a file with its final name is complete


class Interrupt(BaseException):
    pass


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), Interrupt()])
@pytest.mark.parametrize("where", ["fsync", "replace"])
@pytest.mark.parametrize("before", [False, True])
def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch, error, where, before):
    path = tmp_path / "toy.safetensors"
    if before:
        save_model(path, TOY, TENSORS)
    there = content_of(tmp_path)

    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(*((os, "fsync") if where == "fsync" else (Path, "replace")), fail)
    with pytest.raises(type(error)):
        save_model(path, TOY, {"bias": torch.ones(1)})
    monkeypatch.undo()
    assert content_of(tmp_path) == there
    save_model(path, TOY, {"bias": torch.ones(1)})
    assert load_toy(path)[1].keys() == {"bias"}
    assert content_of(tmp_path).keys() == {"toy.json", "toy.safetensors"}


def test_content_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, order = tmp_path / "toy.safetensors", []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(handle):
        order.append(("fsync", os.fstat(handle).st_size))
        fsync(handle)

    def watched_replace(self, target):
        order.append((Path(target).name, self.stat().st_size, self.parent == path.parent, Path(target).exists()))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    save_model(path, TOY, TENSORS)
    sizes = [path.stat().st_size, path.with_suffix(".json").stat().st_size]
    assert order == [
        ("fsync", sizes[1]),
        ("toy.json.new", sizes[1], True, False),
        ("fsync", sizes[0]),
        ("toy.safetensors", sizes[0], True, False),
        ("toy.json", sizes[1], True, False),
    ]


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "file"))):
        save_model(tmp_path / "file" / "toy.safetensors", TOY, TENSORS)
    assert content_of(tmp_path) == {"file": b""}


def killed_at(call, path, tensors):
    """Save in another process that dies without a clean-up at its `call`-th fsync or rename; False if it ends first."""
    process = os.fork()
    if process == 0:
        fsync, replace, left = os.fsync, Path.replace, [call]

        def watched(action):
            def instead(*args):
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)
                return action(*args)

            return instead

        os.fsync, Path.replace = watched(fsync), watched(replace)
        save_model(path, TOY, tensors)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_writer_killed_at_any_moment_leaves_the_old_model_or_the_new_one(toy):
    new = {name: tensor + 1 for name, tensor in TENSORS.items()}
    found, call = [], 0
    while killed_at(call, toy, new):
        loaded = load_toy(toy)[1]
        is_new = torch.equal(loaded["bias"], new["bias"])
        assert all(torch.equal(loaded[name], (new if is_new else TENSORS)[name]) for name in TENSORS)
        assert kind_of(toy) == TOY.kind
        found.append(is_new)
        settle_models(toy.parent)
        assert {path.name for path in toy.parent.glob("toy*")} == {"toy.json", "toy.safetensors"}
        assert torch.equal(load_toy(toy)[1]["bias"], loaded["bias"])
        save_model(toy, TOY, TENSORS)
        assert {path.name for path in toy.parent.glob("toy*")} == {"toy.json", "toy.safetensors"}
        call += 1
    assert (found, call) == ([False] * 4 + [True], 5)
    assert torch.equal(load_toy(toy)[1]["bias"], new["bias"])


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_first_save_killed_at_any_moment_leaves_nothing_or_the_model(tmp_path):
    path, found = tmp_path / "toy.safetensors", []
    while killed_at(len(found), path, TENSORS):
        found.append(path.exists())
        if found[-1]:
            assert torch.equal(load_toy(path)[1]["bias"], TENSORS["bias"])
        else:
            refused(path, "cannot be read", loader=load_toy)
        settle_models(tmp_path)
        assert {file.name for file in tmp_path.glob("toy*")} == (
            {"toy.json", "toy.safetensors"} if found[-1] else set()
        )
        for part in tmp_path.iterdir():
            part.unlink()
    assert found == [False] * 4 + [True]


def test_a_reader_that_meets_a_writer_reads_the_card_again(toy, monkeypatch):
    new = {name: tensor + 1 for name, tensor in TENSORS.items()}
    read_bytes = Path.read_bytes

    def write_first(self):
        monkeypatch.undo()
        save_model(toy, TOY, new)
        return read_bytes(self)

    def after_the_card(self):
        if self.suffix == ".safetensors":
            return write_first(self)
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", after_the_card)
    assert torch.equal(load_toy(toy)[1]["bias"], new["bias"])
