"""The command line: rows, exit codes, help, interruption (ROBUSTNESS cases 47-49)."""

import contextlib
import gc
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from astropy.io import fits
from helpers.processes import run_command
from helpers.stars import mock_stars
from safetensors.numpy import load_file

from stargap.cli import main as cli
from stargap.console import long_imports
from stargap.errors import UsageError
from stargap.flags import JointFlag
from stargap.mock.files import write_lamost
from stargap.mock.spectrographs import mock_wavelength
from stargap.photometry.surface import magnitude_table
from stargap.tables.column import INT_NULL
from stargap.tables.read import read_table
from stargap.tables.validate import validate_file
from stargap.theory.emulator import shipped_emulator

TINY = """
output = "out"
[data]
simulated = 200
[prior]
draws = 2000
[default]
stars = 100
match_stars = 100
gauge_stars = 100
validation_stars = 50
gauge_rounds = 1
rounds = 1
"""


ANCHORED = """
architecture = "anchored"
anchors = "anchors.csv"
output = "made"
[anchored]
"""


def run(*arguments, cwd="."):
    """What a command prints and exits with, in this process."""
    out, error, code = io.StringIO(), io.StringIO(), 0
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            cli.main([str(word) for word in arguments])
        except SystemExit as stop:
            code = stop.code
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=error.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spectra")
    wave = mock_wavelength()
    for number in range(3):
        write_lamost(
            folder / f"spec-{number}.fits", wave, 1 + 0.1 * np.sin(wave / 50), 0 * wave + 400, obsid=number + 1
        )
    (folder / "broken.fits").write_bytes(b"<html>404</html>")
    return folder


def test_one_row_a_file_in_order_and_exit_code_0(folder, tmp_path):
    inputs = [folder / "spec-2.fits", folder / "broken.fits", folder / "missing.fits", folder / "spec-0.fits"]
    (tmp_path / "list.txt").write_text("\n".join(map(str, inputs)))
    result = run("measure", f"@{tmp_path / 'list.txt'}", "-o", tmp_path / "labels.fits", "--workers", "1")
    assert result.returncode == 0, result.stderr
    with fits.open(tmp_path / "labels.fits", memmap=False, checksum=True) as hdul:
        table, header = hdul[1].data.copy(), hdul[1].header
    assert [path.rsplit("/", 1)[-1] for path in table["path"]] == [path.name for path in inputs]
    assert table["spectrum_id"].tolist() == [0, 1, 2, 3]
    assert table["obsid"].tolist() == [3, -9999, -9999, 1]
    assert header[f"TUNIT{table.names.index('teff') + 1}"] == "K"
    assert "not read: 1 x not a FITS file (starts with HTML)" in result.stdout
    assert "not read: 1 x the file does not exist" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["measure"], "measure needs PATHS; stargap measure --help says more"),
        (["measure", "x.fits", "--model"], "--model of measure needs a value; stargap measure --help says more"),
        (["show", "x.fits"], "show needs --id; stargap show --help says more"),
        (["measure", "nowhere/"], "nowhere/: there is no such file or folder"),
        (["measure", "x.fits", "y.fits"], "y.fits: there is no such file or folder"),
        (["measure", "x.fits", "-o", "/proc/labels.fits"], "cannot write /proc/labels.fits: no"),
        (["measure", "x.fits", "-o", "labels.xls"], ".parquet"),
        (["measure", "x.fits", "-o", "no/such/folder/labels.fits"], "does not exist"),
        (["measure", "x.fits", "--workers", "0"], "--workers is 0"),
        (["measure", "x.fits", "--device", "cuda"], "torch finds no GPU here; set device to cpu"),
        (["measure", "x.fits", "--model", "nowhere"], "emulator.json"),
        (["measure", "x.fits", "--settings", "nowhere.toml"], "cannot be read"),
        (["measure", "x.fits", "--zero-points", "nowhere.csv"], "cannot be read"),
        (["measure", "*.nothing"], "no file matches"),
        (["measure", "@nowhere.txt"], "the list cannot be read"),
        (["measur", "x.fits"], "measure"),
        (["measure", "x.fits", "--plt", "p"], "--plot"),
        (["demo", "--stars", "0"], "--stars is 0"),
        (["emulator", "nowhere", "-o", "m"], "nowhere"),
        (["measure", "x.fits", "--model", "nowhere.safetensors"], "nowhere.json"),
        (["train"], "--example"),
        (["train", "nowhere.toml"], "cannot be read"),
        (["train", "a.toml", "b.toml"], "b.toml"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "x.fits").write_bytes(b"")
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert says in printed.err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("error_flor = 0.01\n", "did you mean 'error_floor'?"),
        ("[fixed]\nloggg = 4\n", "unknown key 'fixed.loggg'; did you mean 'fixed.logg'?"),
    ],
)
def test_an_unknown_settings_key_names_the_nearest(folder, tmp_path, capsys, text, says):
    (tmp_path / "my.toml").write_text(text)
    with pytest.raises(SystemExit) as stop:
        cli.main(["measure", str(folder), "--settings", str(tmp_path / "my.toml")])
    assert stop.value.code == 2
    assert says in capsys.readouterr().err


def test_nothing_that_can_be_read_is_exit_code_1(folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["measure", str(folder / "broken.fits"), "-o", str(tmp_path / "l.fits"), "--workers", "1"])
    assert stop.value.code == 1
    printed = capsys.readouterr()
    said = "stargap: none of the 1 files could be read: 1 x not a FITS file (starts with HTML)\n"
    assert printed.err == said
    assert "HTML" not in printed.out, "it is said once"
    assert len(fits.getdata(tmp_path / "l.fits")) == 1, "the row says why"


@pytest.mark.parametrize("command", [name for name in cli.app if not name.startswith("-")])
def test_every_command_has_help_with_every_option_explained(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    cells = [line.strip("│* ") for line in printed.splitlines() if line.startswith("│")]
    options = [cell for cell in cells if cell.startswith("--")]
    assert options or command in ("validate", "completion"), "they have none"
    for line in options:
        assert re.search(r"  \S", line) or line.endswith(("INT", "PATH", "FLOAT")), line


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_options(shell, tmp_path):
    result = run("completion", shell)
    assert result.returncode == 0
    assert "measure" in result.stdout
    assert "zero-points" in result.stdout
    if shell == "bash":
        (tmp_path / "complete.sh").write_text(result.stdout)
        subprocess.run(["bash", "-n", tmp_path / "complete.sh"], check=True)


def test_spectra_and_models_are_written(folder, tmp_path):
    result = run("measure", folder / "spec-0.fits", "--spectra", tmp_path / "s.fits", "--workers", "1")
    assert "spectra and models of 1 rows" in result.stdout
    assert fits.getheader(tmp_path / "s.fits", 1)["EXTNAME"] == "SPECTRUM_0"
    refused = run("measure", folder / "spec-0.fits", "--spectra", tmp_path / "s.csv", "--workers", "1")
    assert refused.returncode == 2
    assert "its name must end in .fits or .parquet" in refused.stderr


def test_help_does_not_import_torch_or_astropy():
    code = (
        "import sys; from stargap.cli.main import app; print(sorted({'torch', 'astropy', 'numpy'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_one_file_is_measured_without_what_it_does_not_need(folder):
    """Its start is most of its time: nothing that trains, draws, joins or writes tables, and no compiler of torch."""
    code = f"""
import gc, sys
from stargap.cli.main import main
try:
    main(["measure", {str(folder / "spec-0.fits")!r}])
except SystemExit as stop:
    assert not stop.code
others = {{"torch._dynamo", "torch._inductor", "sympy", "pandas", "pyarrow", "scipy", "sklearn", "matplotlib", "h5py"}}
print(sorted(others & set(sys.modules)), gc.isenabled(), gc.get_freeze_count() > 100_000)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] True True"


def test_collections_stop_for_long_imports_alone(monkeypatch):
    with long_imports():
        assert gc.isenabled()  # torch is there already
    monkeypatch.delitem(sys.modules, "torch")
    with long_imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    gc.unfreeze()


def struck(processes, words, folder, signum, ready):
    """Exit code, output and errors of a command in another process that gets a signal once it is ready."""
    process = processes.Process(target=run_command, args=(words, folder))
    process.start()
    while not (folder / "stdout").exists() or not ready():
        assert process.is_alive()
        time.sleep(0.005)
    os.kill(process.pid, signum)
    process.join(60)
    out, error = ((folder / name).read_text() for name in ("stdout", "stderr"))
    (folder / "stdout").unlink()
    assert "Traceback" not in error + out
    return process.exitcode, out, error.strip()


def test_ctrl_c_is_one_line_and_130(folder, tmp_path, processes):
    (tmp_path / "list.txt").write_text(f"{folder / 'spec-0.fits'}\n" * 5000)
    words = ["measure", "@list.txt", "--workers", "1"]
    code, _, error = struck(
        processes, words, tmp_path, signal.SIGINT, lambda: not time.sleep(1)
    )  # it has begun by then
    assert (code, error.splitlines()[-1]) == (130, "stargap: interrupted")


def test_broken_pipe_is_silent(folder):
    process = subprocess.Popen(
        [sys.executable, "-m", "stargap", "measure", str(folder), "--workers", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 141
    assert "Traceback" not in err
    assert "Exception" not in err


# ---- train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a whole training, and what it printed."""
    folder = tmp_path_factory.mktemp("train")
    (folder / "tiny.toml").write_text(TINY)
    return folder, run("train", "tiny.toml", cwd=folder)


def tensors(path):
    return {name: array.tobytes() for name, array in load_file(path).items()}


def test_train_writes_a_model_and_says_how_to_use_it(trained):
    folder, result = trained
    assert result.returncode == 0, result.stderr
    assert "stargap measure SPECTRA --model out/transfer.safetensors" in result.stdout
    assert "trained on 200 spectra, simulated" in result.stdout
    assert "match: sequence_width" in result.stdout
    assert result.stderr == ""
    card = json.loads((folder / "out/transfer.json").read_text())
    assert card["simulated"] is True
    assert card["alpha"] == 0.0
    assert card["settings"]["default"]["rounds"] == 1
    assert card["settings"]["data"] == {"simulated": 200, "mix": "matched", "seed": 1}
    assert str(folder) not in json.dumps(card)


def test_a_trained_model_measures_and_says_what_it_is(trained, folder, tmp_path):
    model = trained[0] / "out/transfer.safetensors"
    result = run("measure", folder / "spec-0.fits", "--model", model, "-o", tmp_path / "l.fits", "--workers", "1")
    assert result.returncode == 0, result.stderr
    assert "was trained on simulated stars" in result.stdout
    assert "residual-transfer" in str(fits.getheader(tmp_path / "l.fits", 1)) + str(fits.getheader(tmp_path / "l.fits"))
    assert "simulated stars" not in run("measure", folder / "spec-0.fits", "--workers", "1").stdout


def made(folder, product):
    return bool(list(folder.glob(product)))


@pytest.mark.slow
def test_a_stopped_training_goes_on_to_the_same_model(trained, tmp_path, processes):
    (tmp_path / "tiny.toml").write_text(TINY)
    stopped = (130, "", "stargap: stopped; run the same command again to go on")
    for signum, product in (
        (signal.SIGTERM, "out/spectra/flux.npy"),
        (signal.SIGINT, "out/training-default/stage-0*"),
    ):
        there = partial(made, tmp_path, product)
        assert struck(processes, ["train", "tiny.toml"], tmp_path, signum, there) == stopped
    assert run("train", "tiny.toml", cwd=tmp_path).returncode == 0
    assert tensors(tmp_path / "out/transfer.safetensors") == tensors(trained[0] / "out/transfer.safetensors")
    assert (tmp_path / "out/transfer.json").read_bytes() == (trained[0] / "out/transfer.json").read_bytes()


@pytest.fixture
def here(trained, monkeypatch):
    monkeypatch.chdir(trained[0])
    return trained[0]


def succeeds(arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 0


@pytest.mark.parametrize(("words", "cited"), [([], "Us"), (["--cite", "Others 2020"], "Others 2020")])
def test_an_emulator_cites_whom_its_user_says_or_its_files(words, cited, tmp_path, monkeypatch):
    with h5py.File(tmp_path / "grid.h5", "w") as file:
        file["wavelength"], file["flux"] = [6000.0, 6001.0], [[1e5, 2e5]]
        file["labels"] = [[3000.0, 5.0, 0.0, 0.0]]
        file["labels"].attrs["names"] = ["teff", "logg", "mh", "am"]
        file.attrs["citations"] = "Us"

    def train(grid, *_, **__):
        raise UsageError(f"cites {grid.citation}")

    monkeypatch.setattr("stargap.theory.train_emulator.fit_emulator", train)
    answer = run("emulator", tmp_path / "grid.h5", "-o", tmp_path / "model", *words)
    assert f"cites {cited}" in answer.stderr


def train_with(text, capsys):
    """What `stargap train` says of settings that it refuses."""
    with open("other.toml", "w") as file:  # noqa: PTH123
        file.write(text)
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "other.toml"])
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('architecture = "defalt"', "'default', 'anchored', 'reference' or 'starnet'"),
        ('architecture = "anchored"', 'architecture = "anchored" needs anchors, a table with path,teff,logg,m_h'),
        (ANCHORED.replace("anchors.csv", "nowhere.csv"), "nowhere.csv: the file does not exist"),
        ("anchors = 'a.csv'\narchitecture = 'reference'", '"default", "anchored" and "starnet": leave them out'),
        (ANCHORED + "directions = 50", "anchored.directions"),
        (ANCHORED + "m_h = nan", "anchored.m_h"),
        ("[default]\nround = 1", "unknown key 'default.round'; did you mean 'default.rounds'?"),
        ("[data]\nspectra = 'nowhere'", "nowhere/flux.npy"),
        ("emulator = 'nowhere'", "nowhere/emulator.json"),
        ("emulator = 'out/transfer.safetensors'", "'residual-transfer'"),
        ("[prior]\nalpha = 0.9", "prior.alpha is 0.9"),
        ("anchors = 'nowhere.csv'\n" + TINY, "nowhere.csv: the file does not exist"),
        ("anchors = 'other.toml'\n" + TINY, "other.toml: no column 'row', 'teff'"),
        (TINY.replace("200", "300"), "other simulated stars"),
        (TINY.replace("[prior]", "seed = 2\n[prior]"), "other simulated stars"),
        (TINY + "ridge = 0.04", "other settings, data, emulator or version"),
        (TINY.replace("2000", "3000"), "other settings, data, emulator or version"),
    ],
)
def test_training_that_cannot_be(here, capsys, text, says):
    before = (here / "out/transfer.safetensors").read_bytes()
    assert says in train_with(text, capsys)
    assert (here / "out/transfer.safetensors").read_bytes() == before


def test_spectra_of_another_type_are_refused(here, capsys, tmp_path):
    for name in ("flux", "sigma", "good", "weight", "rv"):
        array = np.load(here / f"out/spectra/{name}.npy")
        np.save(tmp_path / f"{name}.npy", array.astype(float) if name == "flux" else array)
    assert "flux.npy holds float64" in train_with(f"[data]\nspectra = '{tmp_path}'", capsys)


def test_training_on_spectra_of_a_folder(here, capsys):
    (here / "own.toml").write_text(TINY.replace("simulated = 200", "spectra = 'out/spectra'").replace('"out"', '"own"'))
    succeeds(["train", "own.toml"])
    assert "simulated" not in capsys.readouterr().out
    card = json.loads((here / "own/transfer.json").read_text())
    assert (card["simulated"], card["alpha"], card["training_data"]) == (False, None, "200 spectra of spectra")


HEAD = "row,teff,e_teff,logg,e_logg,m_h,e_m_h\n"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "bad.csv: no line below"),
        ("200,3500,50,4.8,0.1,0,0.1", "bad.csv: line 3: row is 200; it must be 0 to 199"),
        ("1.5,3500,50,4.8,0.1,0,0.1", "bad.csv: line 3: row is 1.5; it must be 0 to 199"),
        ("3,3500,0,4.8,0.1,0,0.1", "bad.csv: line 3: errors must be positive"),
    ],
)
def test_anchors_that_make_no_sense(here, capsys, line, says):
    (here / "bad.csv").write_text(HEAD + "7,3500,50,4.8,0.1,0,0.1\n" * bool(line) + line + "\n")
    assert says in train_with("anchors = 'bad.csv'\n" + TINY, capsys)


def test_anchors_move_the_labels(here, capsys, monkeypatch):
    """The training of the same settings without anchors is taken over."""
    from stargap.transfer.residual.model import ResidualTransfer

    truth = np.load(here / "out/spectra/truth.npy")
    rows = [f"{row},{t + 200},20,{g},0.05,{m},0.05" for row, (t, g, m, _) in enumerate(truth[:100])]
    (here / "anchors.csv").write_text(HEAD + "\n".join(rows) + "\n")
    text = "anchors = 'anchors.csv'\n" + TINY.replace('"out"', '"anchored"')
    (here / "anchored.toml").write_text(text)
    monkeypatch.setattr("stargap.transfer.residual.scatter.STARS", 16)
    shutil.copytree(here / "out", here / "anchored", ignore=shutil.ignore_patterns("transfer.*"))
    succeeds(["train", "anchored.toml"])
    assert "anchors match: anchors           100" in capsys.readouterr().out
    places = ResidualTransfer.load(here / "out/transfer.safetensors").label_map.centre[None]
    maps = [ResidualTransfer.load(here / name / "transfer.safetensors").label_map for name in ("out", "anchored")]
    assert maps[1](places)[0, 0] - maps[0](places)[0, 0] > 50


@pytest.fixture(scope="module")
def stars(tmp_path_factory):
    """Files of eight stars with the emulator's spectra, and a CSV that says what they are."""
    folder = tmp_path_factory.mktemp("stars")
    simulated = mock_stars(shipped_emulator(), 8, seed=81, snr=np.full(8, 60.0), bad_pixels=False, active_fraction=0.0)
    (folder / "spectra").mkdir()
    lines = ["path,teff,logg,m_h,star,scored"]
    for row, (flux, ivar) in enumerate(zip(simulated.flux, simulated.ivar, strict=True)):
        write_lamost(folder / "spectra" / f"{row}.fits", simulated.wavelength, flux, ivar, obsid=row + 1)
        teff, logg, m_h, _ = simulated.labels[row]
        lines.append(f"spectra/{row}.fits,{teff},{logg},{m_h},S{row},{int(row > 0)}")
    (folder / "anchors.csv").write_text("\n".join(lines) + "\n")
    return folder, simulated


def test_a_transfer_is_made_of_anchors_and_measures(stars, monkeypatch, capsys):
    folder, simulated = stars
    monkeypatch.chdir(folder)
    (folder / "anchored.toml").write_text(ANCHORED + "directions = 1\n")
    succeeds(["train", "anchored.toml"])
    out = capsys.readouterr().out
    assert "each star left out in turn, ours - literature:" in out
    assert "teff_std" in out
    assert "use: stargap measure SPECTRA --model made/transfer.safetensors" in out
    card = json.loads((folder / "made/transfer.json").read_text())
    assert (card["kind"], card["training_data"]) == ("anchored-transfer", "8 anchor stars of anchors.csv")
    assert (card["scores"]["anchors"], card["scores"]["left_out"]) == (8.0, 7.0)
    assert card["settings"]["directions"] == card["directions"] == 1
    assert abs(card["scores"]["teff_median"]) < 40
    assert str(folder) not in json.dumps(card)
    told = (folder / "made/cross-validation.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in told] == ["star", *(f"S{row}" for row in range(1, 8))]

    succeeds(["measure", "spectra", "--model", "made/transfer.safetensors", "-o", "l.fits", "--workers", "1"])
    assert "simulated stars" not in capsys.readouterr().out
    with fits.open("l.fits", memmap=False) as hdul:
        table, header = hdul[1].data.copy(), str(hdul[1].header) + str(hdul[0].header)
    assert "anchored-transfer v2" in header
    assert np.abs(table["teff"] - simulated.labels[:, 0]).max() < 60
    assert (table["e_teff_sys"] >= 0).all()


def test_a_gaia_table_adds_labels_of_both_and_leaves_those_of_spectra(stars, monkeypatch, capsys, tmp_path):
    folder, simulated = stars
    monkeypatch.chdir(folder)
    succeeds(["measure", "spectra", "--model", "emulator", "-o", f"{tmp_path}/alone.parquet", "--workers", "1"])
    # written by hand, as a star has no position in these files: with one of its own it has a source
    wave, place = simulated.wavelength, {"ra": 112.5, "dec": 5.2}
    write_lamost(tmp_path / "0.fits", wave, simulated.flux[0], simulated.ivar[0], obsid=1, **place)
    magnitudes = magnitude_table()(simulated.labels[:1, 0], simulated.labels[:1, 2], np.array([0]))[0][0]
    names = "source_id,ra,dec,phot_g_mean_mag,phot_bp_mean_mag,phot_rp_mean_mag,ks_m,parallax,parallax_error,ruwe"
    values = [77, 112.5, 5.2, *magnitudes[:4], 99.97, 0.02, 1.0]
    (tmp_path / "gaia.csv").write_text(f"{names}\n{','.join(map(str, values))}\n")
    capsys.readouterr()
    words = ["measure", f"{tmp_path}/0.fits", "spectra/1.fits", "--model", "emulator", "--workers", "1"]
    succeeds([*words, "--gaia", f"{tmp_path}/gaia.csv", "-o", f"{tmp_path}/both.parquet"])
    out = capsys.readouterr().out
    assert "1 of 2 spectra have a Gaia source: 0 by identifier, 1 by position" in out
    assert "1 of 2 spectra have labels of spectrum and photometry together" in out
    alone, both = (read_table(tmp_path / f"{name}.parquet") for name in ("alone", "both"))
    for name in ("rv", "teff", "e_teff", "logg", "m_h", "chi2", "flags"):
        np.testing.assert_array_equal(alone[name][:2], both[name])
    assert both["gaia_source_id"].tolist() == [77, INT_NULL]
    assert abs(both["teff_joint"][0] - simulated.labels[0, 0]) < 60
    assert both["e_teff_joint"][0] < 60
    assert np.isnan(both["teff_joint"][1])
    assert both["joint_flags"][1] == int(JointFlag.NO_PHOTOMETRY)
    assert validate_file(tmp_path / "both.parquet") == []
    succeeds(["show", f"{tmp_path}/both.parquet", "--id", "1"])
    assert "no photometry to join" in " ".join(capsys.readouterr().out.split())


def test_models_inside_the_package_by_their_names(stars, monkeypatch, capsys):
    folder, _ = stars
    monkeypatch.chdir(folder)
    for words, kind in (
        ([], "anchored-transfer"),
        (["--model", "emulator"], "payne"),
        (["--preset", "paper"], "payne"),
        (["--model", "transfer-simulated"], "residual-transfer"),
    ):
        succeeds(["measure", "spectra/1.fits", "-o", "n.fits", "--workers", "1", *words])
        assert ("simulated stars" in capsys.readouterr().out) == ("transfer-simulated" in words)
        assert f"{kind} v" in str(fits.getheader("n.fits", 1)) + str(fits.getheader("n.fits"))


@pytest.mark.parametrize("architecture", ["reference", "starnet"])
def test_training_a_network(architecture, here, folder, capsys):
    tiny = TINY.replace('"out"', f'"{architecture}"')
    text = f'architecture = "{architecture}"\n{tiny}[{architecture}]\niterations = 1\nbatch = 4\nlog_every = 1\n'
    if architecture == "starnet":
        (here / "known.csv").write_text(HEAD + "".join(f"{row},3500,20,4.8,0.05,0,0.05\n" for row in range(40)))
        text = f"anchors = 'known.csv'\n{text}"
    (here / "network.toml").write_text(text)
    other = shutil.ignore_patterns("transfer.*", "training-*")
    shutil.copytree(here / "out", here / architecture, ignore=other)  # the same simulated stars
    succeeds(["train", "network.toml"])
    path = f"{architecture}/transfer.safetensors"
    assert f"use: stargap measure SPECTRA --model {path}" in capsys.readouterr().out
    card = json.loads((here / architecture / "transfer.json").read_text())
    assert (card["iterations"], card["network"]["residual"]) == (1, architecture == "starnet")
    log = (here / architecture / f"training-{architecture}" / "metrics.jsonl").read_text()
    assert ("generator.paired_observed" in log) == (architecture == "starnet")
    succeeds(["measure", str(folder / "spec-0.fits"), "--model", path, "--workers", "1"])
    assert f"{path} was trained on simulated stars" in capsys.readouterr().out


def test_the_printed_example_is_the_default_settings(capsys, tmp_path):
    from stargap.pipeline.train_settings import TrainSettings
    from stargap.settings import read_settings_as

    succeeds(["train", "--example"])
    (tmp_path / "example.toml").write_text(capsys.readouterr().out)
    assert read_settings_as(TrainSettings, tmp_path / "example.toml") == TrainSettings()


def test_the_shipped_transfer_says_that_it_is_for_simulated_stars(folder):
    result = run("measure", folder / "spec-0.fits", "--model", "transfer-simulated", "--workers", "1")
    assert result.returncode == 0, result.stderr
    assert "the model transfer-simulated was trained on simulated stars" in result.stdout
