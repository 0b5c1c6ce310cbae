"""The command line: rows, exit codes, help, interruption (ROBUSTNESS cases 47-49)."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from astropy.io import fits

from stargap import cli
from stargap.mock.files import write_lamost
from stargap.mock.spectra import mock_wavelength


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "stargap", *map(str, arguments)], capture_output=True, text=True, timeout=120,
        check=False, **options,
    )  # fmt: skip


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
    result = run("measure", *inputs, "-o", tmp_path / "labels.fits", "--workers", "1")
    assert result.returncode == 0, result.stderr
    with fits.open(tmp_path / "labels.fits", memmap=False, checksum=True) as hdul:
        table, header = hdul[1].data.copy(), hdul[1].header
    assert [path.rsplit("/", 1)[-1] for path in table["path"]] == [path.name for path in inputs]
    assert table["spectrum_id"].tolist() == [0, 1, 2, 3]
    assert table["obsid"].tolist() == [3, -9999, -9999, 1]
    assert header["TUNIT12"] == "K"
    assert header["TTYPE12"] == "teff"
    assert "not read: 1 x not a FITS file (starts with HTML)" in result.stdout
    assert "not read: 1 x the file does not exist" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["measure"], "PATHS"),
        (["measure", "x.fits", "-o", "labels.xls"], ".parquet"),
        (["measure", "x.fits", "-o", "no/such/folder/labels.fits"], "does not exist"),
        (["measure", "x.fits", "--workers", "0"], "--workers is 0"),
        (["measure", "x.fits", "--model", "nowhere"], "emulator.json"),
        (["measure", "x.fits", "--settings", "nowhere.toml"], "cannot be read"),
        (["measure", "x.fits", "--zero-points", "nowhere.csv"], "cannot be read"),
        (["measure", "*.nothing"], "no file matches"),
        (["measure", "@nowhere.txt"], "the list cannot be read"),
        (["measur", "x.fits"], "measure"),
        (["measure", "x.fits", "--plt", "p"], "--plot"),
        (["demo", "--stars", "0"], "--stars is 0"),
        (["emulator", "nowhere", "-o", "m"], "nowhere"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert says in printed.err


def test_an_unknown_settings_key_names_the_nearest(folder, tmp_path, capsys):
    (tmp_path / "my.toml").write_text("error_flor = 0.01\n")
    with pytest.raises(SystemExit) as stop:
        cli.main(["measure", str(folder), "--settings", str(tmp_path / "my.toml")])
    assert stop.value.code == 2
    assert "did you mean 'error_floor'?" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["measure", "demo", "emulator"])
def test_every_command_has_help_with_every_option_explained(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    options = [line.strip("│* ") for line in printed.splitlines() if line.startswith("│") and "--" in line]
    assert options
    for line in options:
        assert re.search(r"  \S", line) or line.endswith(("INT", "PATH", "FLOAT")), line


def test_help_does_not_import_torch_or_astropy():
    code = "import sys; from stargap.cli import app; print(sorted({'torch', 'astropy', 'numpy'} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_ctrl_c_is_one_line_and_130(folder, tmp_path):
    (tmp_path / "list.txt").write_text(f"{folder / 'spec-0.fits'}\n" * 5000)
    process = subprocess.Popen(
        [sys.executable, "-m", "stargap", "measure", f"@{tmp_path / 'list.txt'}", "--workers", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    time.sleep(6)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == "stargap: interrupted"
    assert "Traceback" not in err + out


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
