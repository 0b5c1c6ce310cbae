"""Trials on whole runs: kills, full disks, lost workers, flipped bits, and hostile text in pages."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from reliability_trials import HELD, Tally, run_trials

from stargap.errors import StargapError
from stargap.mock.write import write_survey
from stargap.pipeline.engine import run_survey
from stargap.pipeline.folder import Run
from stargap.pipeline.freshness import remove_damaged
from stargap.pipeline.settings import SurveySettings
from stargap.pipeline.stages import STAGES
from stargap.settings import example_toml, read_settings_as
from stargap.tables.read import read_table

__all__ = ["Survey", "flipped_bits", "full_disks", "kill_chains", "lost_workers"]

COMMAND = [sys.executable, "-m", "stargap", "run"]
KILLS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MOST_KILLS = 3
"""Kills in a chain, after which the run is left to finish."""
NO_PRODUCTS = ("receipts", "survey.toml", "run.lock", ".stargap", "index.html")
"""What of a run tells times and owners and so differs between runs: receipts, locks, and the page of the report."""
FINISHED, TIME_LIMIT = 0, 600.0


@dataclass(frozen=True)
class Survey:
    """A finished run of a small simulated survey that nobody disturbed, and the checksums of its products."""

    run: Path
    products: dict[str, str]
    seconds: float = 0.0

    @classmethod
    def make(cls, work: Path, *, stars: int = 16) -> Survey:
        """Simulate a survey and run every stage on it."""
        folder = write_survey(work / "survey", stars, seed=3, repeats=0.2, junk=0.1)
        began = time.monotonic()
        process = start(quick_settings(folder), folder / "run")
        _, error = process.communicate()
        if process.returncode:
            raise RuntimeError(error)
        return cls(folder / "run", products(folder / "run"), time.monotonic() - began)

    def settings(self, folder: Path) -> SurveySettings:
        """Return the settings of the same run into another folder."""
        return read_settings_as(SurveySettings, self.run / "survey.toml").model_copy(update={"output": folder})

    def start(self, folder: Path, *words: str, before: list[str] | None = None) -> subprocess.Popen[str]:
        """Start the same run into another folder, in a session of its own."""
        return start(self.settings(folder), folder, *words, before=before)


def quick_settings(survey: Path) -> SurveySettings:
    """Return settings of a quick run: few draws of the prior, one start of each fit, few spectra in shards."""
    return SurveySettings.model_validate(
        {
            "output": survey / "run",
            "input": {
                "spectra": [str(survey / "spectra")],
                "catalogue": survey / "lamost.csv",
                "gaia": survey / "gaia.parquet",
                "simulated": True,
            },
            "ingest": {"shard_rows": 10},
            "transfer": {"use": "simulated", "prior": {"draws": 1000, "alpha": 0.0}},
            "measure": {"starts": 1},
            "publish": {"formats": ["fits", "csv"]},
            "report": {"spectra": 4},
        }
    )


def start(
    settings: SurveySettings, folder: Path, *words: str, before: list[str] | None = None
) -> subprocess.Popen[str]:
    """Start ``stargap run`` in a session of its own, with its settings beside its folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    toml = folder.parent / f"{folder.name}.toml"
    toml.write_bytes(example_toml(settings).encode())
    return subprocess.Popen(
        [*(before or ()), *COMMAND, str(toml), *(words or ("--workers", "1"))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def products(folder: Path) -> dict[str, str]:
    """Return the checksum of every product of a run by its name."""
    from stargap.spectra.store.shards import file_sha256

    return {
        str(path.relative_to(folder)): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not set(path.relative_to(folder).parts) & set(NO_PRODUCTS)
    }


def difference(found: dict[str, str], wanted: dict[str, str]) -> str:
    """Return how the products of a run differ from those of the undisturbed one; nothing if they do not."""
    other = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    return f"{len(other)} products differ, such as {other[0]}" if other else HELD


def _ended(process: subprocess.Popen[str], what: str) -> str:
    """Wait for a run that must finish; return why it did not."""
    try:
        _, error = process.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return f"{what}: hangs"
    return HELD if process.returncode == FINISHED else f"{what}: exit code {process.returncode}: {error.strip()[-300:]}"


def kill_chains(survey: Survey, work: Path, tries: int, random: np.random.Generator) -> list[Tally]:
    """Kill a run at random moments, up to three times, and let it finish."""
    tally = Tally("chains of kills of stargap run", "the bytes of the run that nobody killed")
    kills = 0
    for chain in range(tries):
        folder = work / f"chain-{chain}" / "run"
        for _ in range(int(random.integers(1, MOST_KILLS + 1))):
            process = survey.start(folder)
            time.sleep(random.uniform(0.1, 1.05) * survey.seconds)
            if process.poll() is None:
                kills += 1
                os.killpg(process.pid, KILLS[int(random.integers(len(KILLS)))])
            process.communicate()
        failed = _ended(survey.start(folder), f"chain {chain}")
        tally.add(failed or difference(products(folder), survey.products))
        shutil.rmtree(folder.parent)
    tally.note = f"{kills} kills"
    return [tally]


def full_disks(survey: Survey, work: Path, tries: int, random: np.random.Generator) -> list[Tally]:
    """Run on a disk that is too small, then with space for all.

    The disk is a file system in memory where one can be mounted, and else a limit on the size of files.
    """
    tally = Tally("disks that are full", "an error in words, then the bytes of the run that had space")
    need = sum(path.stat().st_size for path in (survey.run).rglob("*") if path.is_file())
    mounts = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0
    tally.note = "file systems in memory" if mounts else "limits on the size of files"
    for trial in range(tries):
        folder = work / f"disk-{trial}"
        folder.mkdir(parents=True)
        size = int(need * random.uniform(0.02, 0.95))
        tally.add((_on_small_disk if mounts else _with_small_files)(survey, folder, size))
        shutil.rmtree(folder)
    return [tally]


SMALL_DISK = """
mount -t tmpfs -o size=$2 tmpfs "$1"
shift 2
"$@" 2> "$DISK.first"; echo $? > "$DISK.code"
mount -o remount,size=2G "$DISK"
"$@" && cp -r "$DISK/run" "$DISK.found"
"""


def _on_small_disk(survey: Survey, folder: Path, size: int) -> str:
    disk = folder / "disk"
    disk.mkdir()
    before = ["env", f"DISK={disk}", "unshare", "-rm", "sh", "-c", SMALL_DISK, "sh", str(disk), str(size)]
    toml = folder / "run.toml"
    toml.write_bytes(example_toml(survey.settings(disk / "run")).encode())
    process = subprocess.run(
        [*before, *COMMAND, str(toml), "--workers", "1"],
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    code, first = (Path(f"{disk}.{name}").read_text().strip() for name in ("code", "first"))
    if process.returncode:
        return f"{size} bytes: not finished with space for all: {process.stderr.strip()[-300:]}"
    found = difference(products(Path(f"{disk}.found")), survey.products)
    return _refusal(size, int(code), first) or found


def _with_small_files(survey: Survey, folder: Path, size: int) -> str:
    blocks = max(1, size // 20 // 512)
    process = survey.start(folder / "run", before=["sh", "-c", f'ulimit -f {blocks}; exec "$@"', "sh"])
    _, first = process.communicate(timeout=TIME_LIMIT)
    failed = _ended(survey.start(folder / "run"), f"{size} bytes")
    return _refusal(size, process.returncode, first) or failed or difference(products(folder / "run"), survey.products)


def _refusal(size: int, code: int, error: str) -> str:
    """Return what is wrong with the end of a run on a disk that is too small; it may have had space enough."""
    if "Traceback" in error:
        return f"{size} bytes: a traceback: {error[-300:]}"
    return HELD if code == FINISHED or error.strip() else f"{size} bytes: exit code {code} without a word"


def lost_workers(survey: Survey, work: Path, tries: int, random: np.random.Generator) -> list[Tally]:
    """Kill one of two worker processes at a random moment, and call the run again if it did not finish."""
    tally = Tally("lost workers", "the bytes of the run that lost none")
    killed = 0
    for trial in range(tries):
        folder = work / f"worker-{trial}" / "run"
        process = survey.start(folder, "--workers", "2")
        victim = _worker_at(process, time.monotonic() + random.uniform(0.3, 0.9) * survey.seconds)
        if victim:
            killed += 1
            os.kill(victim, signal.SIGKILL)
        first = _ended(process, f"trial {trial}")
        if "hangs" in first or "Traceback" in first:
            tally.add(first)
        else:
            failed = _ended(survey.start(folder), f"trial {trial}, again") if first else HELD
            tally.add(failed or difference(products(folder), survey.products))
        shutil.rmtree(folder.parent)
    tally.note = f"{killed} killed"
    return [tally]


def _worker_at(process: subprocess.Popen[str], moment: float) -> int:
    """Return the first worker of a run that is there from a moment on; 0 if it ends before.

    Workers are the children of the server that the run starts (`stargap.workers`).
    """
    while process.poll() is None:
        servers = [name for name in _children(process.pid) if b"forkserver" in _command(name)]
        workers = [int(name) for server in servers for name in _children(server)]
        if time.monotonic() > moment and workers:
            return workers[0]
        time.sleep(0.01)
    return 0


def _children(pid: int | str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []


def _command(name: str) -> bytes:
    try:
        return Path(f"/proc/{name}/cmdline").read_bytes()
    except OSError:
        return b""


def flipped_bits(survey: Survey, work: Path, tries: int, random: np.random.Generator) -> list[Tally]:
    """Flip one bit in a product, and let the stages that read it be made again, or compare it with its checksum."""
    tally = Tally("flipped bits in stores and products", "noticed, or without effect")
    whole = survey.run
    files = [whole / name for name in sorted(survey.products) if (whole / name).stat().st_size]
    folder = work / "flipped"
    cases = []
    for number in range(tries):
        path = files[number % len(files)] if number < len(files) else files[int(random.integers(len(files)))]
        at = int(random.integers(8 * path.stat().st_size))
        cases.append((f"bit {at} of {path.relative_to(whole)}", str(path.relative_to(whole)), at, survey, folder))
    noticed = folder.with_suffix(".noticed")
    noticed.unlink(missing_ok=True)
    run_trials(tally, _flip, cases, seconds=120)
    if difference(products(whole), survey.products):
        tally.lost.append("a trial changed the run that it was tried on")
    count = len(noticed.read_text()) if noticed.exists() else 0
    tally.note = f"{count} noticed, {tally.held - count} without effect"
    shutil.rmtree(folder, ignore_errors=True)
    return [tally]


def _flip(case: tuple[str, str, int, Survey, Path]) -> str:
    shown, name, at, survey, folder = case
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(survey.run, folder, copy_function=os.link)
    path = folder / name
    content = bytearray(path.read_bytes())
    content[at // 8] ^= 1 << at % 8
    path.unlink()
    path.write_bytes(content)
    settings = survey.settings(folder)
    maker = _maker(folder, name)
    readers = [one.name for one in STAGES if maker in one.after(settings) and one.name != "report"]
    if not readers:
        return _verified(Run(folder, settings.absolute()), path, survey.run / name, shown)
    for reader in readers:
        shutil.rmtree(folder / "receipts" / reader)
        try:
            states = run_survey(settings, only=reader)
        except Exception as error:
            return _noticed(folder) if str(error) else f"{shown}: {error!r}"
        if any(state.failures for state in states):
            return _noticed(folder)
        changed = difference(products(folder) | {name: survey.products[name]}, survey.products)
        if changed:
            return f"{shown}: {changed}"
    return HELD


def _verified(run: Run, spoilt: Path, sound: Path, shown: str) -> str:
    """Return whether a product that people read is refused by its reader, or found by ``stargap run --verify``."""
    try:
        found = read_table(spoilt) if spoilt.suffix in (".parquet", ".fits") else None
    except StargapError:
        return _noticed(run.folder)
    try:
        damaged = remove_damaged(run)
    except StargapError:
        return _noticed(run.folder)
    if damaged == [spoilt]:
        return _noticed(run.folder)
    wanted = read_table(sound) if found is not None else {}
    same = (
        found is not None and found.keys() == wanted.keys() and all(_equal(found[one], wanted[one]) for one in wanted)
    )
    return HELD if same else f"{shown}: neither its reader nor run --verify notices"


def _noticed(folder: Path) -> str:
    with folder.with_suffix(".noticed").open("a") as file:
        file.write("x")
    return HELD


def _maker(folder: Path, name: str) -> str | None:
    """Return the stage whose receipt lists a product."""
    for stage in STAGES:
        for receipt in (folder / "receipts" / stage.name).glob("*.json"):
            if name in json.loads(receipt.read_bytes())["products"]:
                return stage.name
    return "ingest" if name.startswith("store/") else None


def _equal(one: Any, other: Any) -> bool:
    return one.dtype == other.dtype and (
        one.tobytes() == other.tobytes() if one.dtype != object else list(one) == list(other)
    )
