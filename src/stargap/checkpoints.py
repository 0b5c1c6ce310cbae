"""Stops of a training, and checkpoints: all it takes to go on as if it had never stopped; the best network."""

from __future__ import annotations

import json
import logging
import math
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from stargap import __version__
from stargap.errors import ModelError, UsageError
from stargap.files import replacing
from stargap.modelfile import Card, load_model, save_model, settle_models

__all__ = [
    "RunState",
    "isolated",
    "load_best",
    "metrics_log",
    "random_state",
    "read_metrics",
    "set_random_state",
    "stop_signals",
]

CHECKPOINT, BEST, VERSION = "transfer-checkpoint", "transfer-best", 1
CHANGEABLE = tuple(f"settings {name}" for name in ("iterations", "device", "checkpoint_every", "log_every"))
"""Settings that may change when a run resumes."""
LOG = logging.getLogger(__name__)


class BestCard(Card):
    """Card of the best network: when it was met, and its validation scores."""

    step: int
    scores: dict[str, float]


class CheckpointCard(Card):
    """Card of a checkpoint: where the run is, and everything that must not have changed when it resumes."""

    step: int
    seconds: float
    pieces: int
    best_step: int
    best_scores: dict[str, float]
    identity: dict[str, Any]


def load_best(task: nn.Module, folder: str | Path) -> dict[str, float]:
    """Load into `task` the best weights that `training.train` left in `folder`, and return their validation scores.

    Raises:
        ModelError: there are none, they are damaged, or of another architecture.
    """
    path = Path(folder) / "best.safetensors"
    card, tensors = load_model(path, BestCard, BEST, VERSION)
    changes = _changes(_architecture(tensors), _architecture(task.state_dict()))
    if changes:
        message = f"{path}: the best network is of another architecture: {changes}"
        raise ModelError(message)
    task.load_state_dict(tensors)
    return card.scores


@dataclass
class RunState:
    """A training between two steps; `save` writes it to `folder`, and `resume` takes it up from there.

    Args:
        module: what is trained.
        optimisers: by name.
        average: running mean of weights.
        device: where the module is, and whose random numbers count.
        folder: of this run alone.
        identity: what must not change when the run resumes, in JSON types; its ``settings`` hold ``iterations``.
        step: steps done.
        saved: step of the last checkpoint, -1 if there is none.
        pieces: into which a batch is cut to fit into memory.
        best: weights of the best network.
        best_step: when it was met.
        best_scores: its validation scores.
        begun: on the clock of `time.monotonic`, less the stops.
    """

    module: nn.Module
    optimisers: Mapping[str, torch.optim.Optimizer]
    average: AveragedModel | None
    device: torch.device
    folder: Path
    identity: dict[str, Any]
    step: int = 0
    saved: int = -1
    pieces: int = 1
    best: dict[str, Tensor] = field(default_factory=dict)
    best_step: int = 0
    best_scores: dict[str, float] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        whole = {"stargap": __version__, **self.identity, "architecture": _architecture(self.module.state_dict())}
        self.identity = json.loads(json.dumps(whole))

    @property
    def best_score(self) -> float:
        """Lowest validation score, infinite before the first validation."""
        return self.best_scores.get("score", math.inf)

    @property
    def seconds(self) -> float:
        """Time spent in training, without stops."""
        return round(time.monotonic() - self.begun, 3)

    def keep_best(self, tensors: Mapping[str, Tensor], scores: Mapping[str, float]) -> None:
        """Write the best network; scores that are not finite are left out."""
        self.best, self.best_step = _on_cpu(tensors), self.step
        self.best_scores = {key: value for key, value in scores.items() if math.isfinite(value)}
        self._write_best()

    def _write_best(self) -> None:
        card = BestCard(kind=BEST, version=VERSION, stargap=__version__, step=self.best_step, scores=self.best_scores)
        save_model(self.folder / "best.safetensors", card, self.best)

    def save(self) -> None:
        """Write a checkpoint under its step's name, and delete all but it and the one before."""
        if self.saved == self.step:
            return
        groups: dict[str, Mapping[str, Tensor]] = {
            "task": self.module.state_dict(),
            "best": self.best,
            "random": random_state(self.device),
            "average": {} if self.average is None else self.average.state_dict(),
        }
        for name, optimiser in self.optimisers.items():
            for index, moments in optimiser.state_dict()["state"].items():
                groups[f"{name}.{index}"] = moments
        card = CheckpointCard(
            kind=CHECKPOINT,
            version=VERSION,
            stargap=__version__,
            step=self.step,
            seconds=self.seconds,
            pieces=self.pieces,
            best_step=self.best_step,
            best_scores=self.best_scores,
            identity=self.identity,
        )
        tensors = {f"{group}/{key}": value for group, state in groups.items() for key, value in _on_cpu(state).items()}
        save_model(self.folder / f"checkpoint-{self.step:09d}.safetensors", card, tensors)
        kept = {f"checkpoint-{step:09d}" for step in (self.saved, self.step)}
        for path in sorted(self.folder.glob("checkpoint-*"), key=lambda path: path.suffix, reverse=True):
            if path.stem not in kept:
                path.unlink()
        self.saved = self.step

    def resume(self) -> None:
        """Take up the newest whole checkpoint, if there is one and nothing changed since; tidy the folder.

        Raises:
            UsageError: something changed, named with both values, or more steps are done than the settings allow.
            ModelError: every checkpoint is damaged.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        settle_models(self.folder)
        found = _newest(self.folder)
        if found is not None:
            self._restore(*found)
        for path in self.folder.glob(".stargap-*.part"):
            path.unlink()
        if self.best:
            self._write_best()
        else:
            for name in ("best.safetensors", "best.json"):
                (self.folder / name).unlink(missing_ok=True)
        with replacing(self.folder / "settings.json") as file:
            file.write((json.dumps(self.identity, indent=2) + "\n").encode())

    def _restore(self, card: CheckpointCard, tensors: dict[str, Tensor]) -> None:
        changes, iterations = _changes(card.identity, self.identity), self.identity["settings"]["iterations"]
        if changes:
            message = (
                f"{self.folder}: cannot go on from step {card.step} with changes: {changes}; "
                "take the old values, or another folder"
            )
            raise UsageError(message)
        if card.step > iterations:
            message = f"{self.folder}: {card.step} steps are done and iterations is {iterations}"
            raise UsageError(message)
        groups: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in tensors.items():
            group, _, key = name.partition("/")
            groups[group][key] = tensor
        self.module.load_state_dict(groups["task"])
        if self.average is not None:
            self.average.load_state_dict(groups["average"])
        for name, optimiser in self.optimisers.items():
            moments = {int(key.split(".")[1]): values for key, values in groups.items() if key.startswith(f"{name}.")}
            optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
        set_random_state(groups["random"])
        self.best, self.best_step, self.best_scores = groups["best"], card.best_step, card.best_scores
        self.step = self.saved = card.step
        self.pieces, self.begun = card.pieces, time.monotonic() - card.seconds


@contextmanager
def metrics_log(path: Path, step: int) -> Iterator[Callable[..., None]]:
    """Cut the lines of `path` after `step` steps, and give a function that adds one: keywords, not finite as null."""

    def done(line: bytes) -> bool:
        try:
            return bool(json.loads(line)["step"] <= step)
        except (ValueError, KeyError, TypeError):
            return False

    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    with replacing(path) as file:
        file.writelines(takewhile(done, lines))
    with path.open("a", encoding="utf-8") as log:

        def write(**values: Any) -> None:
            finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
            log.write(json.dumps(finite) + "\n")
            log.flush()

        yield write


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Note SIGTERM and SIGINT in a list, in the main thread; a second SIGINT is as usual."""
    caught: list[int] = []

    def note(number: int, frame: Any) -> None:
        caught.append(number)
        if number == signal.SIGINT:
            signal.signal(number, previous[number])

    main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGTERM, signal.SIGINT) if main else ()
    previous: dict[int, Any] = {number: signal.signal(number, note) or signal.SIG_DFL for number in numbers}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def isolated(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's random numbers, and put back those of the caller afterwards."""
    with torch.random.fork_rng([torch.cuda.current_device()] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of torch's random numbers on the CPU and on `device`."""
    cuda = {"cuda": torch.cuda.get_rng_state()} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **cuda}


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Take up what `random_state` returned, where there is such a device."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def read_metrics(path: str | Path) -> dict[str, NDArray[np.float64]]:
    """Read the ``metrics.jsonl`` of `stargap.starnet.training.train` as columns, one row per line.

    Names are ``step``, ``generator.loss``, ``critic.loss`` and their terms, ``validation.score`` and its terms, and
    others (see `train`). Where a line does not have a name its value is NaN: losses and scores are on different lines.
    A last line that is still being written is left out.

    Raises:
        UsageError: there is no such file, or it is something else.

    Example:
        >>> path = getfixture("tmp_path") / "metrics.jsonl"
        >>> _ = path.write_text('{"step": 2, "generator.loss": 0.5}\\n{"step": 2, "validation.score": null}\\n')
        >>> {name: values.tolist() for name, values in read_metrics(path).items()}
        {'step': [2.0, 2.0], 'generator.loss': [0.5, nan], 'validation.score': [nan, nan]}
    """
    try:
        lines = Path(path).read_bytes().splitlines(keepends=True)
    except OSError as error:
        message = f"{path}: no metrics can be read ({error})"
        raise UsageError(message) from None
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.append({name: np.nan if value is None else float(value) for name, value in row.items()})
        except (ValueError, TypeError, AttributeError) as error:
            message = f"{path}, line {number}: not a line of metrics ({error})"
            raise UsageError(message) from None
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}


def _newest(folder: Path) -> tuple[CheckpointCard, dict[str, Tensor]] | None:
    damaged: list[str] = []
    for path in sorted(folder.glob("checkpoint-*.safetensors"), reverse=True):
        try:
            card, tensors = load_model(path, CheckpointCard, CHECKPOINT, VERSION)
        except ModelError as error:
            damaged.append(str(error))
            continue
        if damaged:
            LOG.warning("going back to the checkpoint of step %d: %s", card.step, "; ".join(damaged))
        return card, tensors
    if damaged:
        message = f"no checkpoint can be used, delete {folder} to begin anew: {'; '.join(damaged)}"
        raise ModelError(message)
    return None


def _architecture(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: f"{str(tensor.dtype)[6:]} {tuple(tensor.shape)}" for name, tensor in tensors.items()}


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    before, after = _leaves(old), _leaves(new)
    pairs = {place: (before.get(place, "absent"), after.get(place, "absent")) for place in {**before, **after}}
    listed = [f"{place} {a} -> {b}" for place, (a, b) in pairs.items() if a != b and place not in CHANGEABLE]
    return ", ".join(listed[:6]) + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")


def _leaves(tree: Any, place: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {place: tree}
    return {k: v for key, branch in tree.items() for k, v in _leaves(branch, f"{place} {key}".strip()).items()}


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
