"""Training of a transfer: generators and critics in turn, resumed bit for bit, the best network kept."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from stargap.checkpoints import RunState, isolated, metrics_log, random_state, set_random_state, stop_signals
from stargap.console import progress_bars
from stargap.devices import device_named
from stargap.errors import StargapError
from stargap.starnet.training_settings import TrainingSettings

__all__ = ["Source", "Task", "TrainingDiverged", "TrainingResult", "train"]

NO_MEMORY = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")
LOG = logging.getLogger(__name__)


class Task(Protocol):
    """What is trained: an ``nn.Module`` with networks, critics and their losses.

    A batch is a dataclass of tensors (or None), one row per pair of spectra, with a length and ``to(device)``. Losses
    are means over rows, so that a batch can be halved; they come with further terms to log. Noise is drawn from
    torch's global generator. There is no critic step when there are no critic parameters.
    """

    def generator_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters that `generator_loss` trains."""

    def critic_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters that `critic_loss` trains; may be empty."""

    def generator_loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar loss of the generators and named terms."""

    def critic_loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar loss of the critics and named terms."""

    def validation_score(self, batch: Any) -> dict[str, float]:
        """Return scores of a validation batch, blind to labels; the lowest mean ``score`` is the best."""


class Source(Protocol):
    """What a task is trained on."""

    @property
    def fingerprint(self) -> str:
        """A digest of the data: a run resumes only on the same."""

    def batch(self, step: int, size: int) -> Any:
        """Return the batch of a step: a pure function, so that the position in the data is the step."""

    def validation(self) -> Iterable[Any]:
        """Return the validation batches, always the same."""


class TrainingDiverged(StargapError):
    """A loss or gradient that is not finite; the step was not applied, and checkpoints on disk are from before it.

    ``step`` is the failed step, ``loss`` the name of the loss.
    """

    def __init__(self, step: int, loss: str, detail: str) -> None:
        super().__init__(step, loss, detail)
        self.step, self.loss = step, loss

    def __str__(self) -> str:
        return f"step {self.step}: the {self.loss} diverged: {self.args[2]}"


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended. ``stopped`` is ``signal`` after SIGTERM or SIGINT: the same call then goes on."""

    best_score: float
    """Lowest validation score, infinite before the first validation."""
    best_step: int
    steps: int
    stopped: Literal["finished", "signal"]
    folder: Path


def train(
    task: Task,
    source: Source,
    settings: TrainingSettings,
    folder: str | Path,
    *,
    about: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> TrainingResult:
    """Train a task, or go on from the newest checkpoint in `folder`.

    A stopped or killed run that is called again gives the network and metrics (but for ``seconds``) of one that was
    not, bit for bit on the same machine; so does one prolonged by more iterations, if the first were a multiple of
    ``validate_every``. A batch for which memory is too small is taken in halves, from then on.

    `folder` receives ``settings.json``; ``metrics.jsonl``, whose lines are of a step or a validation;
    ``checkpoint-*.safetensors`` with its card, the last two; and ``best.safetensors`` (`checkpoints.load_best`).

    Args:
        task: holds the last weights afterwards, not the best.
        source: data.
        settings: how.
        folder: of this run alone.
        about: other facts, in JSON types, that must not change when a run resumes, such as the weights of losses.
        progress: show a bar with losses on a terminal.

    Raises:
        UsageError: settings, data, architecture, version or `about` differ from those of the checkpoint (each is
            named with both values), or there is no such device.
        ModelError: every checkpoint in `folder` is damaged.
        TrainingDiverged: a loss, gradient or score is not finite.

    Example:
        >>> from stargap.starnet.losses import Batch
        >>> class Mean(nn.Linear):
        ...     def generator_parameters(self):
        ...         return self.parameters()
        ...     def critic_parameters(self):
        ...         return []
        ...     def generator_loss(self, batch):
        ...         return (self(batch.synthetic) - batch.observed).square().mean(), {}
        ...     def validation_score(self, batch):
        ...         return {"score": float(self.generator_loss(batch)[0])}
        >>> class Ones:
        ...     fingerprint = "ones"
        ...     def batch(self, step, size):
        ...         return Batch(*[torch.ones(size, 1)] * 4)
        ...     def validation(self):
        ...         return [self.batch(0, 1)]
        >>> settings = TrainingSettings(iterations=100, learning_rate=0.1, device="cpu")
        >>> _ = torch.manual_seed(0)
        >>> result = train(Mean(1, 1), Ones(), settings, getfixture("tmp_path"))
        >>> result.stopped, result.steps, result.best_score < 0.01
        ('finished', 100, True)
    """
    folder, device = Path(folder), device_named(settings.device)
    with isolated(device, settings.seed), _no_denormals(), stop_signals() as stops:
        _keep_memory()
        module = cast(nn.Module, task).to(device).train()
        groups = {"generator": list(task.generator_parameters()), "critic": list(task.critic_parameters())}
        optimisers = {
            name: torch.optim.Adam(group, betas=settings.betas, fused=True) for name, group in groups.items() if group
        }
        average = _running_mean(module, settings.ema) if settings.ema else None
        identity = {"data": source.fingerprint, "settings": settings.model_dump(), "about": dict(about or {})}
        run = RunState(module, optimisers, average, device, folder, identity)
        run.resume()
        with metrics_log(folder / "metrics.jsonl", run.step) as write, progress_bars(progress) as bar:
            shown = bar.add_task("training", total=settings.iterations)
            while run.step < settings.iterations and not stops:
                rate = settings.rate(run.step)
                batch = source.batch(run.step, settings.batch).to(device)
                values: dict[str, float] = {}
                for name in optimisers:
                    values |= _update(run, name, batch, rate, settings)
                run.step += 1
                if average is not None:
                    average.update_parameters(module)
                if run.step % settings.log_every == 0:
                    write(step=run.step, **values, learning_rate=rate, pieces=run.pieces, seconds=run.seconds)
                if run.step % settings.validate_every == 0 or run.step == settings.iterations:
                    write(step=run.step, **_validate(run, source, settings.seed), seconds=run.seconds)
                if run.step % settings.checkpoint_every == 0:
                    run.save()
                losses = [f"{name} {values[f'{name}.loss']:.4g}" for name in optimisers]
                bar.update(shown, completed=run.step, description="  ".join([*losses, f"best {run.best_score:.4g}"]))
            run.save()
    finished = run.step == settings.iterations
    return TrainingResult(run.best_score, run.best_step, run.step, "finished" if finished else "signal", folder)


@contextmanager
def _no_denormals() -> Iterator[None]:
    """Take denormal numbers as zero: Adam's moments of weights without gradient decay to such, which are slow."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _keep_memory() -> None:
    """Let the C library keep what a step frees, instead of asking for cleared pages again, a tenth of a step's time.

    glibc's thresholds follow the largest block that was ever freed, up to 32 MiB (mallopt(3), M_MMAP_THRESHOLD).
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


def _running_mean(module: nn.Module, decay: float) -> AveragedModel:
    """Return the exponential running mean of a module's weights."""
    average_of: Callable[[float], Any] = get_ema_multi_avg_fn
    return AveragedModel(module, multi_avg_fn=average_of(decay))


def _update(run: RunState, name: str, batch: Any, rate: float, settings: TrainingSettings) -> dict[str, float]:
    """Take one step of the generators or critics and return its losses; nothing is applied unless all is finite."""
    group = run.optimisers[name].param_groups[0]
    values = _gradients(run, name, batch, settings.bf16)
    values["gradient"] = nn.utils.clip_grad_norm_(group["params"], settings.gradient_clip or math.inf).item()
    if not (math.isfinite(values["loss"]) and math.isfinite(values["gradient"])):
        raise _diverged(run, run.step + 1, f"{name} loss", values)
    group["lr"] = rate
    run.optimisers[name].step()
    return {f"{name}.{key}": value for key, value in values.items()}


def _gradients(run: RunState, name: str, batch: Any, bf16: bool) -> dict[str, float]:
    """Compute gradients as `_backward` does, in as many pieces as the memory requires."""
    random = random_state(run.device)
    while True:
        try:
            return _backward(run, name, batch, bf16)
        except RuntimeError as error:
            if not any(words in str(error) for words in NO_MEMORY) or run.pieces >= len(batch):
                raise
        run.pieces = min(2 * run.pieces, len(batch))
        LOG.warning("step %d: out of memory; batches are now taken in %d pieces", run.step + 1, run.pieces)
        set_random_state(random)
        torch.cuda.empty_cache()


def _backward(run: RunState, name: str, batch: Any, bf16: bool) -> dict[str, float]:
    """Leave the gradients of a loss in its parameters, and return it with its terms."""
    run.optimisers[name].zero_grad(set_to_none=True)
    sums: dict[str, float] = defaultdict(float)
    for piece in _split(batch, run.pieces) if run.pieces > 1 else [batch]:
        share = len(piece) / len(batch)
        with torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=bf16):
            loss, terms = getattr(run.module, f"{name}_loss")(piece)
        (loss * share).backward()
        for key, term in {"loss": loss, **terms}.items():
            sums[key] += share * term.item()
    return sums


def _split(batch: Any, pieces: int) -> Iterator[Any]:
    arrays = {field.name: getattr(batch, field.name) for field in fields(batch)}
    for first, last in pairwise(len(batch) * piece // pieces for piece in range(pieces + 1)):
        yield replace(batch, **{name: array[first:last] for name, array in arrays.items() if array is not None})


def _validate(run: RunState, source: Source, seed: int) -> dict[str, Any]:
    """Return the mean validation scores, and keep the weights if they are the best."""
    judged: Any = (run.module if run.average is None else run.average.module).eval()
    sums: dict[str, float] = defaultdict(float)
    rows = 0
    with torch.no_grad(), isolated(run.device, seed):
        for batch in source.validation():
            for key, value in judged.validation_score(batch.to(run.device)).items():
                sums[key] += len(batch) * float(value)
            rows += len(batch)
    run.module.train()
    scores = {key: value / rows for key, value in sums.items()}
    if not math.isfinite(scores["score"]):
        raise _diverged(run, run.step, "validation score", scores)
    better = scores["score"] < run.best_score
    if better:
        run.keep_best(judged.state_dict(), scores)
    return {**{f"validation.{key}": value for key, value in scores.items()}, "best": better}


def _diverged(run: RunState, step: int, loss: str, values: dict[str, float]) -> TrainingDiverged:
    odd = ", ".join(f"{key} {value}" for key, value in values.items() if not math.isfinite(value))
    kept = f"checkpoint of step {run.saved} is kept" if run.saved >= 0 else "there is no checkpoint yet"
    advice = "look for odd spectra, or begin in another folder with a lower learning_rate or a gradient_clip"
    return TrainingDiverged(step, loss, f"{odd}; {kept} in {run.folder}; {advice}")
