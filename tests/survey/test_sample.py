"""The sample's cuts: three states each, as a plain reading of the paper gives them, and joins that shift no row."""

import gzip
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console

from stargap.errors import UsageError
from stargap.flags import Cut
from stargap.settings import example_toml, read_settings_as
from stargap.spectra.readers.read import read_spectrum
from stargap.survey.gaia.join import GAIA_COLUMNS, read_gaia
from stargap.survey.sample import (
    SampleSettings,
    counts_json,
    counts_table,
    is_m_dwarf,
    print_counts,
    read_counts,
    select,
)
from stargap.tables.columns import INT_NULL, Column
from stargap.tables.crossmatch import julian_epoch, match_sky
from stargap.tables.read import read_table
from stargap.tables.write import write_table

GAIA = 6917528997577384321
NAN = math.nan
quick = settings(max_examples=50, deadline=None)
FAILS = (Cut.NOT_M_DWARF, Cut.LOW_SN, Cut.BAD_FIBER, Cut.HIGH_RUWE, Cut.M_G_OUTSIDE, Cut.COLOUR_OUTSIDE)
UNKNOWNS = (
    Cut.CLASS_UNKNOWN,
    Cut.SN_UNKNOWN,
    Cut.FIBER_UNKNOWN,
    Cut.RUWE_UNKNOWN,
    Cut.M_G_UNKNOWN,
    Cut.COLOUR_UNKNOWN,
)
GOOD = {"object_class": "STAR", "subclass": "dM1", "snr_r": 20.0, "snr_i": 30.0, "fiber_mask": 0, "lmjd": 57000}
STAR = {"parallax": 20.0, "parallax_error": 0.1, "ruwe": 1.0, "phot_g_mean_mag": 13.0, "bp_rp": 2.0}


def spectra(*changes, **columns):
    rows = [GOOD | {"gaia_source_id": GAIA + i} | change for i, change in enumerate(changes)]
    index = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return {"spectrum_id": np.arange(len(rows)) + 10} | index | columns


def sources(*changes, **columns):
    rows = [STAR | {"source_id": GAIA + i, "ra": 10.0 * i, "dec": 5.0} | change for i, change in enumerate(changes)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]} | columns


def flags(index, gaia, **options):
    return select(index, gaia, SampleSettings(**options)).columns["sample_flags"].tolist()


def test_every_cut_has_its_sentence_and_every_pair_of_states_its_bits():
    assert not {int(c) for c in FAILS} & {int(c) for c in UNKNOWNS}
    assert Cut.describe(0) == ""


def test_a_good_spectrum_sets_no_bit():
    sample = select(spectra({}), sources({}))
    assert sample.columns["sample_flags"].tolist() == [0]
    assert sample.columns["in_sample"].tolist() == [True]
    assert sample.columns["gaia_source_id"].tolist() == [GAIA]
    assert sample.columns["m_g"] == pytest.approx(13 + 5 * math.log10(20) - 10)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"subclass": "gM3"}, Cut.NOT_M_DWARF),
        ({"subclass": "K7"}, Cut.NOT_M_DWARF),
        ({"object_class": "GALAXY", "subclass": ""}, Cut.NOT_M_DWARF),
        ({"subclass": ""}, Cut.CLASS_UNKNOWN),
        ({"subclass": "dM\xe91"}, Cut.CLASS_UNKNOWN),
        ({"subclass": "Non", "object_class": "Unknown"}, Cut.CLASS_UNKNOWN),
        ({"snr_r": 5.0, "snr_i": 5.0}, 0),
        ({"snr_r": 4.99}, Cut.LOW_SN),
        ({"snr_r": NAN}, Cut.SN_UNKNOWN),
        ({"snr_i": -9999.0}, Cut.SN_UNKNOWN),
        ({"snr_r": NAN, "snr_i": 4.0}, Cut.LOW_SN),
        ({"snr_r": -2.0}, Cut.LOW_SN),
        ({"fiber_mask": 8}, Cut.BAD_FIBER),
        ({"fiber_mask": 64 + 2}, Cut.BAD_FIBER),
        ({"fiber_mask": 64}, Cut.FIBER_WARNING),
        ({"fiber_mask": INT_NULL}, Cut.FIBER_UNKNOWN),
    ],
)
def test_cuts_on_the_spectrum(change, expected):
    assert flags(spectra(change), sources({})) == [expected]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"ruwe": 1.4}, 0),
        ({"ruwe": 1.4001}, Cut.HIGH_RUWE),
        ({"ruwe": NAN}, Cut.RUWE_UNKNOWN),
        ({"parallax": NAN}, Cut.M_G_UNKNOWN),
        ({"parallax": -3.0}, Cut.M_G_UNKNOWN),
        ({"parallax": -3.0, "parallax_error": -0.1}, Cut.M_G_UNKNOWN),
        ({"parallax": 0.0}, Cut.M_G_UNKNOWN),
        ({"parallax_error": NAN}, Cut.M_G_UNKNOWN),
        ({"parallax_error": 0.0}, Cut.M_G_UNKNOWN),
        ({"parallax_error": 4.0}, Cut.M_G_UNKNOWN),  # S/N 5: not above
        ({"parallax_error": 3.99}, 0),
        ({"parallax": 100.0, "phot_g_mean_mag": 4.0}, Cut.M_G_OUTSIDE),  # M_G = 4: not inside
        ({"parallax": 100.0, "phot_g_mean_mag": 4.01}, 0),
        ({"parallax": 100.0, "phot_g_mean_mag": 15.0}, Cut.M_G_OUTSIDE),
        ({"phot_g_mean_mag": NAN}, Cut.M_G_UNKNOWN),
        ({"bp_rp": 1.0}, Cut.COLOUR_OUTSIDE),
        ({"bp_rp": 5.0}, Cut.COLOUR_OUTSIDE),
        ({"bp_rp": NAN}, Cut.COLOUR_UNKNOWN),
    ],
)
def test_cuts_on_the_star(change, expected):
    assert flags(spectra({}), sources(change)) == [expected]


maybe = st.floats(-5, 60) | st.just(NAN)
rows = st.lists(
    st.fixed_dictionaries(
        {
            "subclass": st.sampled_from(["dM0", "M5", "sdM2", "gM1", "K5", "", "Non"]),
            "snr_r": maybe,
            "snr_i": maybe,
            "fiber_mask": st.sampled_from([0, 1, 64, 128, 9, INT_NULL]),
            "ruwe": st.floats(0.8, 2) | st.just(NAN),
            "parallax": maybe,
            "parallax_error": st.floats(0.01, 5) | st.just(NAN),
            "phot_g_mean_mag": st.floats(2, 21) | st.just(NAN),
            "bp_rp": st.floats(0, 6) | st.just(NAN),
        }
    ),
    max_size=12,
)


def read_plainly(row):
    """The states of one spectrum by a plain reading of section 2.1: True passes, False fails, None is unknown."""
    m_g = None
    if row["parallax"] > 5 * row["parallax_error"] and not math.isnan(row["phot_g_mean_mag"]):
        m_g = row["phot_g_mean_mag"] + 5 * math.log10(row["parallax"]) - 10
    snr = (row["snr_r"], row["snr_i"])
    low = any(value < 5 for value in snr)
    return [
        {"": None, "Non": None, "gM1": False, "K5": False}.get(row["subclass"], True),
        False if low else None if any(map(math.isnan, snr)) else True,
        None if row["fiber_mask"] < 0 else row["fiber_mask"] % 16 == 0,
        None if math.isnan(row["ruwe"]) else row["ruwe"] <= 1.4,
        None if m_g is None else 4 < m_g < 15,
        None if math.isnan(row["bp_rp"]) else 1 < row["bp_rp"] < 5,
    ]


@quick
@given(rows, st.booleans(), st.randoms())
def test_cuts_are_those_of_a_plain_reading(changes, keep_unknown, random):
    index = spectra(*changes) if changes else {"spectrum_id": np.empty(0, dtype=np.int64)}
    order = list(range(len(changes)))
    random.shuffle(order)
    gaia = {name: values[order] for name, values in sources(*changes or [{}]).items()} if changes else sources({})
    sample = select(index, gaia, SampleSettings(keep_unknown=keep_unknown))
    states = [read_plainly(row) for row in changes]
    for cut, (fail, unknown) in enumerate(zip(FAILS, UNKNOWNS, strict=True)):
        for row, bits in enumerate(sample.columns["sample_flags"].tolist()):
            assert bool(bits & fail) == (states[row][cut] is False)
            assert bool(bits & unknown) == (states[row][cut] is None)
    wanted = [all(s is True or (s is None and keep_unknown) for s in row) for row in states]
    assert sample.columns["in_sample"].tolist() == wanted
    left = len(changes)
    for count in sample.counts:
        assert count.before == left
        left = count.left
        assert count.left == count.before - count.failed - (0 if keep_unknown else count.unknown)
    assert left == sum(wanted)
    assert all(len(values) == len(changes) for values in sample.columns.values())


def test_without_gaia_everything_about_the_star_is_unknown():
    sample = select(spectra({}, {"subclass": "gM1"}), None)
    unknown = Cut.NO_GAIA | Cut.RUWE_UNKNOWN | Cut.M_G_UNKNOWN | Cut.COLOUR_UNKNOWN
    assert sample.columns["sample_flags"].tolist() == [unknown, unknown | Cut.NOT_M_DWARF]
    assert sample.columns["in_sample"].tolist() == [True, False]
    assert "no Gaia table" in counts_table(sample)
    strict = select(spectra({}), None, SampleSettings(keep_unknown=False))
    assert not strict.columns["in_sample"].any()


def test_an_index_of_ids_alone():
    sample = select({"spectrum_id": [3, 4]}, None)
    assert sample.columns["in_sample"].all()
    assert (sample.columns["sample_flags"] & sum(UNKNOWNS) == sum(UNKNOWNS)).all()


def test_ids_first_then_position():
    gaia = sources({}, {}, {}, {"ra": 20.0, "dec": 5.0 + 2 / 3600})
    index = spectra(
        {"gaia_source_id": GAIA + 1, "ra": 200.0, "dec": -40.0},
        {"gaia_source_id": INT_NULL, "ra": 370.0, "dec": 5.0 + 1 / 3600},
        {"gaia_source_id": 12345, "ra": 20.0, "dec": 5.0 + 0.9 / 3600},
        {"gaia_source_id": INT_NULL, "ra": 11.0, "dec": 5.0},
        {"gaia_source_id": INT_NULL, "ra": NAN, "dec": NAN},
        {"gaia_source_id": GAIA + 1, "ra": 10.0, "dec": 5.0},
    )
    sample = select(index, gaia)
    assert sample.columns["gaia_source_id"].tolist() == [GAIA + 1, GAIA + 1, GAIA + 2, INT_NULL, INT_NULL, GAIA + 1]
    bits = sample.columns["sample_flags"]
    assert (bits & Cut.BY_POSITION > 0).tolist() == [False, True, True, False, False, False]
    assert (bits & Cut.AMBIGUOUS > 0).tolist() == [False, False, True, False, False, False]
    assert (bits & Cut.NO_GAIA > 0).tolist() == [False, False, False, True, True, False]
    np.testing.assert_allclose(sample.columns["gaia_separation"][[1, 2, 5]], [1, 0.9, 0], atol=1e-6)
    assert sample.notes[0] == "4 of 6 spectra have a Gaia source: 2 by identifier, 2 by position, 1 of these ambiguous"


def test_repeated_sources_and_missing_columns_are_told():
    gaia = sources({}, {"source_id": GAIA, "ruwe": 9.0}, {"source_id": INT_NULL})
    del gaia["parallax_error"]
    sample = select(spectra({}), gaia)
    assert sample.columns["ruwe"].tolist() == [1.0]
    assert sample.columns["sample_flags"].tolist() == [Cut.M_G_UNKNOWN]
    assert "2 rows of the Gaia table repeat a source" in sample.notes[1]
    assert "lacks parallax_error, phot_bp_mean_mag" in sample.notes[2]


def test_colour_from_magnitudes():
    gaia = sources({"bp_rp": NAN}, {}, phot_bp_mean_mag=[15.0, 9.0], phot_rp_mean_mag=[12.5, 9.0])
    assert select(spectra({}, {}), gaia).columns["bp_rp"].tolist() == [2.5, 2.0]


@pytest.mark.parametrize(
    ("object_class", "subclass", "expected"),
    [
        ("STAR", "dM0", True),
        ("", "M2", True),
        (None, b"dM3.5", True),
        ("star", " dM1 ", True),
        ("STAR", "sdM1", True),
        ("STAR", "esdM5.5", True),
        ("STAR", "M6V (123456)", True),
        ("STAR", "M0V (HD 3651 III)", True),
        ("STAR", "M2.5e", True),
        ("STAR", "dM", True),
        ("STAR", "M5III", False),
        ("STAR", "gM0", False),
        ("STAR", "dK7", False),
        ("STAR", "MS", False),
        ("STAR", "WDM1", False),
        ("STAR", "Carbon", False),
        ("QSO", "dM1", False),
        ("GALAXY", "Non", False),
        ("STAR", "Non", None),
        ("UNKNOWN", "\xe9M1", None),
        (None, None, None),
        (b"STAR", b"\xff\xfe", None),
    ],
)
def test_class_of_m_dwarfs(object_class, subclass, expected):
    assert is_m_dwarf(object_class, subclass) is expected


def test_the_papers_class_alone():
    index = spectra({"subclass": "dM1"}, {"subclass": "M1"}, {"subclass": "sdM1"})
    sample = select(index, None, SampleSettings(subclasses=("dM",)))
    assert sample.columns["in_sample"].tolist() == [True, False, False]


def test_settings_are_documented_and_checked():
    text = example_toml(SampleSettings())
    assert len([line for line in text.splitlines() if not line.startswith("#")]) == len(SampleSettings.model_fields)
    assert "# Largest Gaia RUWE (section 2.1, cut 2)." in text
    with pytest.raises(UsageError, match="did you mean 'largest_ruwe'"):
        read_settings_as(SampleSettings, {"largest_ruw": 1.0})
    for bad in ({"m_g": (15, 4)}, {"bp_rp": (1, 1)}, {"radius_arcsec": 0}, {"subclasses": ()}, {"largest_ruwe": NAN}):
        with pytest.raises(ValidationError):
            SampleSettings(**bad)


@pytest.mark.parametrize(
    ("index", "gaia", "reason"),
    [
        ({"snr_r": [1.0]}, None, "no column 'spectrum_id'"),
        ({"spectrum_id": [1], "snr_r": [1.0, 2.0]}, None, "'snr_r' has shape"),
        ({"spectrum_id": [1]}, {"ra": [1.0]}, "no column 'source_id'"),
        ({"spectrum_id": [1]}, {"source_id": [1], "ra": [1.0]}, "no column 'dec'"),
        ({"spectrum_id": [1]}, {"source_id": [1e18], "ra": [1.0], "dec": [1.0]}, "source_id: holds floats"),
    ],
)
def test_clear_errors(index, gaia, reason):
    with pytest.raises(UsageError, match=reason):
        select(index, gaia)


def test_counts_are_printed_for_people_and_for_a_page(capsys):
    sample = select(spectra(*[{}] * 1200, {"subclass": "K5"}), sources({}))
    print_counts(sample, console=Console(width=80))
    shown = capsys.readouterr().out
    assert next(line for line in shown.splitlines() if "class M" in line).split()[-5:] == [
        "1,201", "1", "0", "1,200", "818,686"
    ]  # fmt: skip
    assert "| class M dwarf | 1,201 | 1 | 0 | 1,200 | 818,686 |" in counts_table(sample)
    assert "538,107" in shown
    assert "538,107" in counts_table(sample)
    assert max(map(len, shown.splitlines())) <= 100


def test_counts_are_read_back_and_other_files_refused(tmp_path):
    sample, file = select({"spectrum_id": [1, 2], "subclass": ["dM1", "dK7"]}), tmp_path / "cuts.json"
    file.write_text(counts_json(sample), encoding="utf-8")
    counts, notes = read_counts(file)
    assert counts == sample.counts
    assert notes[:-1] == sample.notes
    for content in ("", "[]", '{"cuts": [{"name": "RUWE"}], "notes": []}'):
        file.write_text(content, encoding="utf-8")
        with pytest.raises(UsageError, match="does not hold the counts"):
            read_counts(file)
    with pytest.raises(UsageError, match="cannot be read"):
        read_counts(tmp_path / "none")


@pytest.mark.parametrize("suffix", [".fits", ".parquet", ".csv"])
def test_gaia_ids_survive_files(tmp_path, suffix):
    names = ["source_id", "ra", "dec", *STAR]
    schema = tuple(Column(name, "int64" if name == "source_id" else "float64") for name in names)
    gaia = sources({}, {"ruwe": NAN})
    write_table({name: gaia[name] for name in names}, tmp_path / f"gaia{suffix}", schema=schema, provenance={})
    read = read_gaia(tmp_path / f"gaia{suffix}")
    assert set(read) == set(names)
    sample = select(spectra({}, {}), read)
    assert sample.columns["sample_flags"].tolist() == [0, Cut.RUWE_UNKNOWN]


def test_real_spectra_find_their_gaia_source(shared_data):
    """Nearby M dwarfs observed by LAMOST are joined by position with the Gaia sources of their names."""
    theirs = ["ra", "dec", "pmra", "pmdec", "parallax", "parallax_error", "ruwe", "G_mag", "BP_mag", "RP_mag"]
    table = read_table(shared_data / "labels" / "carmenes_ix.csv.gz", ["GaiaDR3_id", "Name", *theirs])
    ours = dict(zip(theirs[-3:], ("phot_g_mean_mag", "phot_bp_mean_mag", "phot_rp_mean_mag"), strict=True))
    gaia = {ours.get(name, name): values for name, values in table.items() if name not in ("GaiaDR3_id", "Name")}
    gaia["source_id"] = table["GaiaDR3_id"]
    facts = [read_spectrum(path).facts for path in sorted((shared_data / "lamost" / "cool").glob("spec-5*_sp*"))]
    names = ("ra", "dec", "lmjd", "snr_r", "snr_i", "fiber_mask", "object_class", "subclass")
    null = {"lmjd": INT_NULL, "fiber_mask": INT_NULL, "object_class": "", "subclass": ""}
    index = {
        name: [null.get(name, NAN) if getattr(f, name) is None else getattr(f, name) for f in facts] for name in names
    }
    sample = select({"spectrum_id": np.arange(len(facts))} | index, gaia)
    found = sample.columns["gaia_source_id"] != INT_NULL
    assert found.sum() >= 29
    assert sample.columns["gaia_separation"][found].max() < 2.0
    night = match_sky(index["ra"], index["dec"], julian_epoch(index["lmjd"]), gaia, radius_arcsec=3.0)
    assert (night.rows >= 0).sum() < 10  # positions are not those of the night
    inside = found & (sample.columns["sample_flags"] & Cut.M_G_UNKNOWN == 0)
    assert (sample.columns["sample_flags"][inside] & (Cut.M_G_OUTSIDE | Cut.COLOUR_OUTSIDE) == 0).all()


def test_names_of_gaia_columns_are_those_of_the_archive(tmp_path):
    header = "solution_id,SOURCE_ID,ra,dec,ref_epoch," + ",".join(GAIA_COLUMNS.values())
    path = tmp_path / "gaia.csv.gz"
    path.write_bytes(
        gzip.compress(
            f"{header}\n1,{GAIA},1.5,2.5,2016.0,null,,1.1,12,13,11,2,9.5,0.02,1,0.1,1,0.1,,\n".encode(), mtime=0
        )
    )
    read = read_gaia(path)
    assert read["source_id"].tolist() == [GAIA]
    assert np.isnan(read["parallax"][0])
    assert "solution_id" not in read


def test_what_cannot_be_true_in_gaias_table_is_unknown_and_counted(tmp_path):
    index = {"spectrum_id": [0, 1, 2], "gaia_source_id": [11, 12, 13], "subclass": ["dM1"] * 3}
    gaia = {
        "source_id": [11, 12, 13, 14],
        "ra": [1.0, 2.0, 3.0, 4.0],
        "dec": [1.0] * 4,
        "ruwe": [1.0, -999.0, 1.0, -1.0],
    }
    gaia |= {"phot_g_mean_mag": [15.0, 15.0, 99.99, 15.0], "parallax": np.ma.masked_array([9.0] * 4, [0, 0, 1, 0])}
    sample = select(index, gaia)
    np.testing.assert_array_equal(sample.columns["ruwe"], [1, np.nan, 1])
    np.testing.assert_array_equal(sample.columns["g_mag"], [15, 15, np.nan])
    np.testing.assert_array_equal(sample.columns["parallax"], [9, 9, np.nan])
    assert sample.false_values == 2
    assert any("ruwe: 2 of 4 values are outside" in note for note in sample.notes)
    file = tmp_path / "gaia.csv"
    file.write_text("source_id,ra,dec,ruwe\n11,1,1,1.1\n12,2,1,bad\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"gaia\.csv: column 'ruwe', line 3: 'bad' is not a number"):
        read_gaia(file)
    file.write_text("source_id,ra,dec,ruwe\n11.0,1,1,1.1\n12.0,2,1,None\n", encoding="utf-8")
    with pytest.raises(UsageError, match="source_id: holds floats"):
        select(index, read_gaia(file))
