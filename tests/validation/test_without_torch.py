"""What measures nothing works where torch cannot be imported: settings, states, catalogues and their readers."""

import shutil
import subprocess
import sys

from stargap.pipeline.settings import SurveySettings
from stargap.settings import example_toml, read_settings_as

PROGRAM = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch was imported")

sys.meta_path.insert(0, NoTorch())
from stargap.cli.main import main

for line in {commands!r}:
    try:
        main(line.split())
    except SystemExit as stop:
        assert not stop.code, (line, stop.code)
    print("did", line, flush=True)

import stargap
assert stargap.read_spectrum({spectrum!r}).flux.size > 1000
assert stargap.to_scale([3500.0], [0.0], "apogee")
import stargap.validation.viewer.serve
assert "torch" not in sys.modules
print("did all")
"""


def test_commands_that_measure_nothing_do_without_torch(finished_run, simulated_survey, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run, ignore=shutil.ignore_patterns("report"))
    settings = read_settings_as(SurveySettings, run / "survey.toml")
    assert settings.report.spectra > 0  # a report fits them again, in a process of its own
    settings = settings.model_copy(update={"output": run})
    (tmp_path / "survey.toml").write_text(example_toml(settings))
    spectra = run / "catalogue/spectra.parquet"
    commands = [
        "settings",
        f"run {tmp_path}/survey.toml --status",
        f"run {tmp_path}/survey.toml --from catalogue --until catalogue --workers 1",
        f"catalogue {tmp_path}/survey.toml --formats vot",
        f"report {tmp_path}/survey.toml",
        f"show {spectra} --id 3",
        f"validate {spectra}",
        f"binaries {spectra} {simulated_survey}/wide_binaries.csv {simulated_survey}/fgk_primaries.csv",
        f"photometry {simulated_survey}/gaia.parquet -o {tmp_path}/labels.parquet",
    ]
    file = next((simulated_survey / "spectra").rglob("*.fits*"))
    program = PROGRAM.format(commands=commands, spectrum=str(file))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1:] == ["did all"], done.stdout[-2000:] + done.stderr[-2000:]
    assert (run / "catalogue/stars.vot").exists()
    assert (run / "report/index.html").exists()
    assert (tmp_path / "labels.parquet").exists()
