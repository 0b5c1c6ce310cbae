import importlib.util
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stargap.errors import UsageError
from stargap.flags import Clean
from stargap.mock.junk import JUNK
from stargap.mock.survey import simulate_survey
from stargap.pixels import STARGAP
from stargap.spectra.log_lambda import to_log_lambda
from stargap.spectra.prepare import prepare
from stargap.spectra.prepared import PreparedSpectra
from stargap.survey.cleaning import bins as cleaning_bins
from stargap.survey.cleaning import clean as cleaning
from stargap.survey.cleaning.bins import QUIET_BINS, Features, bin_spectra
from stargap.survey.cleaning.clean import clean
from stargap.survey.cleaning.page import overrule, write_cleaning_page
from stargap.survey.cleaning.rules import OF_CLUSTER, OF_SPECTRUM, QUIET, CleaningSettings

TEMPLATES = Path(__file__).parents[2] / "../shared/data/templates/kesseli2017_sdss_means.h5"
LIMITS = Path(__file__).parents[2] / "docs/make_cleaning_limits.py"
WAVE = STARGAP.wavelength


@pytest.fixture(scope="module")
def survey():
    """Prepared at the true velocity, kept within the velocity search."""
    parts, truth = [], []
    for chunk in simulate_survey(1024, seed=21, junk=0.15, repeats=0.0):
        rv = np.clip(chunk.truth["rv"], -1000, 1000)
        parts.append(PreparedSpectra.from_prepared(prepare(to_log_lambda(chunk.spectra), torch.as_tensor(rv)), rv))
        truth.append(chunk.truth)
    spectra = PreparedSpectra.empty(1024)
    for number, part in enumerate(parts):
        spectra.put(256 * number, part)
    return spectra, {name: np.concatenate([one[name] for one in truth]) for name in truth[0]}


@pytest.fixture(scope="module")
def cleaned(survey):
    return clean_spectra([survey[0]])


def clean_spectra(parts, *settings, **options):
    return clean([bin_spectra(part) for part in parts], *settings, **options)


def same(one, two):
    assert one.digest == two.digest
    for name in ("cluster", "flags", "distance"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def changed(spectra, **arrays):
    return replace(spectra, **arrays)


def test_junk_goes_and_dwarfs_stay(survey, cleaned):
    kind = survey[1]["kind"]
    for name in JUNK:
        assert cleaned.rejected[kind == name].mean() >= 0.8, name
    assert cleaned.rejected[np.isin(kind, JUNK)].mean() >= 0.93
    dwarf = kind == "dwarf"
    assert cleaned.rejected[dwarf].mean() <= 0.01
    for group in ("metal_poor", "late", "active"):
        assert cleaned.rejected[dwarf & survey[1][group]].sum() <= 1, group


def test_shards_and_blocks_change_nothing(survey, cleaned, monkeypatch):
    spectra = survey[0]
    same(clean_spectra([spectra[:1], spectra[1:700], spectra[700:]]), cleaned)
    monkeypatch.setattr(cleaning_bins, "BINNED", 37)
    same(clean_spectra([spectra]), cleaned)


def test_features_may_be_kept_on_disk(survey, cleaned, tmp_path):
    for spectra, expected in ((survey[0], cleaned), (survey[0][:0], clean_spectra([]))):
        folder = tmp_path / str(len(spectra))
        folder.mkdir()
        same(clean_spectra([spectra[:600], spectra[600:]], folder=folder), expected)
        assert sorted(path.name for path in folder.iterdir()) == ["depth.npy", "sigma.npy"]


def test_a_seed_settles_everything(survey, cleaned):
    same(clean_spectra([survey[0]]), cleaned)
    other = clean_spectra([survey[0]], CleaningSettings(seed=1))
    assert other.digest != cleaned.digest
    differ = other.rejected != cleaned.rejected
    assert differ[survey[1]["kind"] == "dwarf"].mean() < 0.01, "dwarfs stay whatever the seed"
    assert set(survey[1]["kind"][differ]) <= {*JUNK, "dwarf"}
    assert differ.mean() < 0.06, "of so few spectra of a kind, another seed may find no cluster"


def test_halpha_plays_no_part(survey, cleaned):
    flux = survey[0].flux.copy()
    flux[:, (WAVE >= 6546) & (WAVE <= 6586)] *= 5
    same(clean_spectra([changed(survey[0], flux=flux)]), cleaned)


def test_every_row_has_its_say(cleaned):
    told = {cluster.number for cluster in cleaned.clusters}
    assert set(np.unique(cleaned.cluster)) - {-1} == told
    for cluster in cleaned.clusters:
        rows = cleaned.cluster == cluster.number
        assert (cleaned.flags[rows] & cluster.flags == cluster.flags).all()
        assert cleaned.rejected[rows].all() == (cluster.verdict == "rejected" or cluster.outliers == cluster.size)
        if cluster.verdict == "rejected":
            assert cluster.size == rows.sum()
    for flag in cleaned.flags[cleaned.rejected]:
        assert Clean.describe(int(flag))
        assert int(flag) & int(OF_SPECTRUM | OF_CLUSTER)
    assert (cleaned.flags[~cleaned.rejected] & ~int(Clean.BORDERLINE) == 0).all()


def test_rounds_end(survey):
    one = clean_spectra([survey[0]], CleaningSettings(rounds=1))
    assert {cluster.number // 1000 for cluster in one.clusters} == {1}
    assert one.rejected.sum() > 50
    many = clean_spectra([survey[0]], CleaningSettings(rounds=100))
    assert max(cluster.number // 1000 for cluster in many.clusters) < 10
    last = max(cluster.number // 1000 for cluster in many.clusters)
    assert all(cluster.verdict != "rejected" for cluster in many.clusters if cluster.number // 1000 == last)


def test_none_and_few(survey):
    spectra, truth = survey
    nothing = clean_spectra([])
    assert len(nothing.rejected) == len(nothing.clusters) == 0
    same(nothing, clean_spectra([spectra[:0]]))
    good = np.flatnonzero((truth["kind"] == "dwarf") & (truth["snr_r"] > 15))
    for count in (1, 2, 5, 20):
        few = clean_spectra([spectra[good[:count]]])
        assert few.flags.shape == (count,)
        assert not few.rejected.any()
    bad = np.flatnonzero((truth["kind"] == "white_dwarf") & (truth["snr_r"] > 15))
    assert clean_spectra([spectra[bad[:1]]]).rejected.all()


def test_identical_spectra_are_one_cluster(survey):
    spectra, truth = survey
    row = np.flatnonzero((truth["kind"] == "dwarf") & (truth["snr_r"] > 15))[0]
    copies = clean_spectra([spectra[np.full(300, row)]])
    assert len(copies.clusters) == 1
    assert copies.clusters[0].size == 300
    assert not copies.rejected.any()


def test_damaged_rows_keep_their_place(survey):
    """Rows of NaN, of infinities, without a good pixel or with errors of zero are rejected and move nothing else."""
    spectra = survey[0][:300]
    before = clean_spectra([spectra])
    rows = np.array([0, 3, 150, 299])
    flux, sigma, good = spectra.flux.copy(), spectra.sigma.copy(), spectra.good.copy()
    flux[rows[0]], sigma[rows[1]], good[rows[2]] = np.nan, 0.0, False
    flux[rows[3], ::2], sigma[rows[3]] = np.inf, np.nan
    after = clean_spectra([changed(spectra, flux=flux, sigma=sigma, good=good)])
    assert (after.cluster[rows] == -1).all()
    assert all("too few good pixels" in Clean.describe(int(flag)) for flag in after.flags[rows])
    others = np.setdiff1d(np.arange(300), rows)
    rest = clean_spectra([spectra[others]])
    np.testing.assert_array_equal(after.flags[others], rest.flags)
    np.testing.assert_array_equal(after.cluster[others], rest.cluster)
    assert (after.rejected[others] == before.rejected[others]).mean() > 0.95


def test_gaps_at_an_end_are_missing_arms_and_gaps_within_are_not(survey):
    spectra, truth = survey
    good = np.flatnonzero((truth["kind"] == "dwarf") & (truth["snr_r"] > 10))[:100]
    spectra = spectra[good]
    for keep, flag in (
        (WAVE < 7700, Clean.MISSING_ARM),
        (WAVE > 7100, Clean.MISSING_ARM),
        ((WAVE < 7000) | (WAVE > 8000), 0),
        (np.abs(WAVE - 7300) > 1000, Clean.FEW_PIXELS),
    ):
        one = spectra.good.copy()
        one[50] &= keep
        flags = int(clean_spectra([changed(spectra, good=one)]).flags[50])
        assert flags & int(OF_SPECTRUM) & int(flag) if flag else not flags & int(OF_SPECTRUM)


def test_a_cosmic_hit_is_forgiven_and_a_lamp_is_not(survey):
    spectra, truth = survey
    good = np.flatnonzero((truth["kind"] == "dwarf") & (truth["snr_r"] > 15))[:200]
    spectra = spectra[good]
    flux = spectra.flux.copy()
    flux[10, 1400:1403] += 3
    flux[20, 400::37] += 1
    found = clean_spectra([changed(spectra, flux=flux)])
    assert not found.rejected[10]
    assert found.flags[20] & int(Clean.ROUGH)


def test_no_signal_is_told(survey):
    spectra = survey[0]
    sigma = spectra.sigma[:50].copy()
    sigma[7] = 2.0
    assert clean_spectra([changed(spectra[:50], sigma=sigma)]).flags[7] & int(Clean.NO_SIGNAL)


@pytest.mark.parametrize("factor", [1.0, 1.6])
def test_noise_is_measured(factor):
    rng = np.random.default_rng(1)
    flux = np.repeat(rng.normal(1, 0.2, (300, 967)), 3, axis=1).astype(np.float32)  # blocks of 3 pixels
    truth = 0.2 * np.sqrt(3 / cleaning_bins.CORRELATION) / factor
    sigma = np.full_like(flux, truth)
    shard = PreparedSpectra(flux, sigma, np.ones(flux.shape, bool), np.ones((300, 3081), bool), np.zeros(300))
    assert bin_spectra(shard).noise_factor() == pytest.approx(factor, rel=0.05)
    assert clean_spectra([shard]).settings.noise_factor == pytest.approx(factor, rel=0.05)


@settings(max_examples=40)
@given(st.floats(-0.5, 0.9), st.floats(-0.3, 0.5), st.floats(0, 0.2), st.floats(0, 0.3))
def test_verdicts_are_monotonic(tio5, cah1, error, quiet):
    rules = CleaningSettings()
    flags, border = cleaning._verdict(tio5, cah1, error, quiet, rules)
    assert bool(flags & Clean.NOT_QUIET) == (quiet > rules.most_quiet)
    assert bool(flags & Clean.WEAK_BANDS) == (tio5 + cah1 + 2 * error < rules.least_bands)
    if flags & (Clean.WEAK_BANDS | Clean.GIANT):
        assert border  # whatever is rejected would be borderline with larger errors
        surer, _ = cleaning._verdict(tio5, cah1, 0.0, quiet, rules)
        assert surer & flags == flags
    more, _ = cleaning._verdict(tio5, cah1 + 0.5, error, quiet, rules)
    assert not more & Clean.GIANT


@pytest.mark.skipif(not TEMPLATES.exists(), reason="needs ../shared/data/templates")
def test_limits_are_those_of_the_mean_spectra():
    spec = importlib.util.spec_from_file_location("make_cleaning_limits", LIMITS)
    limits = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(limits)
    depths = limits.mean_depths(TEMPLATES)
    every = np.array(list(depths.values()))
    assert limits.quiet_ranges(every) == QUIET
    rules = CleaningSettings()
    for name, depth in depths.items():
        tio5 = 1 - (1 + depth[cleaning.TIO5]) / (1 + depth[cleaning.REFERENCE])
        quiet = np.sqrt(np.nanmean(depth[QUIET_BINS] ** 2))
        flags, border = cleaning._verdict(tio5, -depth[cleaning.CAH1], 0.0, quiet, rules)
        if name[0] == "M":
            assert not flags, name
            assert not border, name
        elif name.startswith("K7") and "-1.0" not in name:
            assert not flags, name


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def test_the_page_shows_every_cluster_that_is_not_good(survey, cleaned, tmp_path):
    path, data = write_cleaning_page(tmp_path / "cleaning.html", cleaned, survey[0].__getitem__)
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in reader.sources)
    shown = [cluster for cluster in cleaned.clusters if cluster.verdict != "good"]
    assert len(shown) >= 1
    for cluster in shown:
        count = "1 spectrum" if cluster.size == 1 else f"{cluster.size} spectra"
        assert f"cluster {cluster.number}: {count}, {cluster.verdict}" in reader.text
        assert Clean.describe(cluster.flags) in reader.text
    pictures = sum(source.startswith("data:") for source in reader.sources)
    alone = sum(bool((cleaned.flags & int(flag)).any()) for flag in Clean if flag & OF_SPECTRUM)
    assert pictures == len(shown) + alone
    assert cleaned.digest in reader.text
    written = json.loads(data.read_bytes())
    pngs = [source.removeprefix("data:image/png;base64,") for source in reader.sources if source.startswith("data:")]
    assert [picture["png"] for picture in written["pictures"]] == pngs
    assert [one["number"] for one in written["clusters"]] == [one.number for one in cleaned.clusters]
    assert written["clusters"][0]["mean"] == cleaned.clusters[0].mean.tolist()
    assert (written["digest"], written["rejected"]) == (cleaned.digest, cleaned.rejected.sum())


def test_features_of_many_shards_are_read_again_from_files_that_are_closed(survey, cleaned, tmp_path):
    for number, part in enumerate((survey[0][:700], survey[0][700:])):
        bin_spectra(part).save(tmp_path / str(number))
    few = len(list(Path("/proc/self/fd").iterdir()))
    parts = [Features.load(tmp_path / str(number)) for number in (0, 1)]
    many = [Features.load(tmp_path / "0") for _ in range(50)]
    assert len(list(Path("/proc/self/fd").iterdir())) == few
    assert sum(map(len, many)) == 50 * 700
    same(clean(parts), cleaned)


def test_the_page_of_nothing(tmp_path):
    page, _ = write_cleaning_page(tmp_path / "cleaning.html", clean([]), PreparedSpectra.empty(0).__getitem__)
    assert "0 of 0 spectra rejected" in page.read_text(encoding="utf-8")


def test_a_person_overrules(cleaned, tmp_path):
    out = next(cluster for cluster in cleaned.clusters if cluster.verdict == "rejected")
    stays = next(cluster for cluster in cleaned.clusters if cluster.verdict == "good")
    file = tmp_path / "overrule.toml"
    file.write_text(
        f'made_for = "{cleaned.digest}"\n[clusters]\n{out.number} = "keep"\n{stays.number} = "reject"\n',
        encoding="utf-8",
    )
    after = overrule(cleaned, file)
    kept, gone = cleaned.cluster == out.number, cleaned.cluster == stays.number
    alone = cleaned.flags & int(OF_SPECTRUM) != 0
    np.testing.assert_array_equal(after.rejected[kept], alone[kept])
    assert after.rejected[gone].all()
    others = ~kept & ~gone
    np.testing.assert_array_equal(after.flags[others], cleaned.flags[others])
    verdicts = {cluster.number: cluster.verdict for cluster in after.clusters}
    assert (verdicts[out.number], verdicts[stays.number]) == ("good", "rejected")
    assert "by a person" in Clean.describe(int(after.flags[gone][0]))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('made_for = "0123"\n[clusters]\n1000 = "keep"\n', "made for the cleaning 0123, not for"),
        ("[clusters]\n", "made for the cleaning None"),
        ('made_for = "@"\n[clusters]\n77 = "keep"\n', "77 = 'keep'"),
        ('made_for = "@"\n[clusters]\n# = "maybe"\n', "= 'maybe'"),
        ('made_for = "@"\ncluster = 3\n', "holds cluster"),
        ('made_for = "@"\nclusters = 3\n', r"may hold made_for and \[clusters\]"),
        ("made_for = ", "not a TOML file"),
    ],
)
def test_a_wrong_overrule_is_refused(cleaned, tmp_path, text, told):
    file = tmp_path / "overrule.toml"
    number = cleaned.clusters[0].number
    file.write_text(re.sub("#", str(number), text.replace("@", cleaned.digest)), encoding="utf-8")
    with pytest.raises(UsageError, match=told):
        overrule(cleaned, file)


def test_a_missing_overrule_is_told(cleaned, tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        overrule(cleaned, tmp_path / "none.toml")
