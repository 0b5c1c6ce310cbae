"""A long training of the published network across machines: it is kept with the results, and goes on from there.

Kept are the last weights as float16, 7 MB, and every 500th line of metrics. The moments of Adam are not, and begin
anew: for some hundred steps learning is a little less even than it was. Of earlier networks none is kept: the last one
counts as the best so far.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from stargap import __version__
from stargap.checkpoints import CHECKPOINT, VERSION, CheckpointCard
from stargap.modelfile import Card, load_model, save_model

KEPT, EVERY, FIRST = "starnet-kept", 500, 100
"""Kind of the file, steps between lines of metrics that are kept, and steps at the start of which all lines are."""


class KeptCard(Card):
    """Card of a kept training: steps done, the seconds that they took, and scores of the last validation."""

    step: int
    seconds: float
    scores: dict[str, float]


def newest(training: Path) -> tuple[CheckpointCard, dict[str, Tensor]]:
    """Read the newest checkpoint of a training."""
    return load_model(max(training.glob("checkpoint-*.safetensors")), CheckpointCard, CHECKPOINT, VERSION)


def keep(training: Path, target: Path) -> int:
    """Write the newest checkpoint of a training as `target` (``*.safetensors``), and return its step."""
    card, tensors = newest(training)
    lines = (training / "metrics.jsonl").read_text().splitlines(keepends=True)
    done = [(line, row) for line in lines if (row := json.loads(line))["step"] <= card.step]
    last = next(row for _, row in reversed(done) if "validation.score" in row)
    scores = {name.removeprefix("validation."): value for name, value in last.items() if name.startswith("validation.")}
    about = KeptCard(kind=KEPT, version=1, stargap=__version__, step=card.step, seconds=card.seconds, scores=scores)
    save_model(target, about, {name: tensor.half() for name, tensor in tensors.items() if name.startswith("task/")})
    some = [line for line, row in done if row["step"] <= FIRST or row["step"] % EVERY == 0]
    target.with_suffix(".jsonl").write_text("".join(some))
    return card.step


def go_on(training: Path, source: Path, begin: Callable[[int], Any]) -> None:
    """Begin a training where the kept one ended.

    Args:
        training: its folder, which is empty or missing.
        source: what `keep` wrote.
        begin: trains up to so many steps in the folder; data, settings and version are those of its first checkpoint.
    """
    begin(1)
    first = training / "checkpoint-000000001.safetensors"
    card, tensors = load_model(first, CheckpointCard, CHECKPOINT, VERSION)
    kept, weights = load_model(source, KeptCard, KEPT, 1)
    whole = {name: tensor.to(tensors[name].dtype) for name, tensor in weights.items()}
    best = {name.replace("task/", "best/", 1): tensor.clone() for name, tensor in whole.items()}
    random = {name: tensor for name, tensor in tensors.items() if name.startswith("random/")}
    there = {"step": kept.step, "seconds": kept.seconds, "best_step": kept.step, "best_scores": kept.scores}
    path = training / f"checkpoint-{kept.step:09d}.safetensors"
    save_model(path, card.model_copy(update=there), whole | best | random)
    for old in (first, first.with_suffix(".json")):
        old.unlink()
    (training / "metrics.jsonl").write_bytes(source.with_suffix(".jsonl").read_bytes())
    begin(kept.step)  # nothing is left to train, but the best network is written
