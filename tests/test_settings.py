"""Settings: frozen, strict about keys and values, and every refusal is one line that says where (case 47)."""

from __future__ import annotations

import math
import re
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stargap.errors import StargapError, UsageError
from stargap.labels import LABELS
from stargap.pipeline.settings import SurveySettings
from stargap.pipeline.train_settings import DataSettings, PriorSettings, TrainSettings
from stargap.settings import MeasureSettings, example_toml, read_settings, read_settings_as
from stargap.validation.references import REFERENCES

few = settings(max_examples=60, derandomize=True, deadline=None, database=None)
KEYS = tuple(MeasureSettings.model_fields)


def refused(source, *parts):
    """The message of the UsageError, which is one line and holds `parts`."""
    with pytest.raises(UsageError) as caught:
        read_settings(source)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for part in parts:
        assert str(part) in message, (part, message)
    return message


def attempt(source):
    """Settings, or None and the message of the refusal."""
    try:
        return read_settings(source), ""
    except UsageError as error:
        return None, str(error)


def toml(tmp_path, text):
    path = tmp_path / "survey.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


FULL = """
preset = "paper"
free_alpha = true
error_floor = 0.02
starts = 1
max_iterations = 10
least_snr = 3
lamost_noise_factor = 1.2
lamost_rv_floor = 0
optimiser = "lbfgs"
exact = true
device = "cuda"

[fixed]
logg = 4.8

[bounds]
teff = [3000, 4000.5]
m_h = [-1, 0.5]
"""


def test_the_defaults_are_the_stargap_preset():
    chosen = read_settings({})
    assert chosen == MeasureSettings()
    assert chosen.preset == "stargap"
    assert chosen.floor == 0.015
    assert not chosen.free_alpha
    assert (chosen.fixed, chosen.bounds) == ({}, {})


def test_the_paper_s_preset_has_the_paper_s_floor():
    assert read_settings({"preset": "paper"}).floor == 0.005


@pytest.mark.parametrize("preset", ["stargap", "paper"])
@pytest.mark.parametrize("floor", [0.0, 0.03, 1.0])
def test_a_floor_that_is_given_holds_in_both_presets(preset, floor):
    assert read_settings({"preset": preset, "error_floor": floor}).floor == floor


def test_every_setting_can_be_read_from_a_file(tmp_path):
    chosen = read_settings(toml(tmp_path, FULL))
    assert chosen == read_settings(str(tmp_path / "survey.toml"))
    assert chosen.model_dump() == {
        "preset": "paper",
        "fixed": {"logg": 4.8},
        "free_alpha": True,
        "bounds": {"teff": (3000.0, 4000.5), "m_h": (-1.0, 0.5)},
        "error_floor": 0.02,
        "starts": 1,
        "max_iterations": 10,
        "least_snr": 3.0,
        "lamost_noise_factor": 1.2,
        "lamost_rv_floor": 0.0,
        "optimiser": "lbfgs",
        "exact": True,
        "device": "cuda",
    }
    assert set(chosen.model_dump()) == set(KEYS)
    assert read_settings(chosen.model_dump()) == chosen


def test_an_empty_file_is_the_defaults(tmp_path):
    assert read_settings(toml(tmp_path, "# nothing yet\n")) == MeasureSettings()


# ---- unknown keys


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("error_flor", "error_floor"),
        ("errorfloor", "error_floor"),
        ("Preset", "preset"),
        ("presets", "preset"),
        ("fix", "fixed"),
        ("bound", "bounds"),
        ("start", "starts"),
        ("max_iteration", "max_iterations"),
        ("snr", "least_snr"),
        ("lamost_rv", "lamost_rv_floor"),
        ("noise_factor", "lamost_noise_factor"),
    ],
)
def test_an_unknown_key_names_the_nearest(key, near):
    assert refused({key: 1}) == f"settings: unknown key {key!r}; did you mean {near!r}?"


def test_an_unknown_key_of_a_file_names_the_file(tmp_path):
    path = toml(tmp_path, 'preset = "paper"\n[bouns]\nteff = [3000, 4000]\n')
    assert refused(path) == f"{path}: unknown key 'bouns'; did you mean 'bounds'?"


@few
@given(key=st.text(max_size=20).filter(lambda text: text not in KEYS))
def test_any_other_key_is_refused_with_a_real_one(key):
    message = refused({key: 1}, repr(key))
    asked = any(message.endswith(f"did you mean {known!r}?") for known in KEYS)
    assert asked or message.endswith(f"; known are {', '.join(KEYS)}")


# ---- bad values


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ({"preset": "Paper"}, ["preset", "stargap", "paper"]),
        ({"preset": None}, ["preset"]),
        ({"fixed": {"tef": 3500}}, ["'fixed.tef'", "'fixed.teff'"]),
        ({"fixed": {"teff": "hot"}}, ["fixed.teff", "number"]),
        ({"fixed": 4.8}, ["fixed", "dictionary"]),
        ({"free_alpha": "perhaps"}, ["free_alpha", "boolean"]),
        ({"bounds": {"logg": [5.0, 4.0]}}, ["bounds of logg", "5 is not below 4"]),
        ({"bounds": {"logg": [5.0, 5.0]}}, ["bounds of logg", "5 is not below 5"]),
        ({"bounds": {"logg": [math.nan, 5.0]}}, ["bounds.logg"]),
        ({"bounds": {"logg": [4.0]}}, ["bounds.logg"]),
        ({"bounds": {"logg": [4.0, 5.0, 6.0]}}, ["bounds.logg"]),
        ({"bounds": {"log_g": [4.0, 5.0]}}, ["'bounds.log_g'", "'bounds.logg'"]),
        ({"error_floor": -0.01}, ["error_floor", "0"]),
        ({"error_floor": 1.01}, ["error_floor", "1"]),
        ({"error_floor": math.nan}, ["error_floor"]),
        ({"starts": 0}, ["starts", "1 or 2"]),
        ({"starts": 3}, ["starts", "1 or 2"]),
        ({"max_iterations": 0}, ["max_iterations", "1"]),
        ({"max_iterations": 1001}, ["max_iterations", "1000"]),
        ({"max_iterations": 2.5}, ["max_iterations", "integer"]),
        ({"least_snr": -1}, ["least_snr", "0"]),
        ({"least_snr": math.nan}, ["least_snr"]),
        ({"lamost_noise_factor": 0.9}, ["lamost_noise_factor", "1"]),
        ({"lamost_noise_factor": 11}, ["lamost_noise_factor", "10"]),
        ({"lamost_rv_floor": -1}, ["lamost_rv_floor", "0"]),
    ],
    ids=str,
)
def test_a_bad_value_names_its_place_and_what_is_allowed(content, parts):
    assert refused(content, *parts).startswith("settings: ")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("label", LABELS)
def test_a_label_cannot_be_held_at_no_number(label, value):
    refused({"fixed": {label: value}}, f"fixed.{label}")


@pytest.mark.parametrize("bounds", [[-math.inf, 4000.0], [3000.0, math.inf]])
def test_bounds_are_finite(bounds):
    refused({"bounds": {"teff": bounds}}, "bounds.teff")


@pytest.mark.parametrize(
    ("fixed", "free_alpha"),
    [
        (("teff", "logg", "m_h"), False),
        (("teff", "logg", "m_h", "a_m"), False),
        (("teff", "logg", "m_h", "a_m"), True),
    ],
)
def test_one_label_must_be_free(fixed, free_alpha):
    refused({"fixed": dict.fromkeys(fixed, 1.0), "free_alpha": free_alpha}, "every label is fixed")


@pytest.mark.parametrize(
    ("fixed", "free_alpha"),
    [(("teff", "logg", "m_h"), True), (("teff", "logg"), False), (("logg", "m_h", "a_m"), False), ((), True)],
)
def test_one_free_label_is_enough(fixed, free_alpha):
    chosen = read_settings({"fixed": dict.fromkeys(fixed, 1.0), "free_alpha": free_alpha})
    assert set(chosen.fixed) == set(fixed)


# ---- files


def test_a_missing_file(tmp_path):
    path = tmp_path / "none.toml"
    assert refused(path) == f"{path}: cannot be read (No such file or directory)"


def test_a_folder(tmp_path):
    refused(tmp_path, tmp_path, "cannot be read")


@pytest.mark.parametrize(
    "text",
    [
        "preset = paper",
        "preset = 'paper",
        "{}",
        '{"preset": "paper"}',
        "starts: 2",
        "starts = 1\nstarts = 2",
        "<html>",
        "\x00",
        b"\xff\xfe\x00",
        "a = " + "[" * 20_000,
        "starts = " + "9" * 5000,
    ],
    ids=lambda text: repr(text[:14]),
)
def test_not_toml(tmp_path, text):
    path = toml(tmp_path, text)
    refused(path, path, "not a TOML file")


def test_a_bad_value_in_a_file_names_the_file(tmp_path):
    path = toml(tmp_path, "[bounds]\nteff = [4000, 3000]\n")
    refused(path, path, "4000 is not below 3000")
    refused(toml(tmp_path, b'preset = "\xe9"'), path, "preset: Input should be 'stargap' or 'paper'")


@few
@given(data=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_file_is_settings_or_a_usage_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data)
    chosen, message = attempt(path)
    assert chosen == MeasureSettings() or message.startswith(f"{path}: ")


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*LABELS, "x"]), inner, max_size=3),
    max_leaves=5,
)


@few
@given(content=st.dictionaries(st.sampled_from(KEYS), VALUE, max_size=3))
def test_any_values_are_settings_or_a_usage_error(content):
    chosen, message = attempt(content)
    if chosen is None:
        assert message.startswith("settings: ")
    else:
        assert chosen.preset in ("stargap", "paper")
        assert 0 <= chosen.floor <= 1
        assert chosen.starts in (1, 2)
        assert 1 <= chosen.max_iterations <= 1000
        assert all(math.isfinite(value) for value in chosen.fixed.values())
        assert all(low < high for low, high in chosen.bounds.values())


# ---- frozen


@pytest.mark.parametrize("name", KEYS)
def test_settings_cannot_be_changed(name):
    chosen = MeasureSettings()
    with pytest.raises(ValidationError, match="frozen"):
        setattr(chosen, name, getattr(chosen, name))
    with pytest.raises(ValidationError, match="frozen"):
        delattr(chosen, name)


def test_settings_do_not_share_their_tables():
    MeasureSettings().fixed["teff"] = 3000.0
    MeasureSettings().bounds["teff"] = (1.0, 2.0)
    assert MeasureSettings().fixed == {}
    assert MeasureSettings().bounds == {}


def test_settings_do_not_keep_the_table_they_were_read_from():
    fixed = {"logg": 4.8}
    chosen = read_settings({"fixed": fixed})
    fixed["teff"] = 3500.0
    assert chosen.fixed == {"logg": 4.8}


def test_the_constructor_is_as_strict_about_keys():
    with pytest.raises(ValidationError, match="error_flor"):
        MeasureSettings(error_flor=0.01)


def test_a_usage_error_is_an_error_of_stargap():
    assert issubclass(UsageError, StargapError)


# ---- settings of a training, with tables


def refused_training(content, *parts):
    with pytest.raises(UsageError) as caught:
        read_settings_as(TrainSettings, content)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for part in parts:
        assert str(part) in message, (part, message)


@pytest.mark.parametrize(
    ("content", "key", "near"),
    [
        ({"outputs": "x"}, "outputs", "output"),
        ({"arch": "default"}, "arch", "architecture"),
        ({"dat": {}}, "dat", "data"),
        ({"data": {"simulate": 100}}, "data.simulate", "data.simulated"),
        ({"prior": {"draw": 1000}}, "prior.draw", "prior.draws"),
        ({"default": {"round": 1}}, "default.round", "default.rounds"),
        ({"reference": {"iteration": 1}}, "reference.iteration", "reference.iterations"),
    ],
)
def test_an_unknown_key_of_a_table_names_the_nearest(content, key, near):
    refused_training(content, f"unknown key {key!r}; did you mean {near!r}?")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ({"architecture": "cycle"}, ["architecture", "'default', 'anchored', 'reference' or 'starnet'"]),
        ({"data": {}}, ["data", "spectra", "simulated"]),
        ({"data": {"mix": "galactic"}}, ["data", "one of the two"]),
        ({"data": {"spectra": "x", "simulated": 1000}}, ["data", "one of the two"]),
        ({"data": {"simulated": 99}}, ["data.simulated", "100"]),
        ({"data": {"simulated": 1000, "mix": "solar"}}, ["data.mix", "galactic"]),
        ({"data": {"simulated": 1000, "seed": 2**40}}, ["data.seed"]),
        ({"data": 5}, ["data"]),
        ({"prior": {"preset": "mine"}}, ["prior.preset", "paper"]),
        ({"prior": {"draws": 0}}, ["prior.draws"]),
        ({"prior": {"alpha": math.nan}}, ["prior.alpha"]),
        ({"default": {"degree": 9}}, ["default.degree", "4"]),
        ({"default": [1]}, ["default"]),
        ({"reference": {"milestones": [2, 1]}}, ["reference", "do not ascend"]),
        ({"reference": {"learning_rate": 0}}, ["reference.learning_rate"]),
    ],
    ids=str,
)
def test_a_bad_value_of_a_training_names_its_place(content, parts):
    refused_training(content, *parts)


def test_the_example_reads_back_to_the_defaults_of_a_training():
    text = example_toml(TrainSettings())
    assert read_settings_as(TrainSettings, tomllib.loads(text)) == TrainSettings()
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("chosen", [MeasureSettings(), MeasureSettings(fixed={"logg": 4.8}, bounds={"m_h": (-1, 0)})])
def test_the_example_of_a_measurement_reads_back(chosen):
    assert read_settings(tomllib.loads(example_toml(chosen))) == chosen


@pytest.mark.parametrize(
    "chosen",
    [
        TrainSettings(architecture="reference", emulator='a "b"/c', data=DataSettings(spectra="é\\n")),
        TrainSettings(prior=PriorSettings(alpha=0.1), data=DataSettings(simulated=123, mix="galactic")),
    ],
)
def test_any_settings_read_back_from_their_example(chosen):
    assert read_settings_as(TrainSettings, tomllib.loads(example_toml(chosen))) == chosen


def test_the_example_explains_every_key_and_table():
    lines = example_toml(TrainSettings()).splitlines()
    keys = [number for number, line in enumerate(lines) if re.match(r"(# )?[a-z_0-9]+ =|\[", line)]
    assert len(keys) == sum(len(kind.model_fields) for kind in tables(TrainSettings))
    for number in keys:
        before = lines[number - 1]
        assert before.startswith("# "), lines[number]
        assert not re.match(r"# [a-z_0-9]+ =", before), lines[number]


def tables(kind):
    inner = [field.annotation for field in kind.model_fields.values() if hasattr(field.annotation, "model_fields")]
    return [kind, *(deeper for one in inner for deeper in tables(one))]


def test_a_simulated_survey_holds_alpha_unless_told_otherwise():
    assert TrainSettings().alpha == 0.0
    assert TrainSettings(prior=PriorSettings(alpha=0.2)).alpha == 0.2
    assert TrainSettings(data=DataSettings(spectra="x")).alpha is None


def test_tables_of_tables_and_odd_keys_come_back_from_their_example():
    for one in REFERENCES.values():
        assert type(one)(**tomllib.loads(example_toml(one))) == one
    companions = {"Gaia variables": {"table": "v.fits", "means": "variable", "keys": ("source_id",)}}
    survey = SurveySettings.model_validate({"catalogue": {"companions": companions}})
    assert SurveySettings(**tomllib.loads(example_toml(survey))) == survey


words = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
numbers = st.floats(min_value=-1e300, max_value=1e300, allow_nan=False, allow_infinity=False)


@few
@given(
    st.fixed_dictionaries(
        {
            "output": words.filter(lambda text: "\x00" not in text),
            "input": st.fixed_dictionaries({"spectra": st.lists(words, max_size=2), "gaia": words}),
            "sample": st.fixed_dictionaries({"earliest_epoch": numbers, "largest_ruwe": st.floats(1e-300, 1e300)}),
            "catalogue": st.fixed_dictionaries(
                {
                    "title": words,
                    "companions": st.dictionaries(
                        words,
                        st.fixed_dictionaries({"table": words, "means": st.just("binary"), "keys": st.just(["a"])}),
                    ),
                }
            ),
        }
    )
)
def test_every_settings_file_that_is_accepted_reads_back(content):
    chosen = SurveySettings.model_validate(content)
    text = example_toml(chosen)
    assert read_settings_as(SurveySettings, tomllib.loads(text)) == chosen
    absolute = chosen.absolute()
    assert read_settings_as(SurveySettings, tomllib.loads(example_toml(absolute))) == absolute


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("place", ["measure.lamost_rv_floor", "cleaning.least_bands", "catalogue.position_epoch"])
def test_a_number_that_is_not_finite_is_refused(place, value):
    table, name = place.split(".")
    with pytest.raises(UsageError, match=place):
        read_settings_as(SurveySettings, {table: {name: value}})


def test_a_path_that_is_not_utf_8_is_refused_in_words():
    with pytest.raises(UsageError, match=r"is not UTF-8, which a settings file cannot hold"):
        example_toml(SurveySettings(output="run\udcff"))
