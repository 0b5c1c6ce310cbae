import base64
import csv
import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import colormaps
from matplotlib.colors import to_hex

from stargap.errors import UsageError
from stargap.flags import bit_text, set_bits
from stargap.pipeline.folder import Run
from stargap.pipeline.stages import STAGES
from stargap.pixels import LOG_LAMBDA
from stargap.spectra.readers.read import read_spectrum
from stargap.spectra.store.shards import SHARD_ROWS
from stargap.tables.columns import CATALOGUE, STARS
from stargap.tables.parquet import read_columns, write_parts
from stargap.validation.matching import CompareSettings
from stargap.validation.report import figures
from stargap.validation.report import page as report
from stargap.validation.report.assets import PALETTE
from stargap.validation.report.data import STAGE_ORDER, read_run
from stargap.validation.report.explorer import MOST_SHARDS, choose_rows, write_spectra, write_stars
from stargap.validation.report.fitted import FittedSpectra, RawSpectra
from stargap.validation.report.headlines import headline_sheet
from stargap.validation.report.page import report_files, write_report
from stargap.validation.report.spectra import fit_again, observe
from stargap.validation.report.truth import truth_sheets
from stargap.validation.sheets import read_results

VOID = {"meta", "link", "img", "input", "br", "hr"}


class Outline(HTMLParser):
    """What a page holds; that its tags close in order is checked as it is read."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data

    def of(self, *names):
        return [attrs for tag, attrs in self.tags if tag in names]


def content_of(path):
    text = path.read_text()
    head, body = text.split(",", 2)[:2], text.split(",", 2)[2]
    assert head[0].startswith("stargapLoaded(")
    assert body.endswith(");\n")
    return json.loads(body.removesuffix(");\n"))


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(written_report):
    return written_report


@pytest.fixture(scope="module")
def page(folder):
    return Outline((folder / "index.html").read_text())


@pytest.fixture(scope="module")
def data(finished_run, simulated_survey):
    return read_run(finished_run, truth=simulated_survey / "truth.parquet")


# ---- the page


def test_page_is_self_contained(folder, page):
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    addresses = [attrs.get("src") or attrs.get("href") for attrs in page.of("img", "script", "link", "a")]
    for address in filter(None, addresses):
        if address.startswith("#"):
            assert address[1:] in ids
        elif not address.startswith("data:"):
            assert "://" not in address
            assert (folder / unquote(address)).is_file()


def test_page_is_accessible(page):
    assert page.of("html")[0]["lang"] == "en"
    assert len(page.of("h1")) == 1
    assert all(attrs["alt"].strip() for attrs in page.of("img"))
    assert len(page.of("img")) > 8
    pictures = [attrs for attrs in page.of("div") if attrs.get("role") == "application"]
    assert [attrs["id"] for attrs in pictures] == ["kiel", "hr", "flux", "fit", "residual", "halpha"]
    assert all(attrs["aria-label"] and attrs["tabindex"] == "0" for attrs in pictures)
    assert all("scope" in attrs for attrs in page.of("th"))


def test_every_figure_of_the_paper_is_drawn_or_says_why(folder, page):
    headed = {attrs["id"].removeprefix("figure-") for attrs in page.of("figure") if "id" in attrs}
    (left_out,) = [line for line in page.text.splitlines() if line.startswith("Left out:")]
    for planned in figures.FIGURES:
        if (folder / "figures" / f"{planned.name}.png").exists():
            assert len(rows_of(folder / "data" / f"{planned.name}.csv")) > 0
            assert planned.name in headed
        else:
            assert planned.name not in headed, "no heading without its figure"
            assert planned.title in left_out
            assert page.text.count(f"{planned.title}: ") == 1, "the reason"
    drawn = {path.stem for path in (folder / "figures").glob("*.png")}
    assert drawn == {path.stem for path in (folder / "data").glob("[0-9]*.csv")}
    assert {"01-sky", "05-processing", "07-tsne", "08-residuals", "09-kiel", "11-hr", "19-recovery"} <= drawn
    assert "drawing it failed" not in page.text


def test_text_from_outside_is_text(page):
    assert not page.of("b")
    assert 'M dwarfs <b>& "others"</b> (simulated)' in page.text


def test_simulated_is_said(page, data, finished_run, monkeypatch):
    assert "Every star here is simulated" in page.text
    heads = [sheet.header for sheet in (headline_sheet(data, None),)]
    assert heads[0][1:] == ("paper, real stars", "this run (simulated)", "against the truth (simulated)")
    assert all("(simulated)" in sheet.title for sheet in truth_sheets(data))
    assert read_run(finished_run).mark == " (simulated)"
    # without a word of it anywhere, stars are real
    real = replace(data, simulated=False, truth=None)
    assert headline_sheet(real, None).header == ("quantity", "paper, real stars", "this run")


def test_velocities_are_counted_as_figure_4_counts_them(folder):
    told = {row["quantity"]: row["this run (simulated)"] for row in rows_of(folder / "data/headlines.csv")}
    rows = rows_of(folder / "data/04-velocity.csv")
    stars = sum(np.isfinite(float(row["rv"]) - float(row["gaia_rv"])) for row in rows)
    assert 0 < stars < len(rows)
    assert told["RV − Gaia's (km/s)"].endswith(f"spectra of {stars} stars)")


def test_notes_are_sentences(page, data):
    assert data.notes
    assert all(report.sentence(note) in page.text for note in data.notes)
    assert "{'" not in page.text.split("Settings")[0]


def test_notes_of_several_comparisons_are_said_once(finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "FIGURES", ())
    table = read_columns(finished_run / "catalogue/spectra.parquet", ["obsid", "teff"])
    others = tmp_path / "others.csv"
    others.write_text("\n".join(["obsid,teff", *(f"{i},{t}" for i, t in zip(*table.values(), strict=True))]))
    made = CompareSettings(columns={"teff": "teff"}, key="obsid", our_key="obsid", resamples=5, note="each its own")
    tables = [(others, made.model_copy(update={"name": name, "note": name})) for name in ("Mann 2015", "SLAM")]
    text = Outline(write_report(finished_run, output=tmp_path / "r", comparisons=tables, spectra=0).read_text()).text
    assert text.count("Errors are standard deviations over 5 bootstrap samples of stars.") == 1
    assert text.count("are in SLAM: ") == 1


def test_numbers_are_those_of_the_catalogue(folder, finished_run):
    spectra = read_columns(finished_run / "catalogue/spectra.parquet", ["in_final_catalogue"])
    stars = read_columns(finished_run / "catalogue/stars.parquet")
    told = {row["quantity"]: row["this run (simulated)"] for row in rows_of(folder / "data/headlines.csv")}
    assert told["spectra in the catalogue"] == str(spectra["in_final_catalogue"].sum())
    kept = stars["in_final_catalogue"]
    assert told["stars in the catalogue"] == str(kept.sum())
    kiel = rows_of(folder / "data/09-kiel.csv")
    assert [int(row["gaia_source_id"]) for row in kiel] == stars["gaia_source_id"][kept].tolist()
    np.testing.assert_array_equal(np.float32([row["teff"] for row in kiel]), stars["teff"][kept])


@pytest.mark.slow
def test_tables_of_others_are_drawn_and_told_of(finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "FIGURES", tuple(one for one in figures.FIGURES if "14" <= one.name[:2] <= "18"))
    table = read_columns(finished_run / "catalogue/spectra.parquet")
    stars = np.flatnonzero(table["in_final_catalogue"])
    others = tmp_path / "others.csv"
    lines = [f"{table['obsid'][i]},{table['teff'][i] - 40},{table['logg'][i]},{table['m_h'][i] + 0.1}" for i in stars]
    others.write_text("\n".join(["obsid,teff,logg,m_h", *lines]))
    made = CompareSettings(columns={n: n for n in ("teff", "logg", "m_h")}, key="obsid", our_key="obsid", resamples=5)
    tables = [(others, made.model_copy(update={"name": name})) for name in ("Mann 2015", "APOGEE DR17", "SLAM")]
    tables.append((others, CompareSettings(name="ULySS", columns={"teff": "teff"}, key="obsid", our_key="obsid")))
    run = tmp_path / "run"
    shutil.copytree(finished_run, run, ignore=shutil.ignore_patterns("store", "report", "cleaning.*"))
    (run / "compare/wide").mkdir(parents=True)
    (run / "compare/wide/binaries.csv").write_text("snr,m_h,primary_m_h\n9,0.1,0.0\n60,-0.2,-0.3\n")
    (run / "compare/by hand").mkdir()
    (run / "compare/by hand/comparison.json").write_text(json.dumps(COMPARED))
    folder = write_report(run, comparisons=tables, points=5).parent
    assert folder == run / "report"
    text = Outline((folder / "index.html").read_text()).text
    assert "spectra and models cannot be made again" in text
    assert "nothing was cleaned" in text
    assert all(word in text for word in ("Comparison with APOGEE", "Teff & <log g>", "By hand."))
    points = content_of(folder / "explorer/points.js")
    assert points["count"] == 5 > points["shown"] == 0
    assert not (folder / "spectra").exists()
    assert text.count("simulated stars") >= 4
    assert "Comparison with APOGEE DR17" in text
    for number, name in enumerate(("literature", "apogee", "methods", "differences", "binaries"), start=14):
        assert (folder / "figures" / f"{number}-{name}.png").exists()
    unique = len(np.unique(table["gaia_source_id"][stars]))
    for name in ("14-literature", "15-apogee"):
        rows = rows_of(folder / "data" / f"{name}.csv")
        assert len(rows) == unique
        assert all(float(row["teff"]) - float(row["their_teff"]) == pytest.approx(40, abs=0.01) for row in rows)
    assert {row["source"] for row in rows_of(folder / "data/17-differences.csv")} == {"SLAM", "ULySS"}
    assert len(rows_of(folder / "data/18-binaries.csv")) == 2


def test_cuts_are_those_of_the_run(folder, finished_run):
    sample, final = rows_of(folder / "data/cuts-1.csv"), rows_of(folder / "data/cuts-2.csv")
    assert sample[-1]["left"] == final[0]["left"]  # what the sample leaves is what the catalogue's cuts start from
    for cuts in (sample, final):
        assert [row["before"] for row in cuts[1:]] == [row["left"] for row in cuts[:-1]]


@pytest.mark.slow
def test_report_is_the_same_again_and_leaves_no_old_files(written_report, finished_run, simulated_survey, tmp_path):
    folder = tmp_path / "report"
    shutil.copytree(written_report, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (folder / "spectra" / "999.js").write_text("mine")
    (folder / "notes.txt").write_text("mine")
    page = write_report(finished_run, output=folder, truth=simulated_survey / "truth.parquet")
    assert page == folder / "index.html"
    mine = [folder / "spectra" / "999.js", folder / "notes.txt"]
    assert [path.read_text() for path in mine] == ["mine", "mine"]
    assert not set(mine) & set(report_files(folder / "index.html"))
    for path in mine:
        path.unlink()
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after.keys() == before.keys()
    assert [path.name for path in after if after[path] != before[path]] == []


def test_stages_are_those_of_a_run(data):
    assert tuple(stage.name for stage in STAGES) == (*STAGE_ORDER, "report"), "a report cannot tell its own time"
    assert [stage.name for stage in data.stages] == list(STAGE_ORDER)
    assert dict((stage.name, stage.pieces) for stage in data.stages)["measure"] > 1


# ---- what cannot be shown


def test_a_folder_of_somebody_else_is_refused_before_anything_is_done(finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr("stargap.validation.report.page.alongside", None)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/mine.png").write_text("mine")
    with pytest.raises(UsageError, match="holds files that are not stargap's, such as 'figures'"):
        write_report(finished_run, output=tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["figures", "mine.png"]


def test_figure_that_fails_says_so_and_others_stay(finished_run, tmp_path, monkeypatch):
    def fail(*_, **__):
        message = "too <dark> today"
        raise RuntimeError(message)

    monkeypatch.setattr("stargap.figures.diagrams.kiel_figure", fail)
    two = tuple(one for one in figures.FIGURES if one.name in ("09-kiel", "11-hr"))
    monkeypatch.setattr(figures, "FIGURES", two)
    text = Outline(write_report(finished_run, output=tmp_path, spectra=0).read_text()).text
    assert "drawing it failed: RuntimeError: too <dark> today" in text
    assert (tmp_path / "figures/11-hr.png").exists()
    assert not (tmp_path / "figures/09-kiel.png").exists()


COMPARED = {
    "title": "Comparison with APOGEE",
    "sheets": [{"title": "Ours", "header": ["quantity", "stars"], "rows": [["Teff & <log g>", "7"]], "left": 1}],
    "notes": ["by hand"],
}


def test_results_of_comparisons_come_back(tmp_path):
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps(COMPARED))
    title, (sheet,), notes = read_results(path)
    assert (title, sheet.header, sheet.rows, sheet.left, notes) == (
        "Comparison with APOGEE", ("quantity", "stars"), (("Teff & <log g>", "7"),), 1, ("by hand",)
    )  # fmt: skip
    for spoilt in ("", "[]", "{}", '{"title": 1, "sheets": [{}], "notes": []}'):
        path.write_text(spoilt)
        with pytest.raises(UsageError, match="does not hold results"):
            read_results(path)


@pytest.mark.slow
def test_catalogue_without_a_row_has_a_report(tmp_path):
    folder = tmp_path / "catalogue"
    folder.mkdir()
    for name, schema in (("spectra", CATALOGUE), ("stars", STARS)):
        write_parts([], folder / f"{name}.parquet", schema=schema, provenance={})
    (folder / "precision.json").write_text('{"version": "0", "errors": {}}')
    text = Outline(write_report(tmp_path).read_text()).text
    assert "drawing it failed" not in text
    assert "simulated" not in text.casefold()
    assert content_of(tmp_path / "report/explorer/points.js")["count"] == 0


def test_nothing_to_report_is_refused(finished_run, tmp_path):
    with pytest.raises(UsageError, match="finish the run first"):
        write_report(tmp_path)
    truth = tmp_path / "truth.csv"
    truth.write_text("obsid,teff\n1,3500\n")
    with pytest.raises(UsageError, match="no column 'rv', 'logg'"):
        write_report(finished_run, truth=truth)
    truth.write_text("obsid,teff,logg,m_h,rv,kind,active\n1,3500,5,0,0,dwarf,false\n")
    with pytest.raises(UsageError, match="neither obsid nor spectrum_id names rows"):
        write_report(finished_run, truth=truth)


# ---- the explorer's files


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60), st.integers(0, 70))
def test_chosen_rows(stars, points):
    labelled, final = (np.array([star[place] for star in stars], dtype=bool) for place in (0, 1))
    table = {"teff": np.where(labelled, 3500.0, np.nan), "logg": np.full(len(stars), 5.0), "in_final_catalogue": final}
    table["spectrum_id"] = np.arange(len(stars))
    rows = choose_rows(table, points=points)
    assert len(set(rows.tolist())) == len(rows) == min(points, labelled.sum())
    assert labelled[rows].all()
    assert final[rows].sum() == min(len(rows), (final & labelled).sum())
    np.testing.assert_array_equal(rows, choose_rows(table, points=points))


def test_spectra_are_shown_of_few_shards():
    count = 3 * MOST_SHARDS
    table = {"teff": np.full(2 * count, 3500.0), "logg": np.full(2 * count, 5.0)}
    table |= {"spectrum_id": SHARD_ROWS * np.repeat(np.arange(count), 2) + np.tile([0, 1], count)}
    table |= {"in_final_catalogue": np.tile([True, False], count)}
    rows = choose_rows(table, points=count)
    shards = table["spectrum_id"][rows] // SHARD_ROWS
    assert table["in_final_catalogue"][rows].all()
    assert len(np.unique(shards)) == count
    first = shards[:MOST_SHARDS]
    assert not {*first} & {*shards[MOST_SHARDS:]}
    assert (np.diff(first) < 0).any()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 120), st.integers(0, 2**32 - 1))
def test_spectra_survive_their_files(tmp_path_factory, count, seed):
    random = np.random.default_rng(seed)
    values = (10.0 ** random.uniform(-3, 6, (3, count, 1)) * random.normal(size=(3, count, 40))).astype(np.float32)
    values[random.random(values.shape) < 0.1] = np.nan
    values[:, random.random(count) < 0.1] = np.nan
    nothing = np.empty(0)
    folder = tmp_path_factory.mktemp("spectra")
    wave = 6000.5 + 2.0 * np.arange(40)
    raw = RawSpectra.empty(count, 40)
    write_spectra(folder, FittedSpectra(wave, *values, nothing, nothing, None, None, None, raw))
    found = []
    for path in sorted((folder / "spectra").glob("*.js")):
        content = content_of(path)
        assert (content["start"], content["step"]) == (6000.5, 2.0)
        fit = content["fit"]
        whole = np.frombuffer(base64.b64decode(fit["data"]), "<i2").reshape(-1, 3, fit["pixels"])
        scale = np.reshape(fit["scale"], (-1, 3, 1))
        found.append(np.where(whole == -32768, np.nan, whole * scale))
    read = np.concatenate([np.empty((0, 3, 40)), *found]).transpose(1, 0, 2)
    assert read.shape == values.shape
    np.testing.assert_array_equal(np.isnan(read), np.isnan(values))
    largest = np.nanmax(np.abs(np.nan_to_num(values)), axis=2, keepdims=True, initial=0.0)
    assert (np.abs(np.nan_to_num(read) - np.nan_to_num(values)) <= largest / 32767 * 0.51).all()


def test_colours_are_those_of_matplotlib():
    assert list(PALETTE) == [to_hex(colormaps["viridis"](place)) for place in np.linspace(0, 1, 32)]


def test_rows_hold_exact_identifiers(folder, finished_run):
    table = read_columns(finished_run / "catalogue/spectra.parquet")
    points = content_of(folder / "explorer/points.js")
    ids = points["ids"]["gaia_source_id"]
    assert max(map(int, ids)) > 2**53
    names = [name for name, *_ in points["schema"]]
    rows = [row for path in sorted((folder / "rows").glob("*.js")) for row, _ in content_of(path)]
    assert len(rows) == len(ids) == points["count"]
    place = {number: row for row, number in enumerate(table["spectrum_id"].tolist())}
    teff = np.frombuffer(base64.b64decode(points["columns"]["teff"]), "<f4")
    for number, row in enumerate(rows):
        told = dict(zip(names, row, strict=True))
        here = place[int(told["spectrum_id"])]
        gaia = table["gaia_source_id"][here]
        assert told["gaia_source_id"] == ("" if gaia == -9999 else str(gaia))
        assert ids[number] == str(gaia)
        assert teff[number] == table["teff"][here]
        assert float(told["teff"]) == pytest.approx(float(table["teff"][here]), abs=0.051)
        assert told["flags"].split(":")[0] == str(table["flags"][here])
        sentences = "; ".join(bit_text("cuts", bit)[1] for bit in set_bits(int(table["cuts"][here])))
        assert told["cuts"] == f"{table['cuts'][here]}" + (f": {sentences}" if sentences else "")
    assert any(":" in row[names.index("cuts")] for row in rows)


def test_models_are_those_of_the_run(finished_run):
    table = read_columns(finished_run / "catalogue/spectra.parquet", ["spectrum_id", "teff", "logg", "m_h"])
    rows = choose_rows({**table, "in_final_catalogue": np.ones(len(table["teff"]), dtype=bool)})
    ids = table["spectrum_id"][rows]
    assert (np.diff(ids) < 0).any()
    assert len({number // 16 for number in ids.tolist()}) > 1  # of several shards
    fitted = fit_again(finished_run, ids)
    for place, name in enumerate(("teff", "logg", "m_h")):
        np.testing.assert_allclose(fitted.labels[:, place], table[name][rows], rtol=1e-5, atol=1e-5)
    assert fitted.before is not None
    assert np.nanmedian(fitted.after) < np.nanmedian(fitted.before)
    assert Run(finished_run, None).store.exists()
    again = fit_again(finished_run, ids[:3])
    np.testing.assert_allclose(again.model, fitted.model[:3], atol=1e-5)
    with pytest.raises(UsageError, match="were not measured"):
        fit_again(finished_run, np.setdiff1d(table["spectrum_id"], ids)[:1])


def test_raw_spectra_are_those_of_the_files_and_need_no_fit(finished_run, simulated_survey):
    table = read_columns(finished_run / "catalogue/spectra.parquet", ["spectrum_id", "teff", "rv", "rv_zero"])
    known = np.flatnonzero(np.isfinite(table["teff"]))[:2]
    fitted = fit_again(finished_run, table["spectrum_id"][known], step=1)
    for row, here in enumerate(known.tolist()):
        seen = observe(finished_run, int(table["spectrum_id"][here]))
        np.testing.assert_array_equal(seen.raw.flux[0], fitted.raw.flux[row])
        np.testing.assert_allclose(seen.raw.continuum[0], fitted.raw.continuum[row], rtol=1e-5)
        np.testing.assert_allclose(seen.observed[0], fitted.observed[row], rtol=1e-4)
        assert seen.raw.velocity[0] == pytest.approx(float(table["rv"][here] + table["rv_zero"][here]), abs=1e-3)
        assert np.isnan(seen.model).all()
    index = read_columns(finished_run / "store/index.parquet", ["spectrum_id", "path"])
    path = index["path"][index["spectrum_id"] == table["spectrum_id"][known[0]]][0]
    spectrum = read_spectrum(path)
    place = np.round(np.log10(spectrum.wavelength) / LOG_LAMBDA.step - LOG_LAMBDA.first).astype(int)
    inside = (place >= 0) & (place < LOG_LAMBDA.count)
    used = np.isfinite(fitted.raw.flux[0, place[inside]])
    assert used.mean() > 0.9
    np.testing.assert_allclose(fitted.raw.flux[0, place[inside]][used], spectrum.flux[inside][used], rtol=1e-5)


def test_a_spectrum_that_was_not_measured_is_seen_as_observed(finished_run):
    table = read_columns(finished_run / "measured.parquet", ["spectrum_id", "rv", "failure"])
    index = np.flatnonzero(np.isnan(table["rv"]) & (table["failure"] == ""))
    seen = observe(finished_run, int(table["spectrum_id"][index[0]]))
    assert np.isnan(seen.raw.velocity).all()
    assert np.isnan(seen.observed).all()
    assert np.isfinite(seen.raw.flux).any()
    with pytest.raises(UsageError, match=r"cannot be read|holds no spectrum"):
        observe(finished_run, 10**9)


def test_no_spectra_at_all(finished_run):
    assert fit_again(finished_run, np.empty(0, dtype=np.int64)).observed.shape[0] == 0


def test_empty_choice_writes_empty_files(finished_run, tmp_path):
    table, nothing = finished_run / "catalogue/spectra.parquet", np.empty(0, dtype=np.int64)
    write_stars(tmp_path, table, nothing, 0, False)
    assert content_of(tmp_path / "explorer/points.js")["count"] == 0
    assert not (tmp_path / "rows").exists()


# ---- the truth


@pytest.fixture(scope="module")
def planted(data):
    """A truth that differs from what was measured by known amounts, of many copies of the spectra."""
    random = np.random.default_rng(0)
    rows = np.flatnonzero(data.final & (data.truth["kind"] == "dwarf"))
    rows = random.choice(rows, 4000)
    spectra = {name: values[rows].copy() for name, values in data.spectra.items()}
    truth = {name: values[rows].copy() for name, values in data.truth.items()}
    truth["active"] = random.random(4000) < 0.25
    spectra["activity_3sigma"] = np.where(truth["active"], random.random(4000) < 0.8, random.random(4000) < 0.1)
    for name, offset in (("rv", 2.0), ("teff", 50.0), ("logg", -0.1), ("m_h", 0.05)):
        spectra[f"e_{name}"] = np.full(4000, abs(offset))
        spectra[f"e_{name}_sys"] = np.full(4000, np.nan)
        truth[name] = spectra[name] - offset - abs(offset) * random.normal(size=4000)
    return replace(data, spectra=spectra, truth=truth)


def cells(sheet, *start):
    return next(row[len(start) :] for row in sheet.rows if row[: len(start)] == start)


def test_planted_offsets_are_found(planted):
    offsets, groups, calibration, _, _, flags = truth_sheets(planted)
    n, median, mad, std, pulls = cells(offsets, "Teff (K)", "all")
    assert int(n.replace(",", "")) == (~planted.truth["active"]).sum()
    assert abs(float(median) - 50) < 4
    assert abs(float(mad) - 50) < 4
    assert abs(float(std) - 50) < 4
    assert abs(float(pulls) - 1) < 0.06
    assert float(cells(offsets, "[M/H] (dex)", "all")[1]) == pytest.approx(0.05, abs=0.011)
    # every published error is as large as the offset: within 1 sigma of it are those of -2 to 0 sigma
    assert abs(float(cells(calibration, "RV (km/s)", "as published")[1].split()[0]) - 47.7) < 3
    for width, share in zip((1, 2, 3), (68.3, 95.4, 99.7), strict=True):
        found = float(cells(calibration, "log g (dex)", "less their median")[width].split()[0])
        assert abs(found - share) < 3
    assert any(row[0] == "active" for row in groups.rows)
    found, wrong, pure = cells(flags, "active: activity_3sigma", "all")[2:]
    assert abs(float(found.split()[0]) - 80) < 5
    assert abs(float(wrong.split()[0]) - 10) < 3
    share = 80 * 0.25 / (0.8 * 0.25 + 0.1 * 0.75)
    assert abs(float(pure.split()[0]) - share) < 5


def test_bins_of_snr_add_up(data):
    offsets = truth_sheets(data)[0]
    for title in ("RV (km/s)", "Teff (K)"):
        counts = [int(row[2]) for row in offsets.rows if row[0] == title]
        snr = data.spectra["snr_r"]
        assert counts[0] >= sum(counts[1:])
        assert counts[0] - sum(counts[1:]) <= (snr < 5).sum()


def test_junk_is_counted_once(data):
    junk = truth_sheets(data)[3]
    for row in junk.rows:
        total, *parts = map(int, row[1:6])
        assert total == sum(parts)
    assert int(junk.rows[-1][1]) == (data.truth["kind"] != "dwarf").sum() > 0


def test_spectra_without_a_truth_are_left_out(data):
    known = data.truth["known"].copy()
    known[: len(known) // 2] = False
    less = replace(data, truth={**data.truth, "known": known})
    full, half = truth_sheets(data)[0].rows[0][2], truth_sheets(less)[0].rows[0][2]
    assert 0 < int(half) < int(full)
    junk = truth_sheets(less)[3].rows[-1]
    assert int(junk[1]) == ((data.truth["kind"] != "dwarf") & known).sum()


def test_nothing_is_known(data):
    nothing = replace(data, truth={**data.truth, "known": np.zeros(len(data.final), dtype=bool)})
    assert truth_sheets(nothing)[0].rows[0][2:] == ("0", "-", "-", "-", "-")
    assert headline_sheet(nothing, None).rows


def test_script_is_in_the_package():
    room = Path(report.__file__).parent / "templates"
    assert {"report.html", "explorer.js"} <= {path.name for path in room.iterdir()}
