"""Files and folders that are complete under their final name, and folders that are known to be ours."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stargap.errors import UsageError
from stargap.files import MARK, claim_folder, clean_folder, replacing, replacing_folder, sweep_parts

_WRITER = """
import sys
from stargap.files import replacing, replacing_folder
with replacing(sys.argv[1] + "/table"), replacing_folder(sys.argv[1] + "/report", "report") as part:
    (part / "index.html").write_text("half")
    print("writing", flush=True)
    sys.stdin.read()
"""


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def _parts(folder: Path) -> list[str]:
    return [name for name in _names(folder) if name.endswith(".part")]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(TypeError), replacing(tmp_path / "a") as file:
        file.write("text")
    assert _names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_parts_of_a_living_writer_stay_and_those_of_a_killed_one_are_swept(tmp_path):
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    assert sweep_parts(tmp_path) == sweep_parts(tmp_path / "report") == 0
    assert len(_parts(tmp_path)) == 2
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()
    with replacing(tmp_path / "other"), replacing_folder(tmp_path / "report", "report"):
        assert len(_parts(tmp_path)) == 2, "those of this process alone"
    assert _names(tmp_path) == ["other", "report", f"report/{MARK}"]


@pytest.mark.parametrize("take", [claim_folder, clean_folder])
def test_a_folder_with_files_of_others_is_refused_and_left_alone(tmp_path, take):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "mine.png").write_bytes(b"1")
    (tmp_path / "thesis.tex").write_bytes(b"2")
    with pytest.raises(UsageError, match=r"not stargap's, such as 'figures'"):
        take(tmp_path, "report")
    assert _names(tmp_path) == ["figures", "figures/mine.png", "thesis.tex"]


def test_a_mark_that_is_not_ours_is_refused(tmp_path):
    (tmp_path / MARK).write_text("{}")
    with pytest.raises(UsageError, match="is not stargap's mark"):
        clean_folder(tmp_path, "run")
    with pytest.raises(UsageError, match="is a file; name a folder"):
        claim_folder(tmp_path / MARK, "run")


def test_a_folder_is_cleaned_where_our_mark_is_and_links_are_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine").write_text("")
    folder = claim_folder(tmp_path / "scratch", "simulation")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "deep" / "deeper").mkdir(parents=True)
    assert _names(clean_folder(folder, "simulation")) == [MARK]
    assert (tmp_path / "elsewhere" / "mine").exists()


def _write(folder: Path, *names: str, fail: bool = False) -> None:
    with replacing_folder(folder, "report") as part:
        for name in names:
            (part / name).parent.mkdir(exist_ok=True)
            (part / name).write_text("ours")
        if fail:
            raise RuntimeError


def test_a_new_report_replaces_the_files_of_the_old_one_and_no_others(tmp_path):
    _write(tmp_path, "index.html", "figures/old.png", "data/old.csv")
    (tmp_path / "figures" / "mine.png").write_text("mine")
    _write(tmp_path, "index.html", "figures/new.png")
    assert _names(tmp_path) == [MARK, "figures", "figures/mine.png", "figures/new.png", "index.html"]
    with pytest.raises(UsageError, match=r"such as 'figures/mine.png'"):
        _write(tmp_path, "index.html", "figures/mine.png")
    assert (tmp_path / "figures" / "mine.png").read_text() == "mine"
    with pytest.raises(RuntimeError):
        _write(tmp_path, "other.html", fail=True)
    assert _names(tmp_path) == [MARK, "figures", "figures/mine.png", "figures/new.png", "index.html"]


def test_a_report_that_fails_leaves_no_folder_behind(tmp_path):
    with pytest.raises(RuntimeError):
        _write(tmp_path / "report", "index.html", fail=True)
    assert _names(tmp_path) == []
