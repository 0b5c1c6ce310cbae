import hashlib
import json
import math
import os
import signal
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn

from stargap import checkpoints
from stargap.checkpoints import load_best
from stargap.errors import ModelError, UsageError
from stargap.spectra.prepared import PreparedSpectra
from stargap.starnet import training
from stargap.starnet.losses import PUBLISHED_WEIGHTS, CycleTask
from stargap.starnet.network import CycleStarNet
from stargap.starnet.pairs import PairedSource
from stargap.starnet.settings import NetworkSettings
from stargap.starnet.training import TrainingDiverged, train
from stargap.starnet.training_settings import TrainingSettings

QUICK = TrainingSettings(
    iterations=20,
    batch=6,
    learning_rate=0.01,
    decay=0.5,
    milestones=(8, 12),
    ema=0.8,
    checkpoint_every=5,
    validate_every=4,
    log_every=2,
    seed=3,
    device="cpu",
)


@dataclass(frozen=True)
class Pairs:
    x: torch.Tensor
    y: torch.Tensor
    z: torch.Tensor | None = None

    def __len__(self):
        return len(self.x)

    def to(self, device):
        return Pairs(self.x.to(device), self.y.to(device))


class ToySource:
    def __init__(self, odd_step=None, odd_validation=False):
        self.fingerprint = "toy"
        self.odd_step, self.odd_validation = odd_step, odd_validation

    def batch(self, step, size):
        x = torch.randn(size, 4, generator=torch.Generator().manual_seed(step))
        return Pairs(x * (math.nan if step == self.odd_step else 1), x.flip(1))

    def validation(self):
        return [self.batch(1000, 5), self.batch(1001, 2)]


class Toy(nn.Module):
    """A generator with noise and a critic."""

    def __init__(self, width=8, pause=0.0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.generator = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Dropout(0.1), nn.Linear(width, 4))
            self.critic = nn.Linear(4, 1)
        self.pause = pause

    def generator_parameters(self):
        return self.generator.parameters()

    def critic_parameters(self):
        return self.critic.parameters()

    def generator_loss(self, batch):
        time.sleep(self.pause)
        made = self.generator(batch.x + 0.1 * torch.randn_like(batch.x))
        far = (made - batch.y).square().mean()
        fooled = nn.functional.softplus(-self.critic(made)).mean()
        return far + 0.1 * fooled, {"far": far, "fooled": fooled}

    def critic_loss(self, batch):
        with torch.no_grad():
            made = self.generator(batch.x)
        real = nn.functional.softplus(-self.critic(batch.y)).mean()
        return real + nn.functional.softplus(self.critic(made)).mean(), {}

    def validation_score(self, batch):
        made = self.generator(batch.x + 0.1 * torch.randn_like(batch.x))
        return {"score": float((made - batch.y).square().mean()), "rows": float(len(batch.x))}


class Alone(Toy):
    def critic_parameters(self):
        return []


def run(folder, task=None, source=None, about=None, **changes):
    settings = TrainingSettings(**{**QUICK.model_dump(), **changes})
    return train(task or Toy(), source or ToySource(), settings, folder, about=about, progress=False)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def outcome(folder):
    """Everything that must not depend on stops: the last checkpoint, the best network, the metrics but for times."""
    last = max(folder.glob("checkpoint-*.safetensors"))
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (last, folder / "best.safetensors")]
    card = json.loads(last.with_suffix(".json").read_text())
    records = [{key: value for key, value in line.items() if key != "seconds"} for line in lines(folder)]
    return last.name, digests, card["best_step"], card["best_scores"], records


@pytest.fixture(autouse=True, scope="module")
def no_waiting_for_the_disk():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    result = run(folder)
    assert (result.stopped, result.steps, result.folder) == ("finished", 20, folder)
    return outcome(folder)


# ---- stop and resume


@pytest.mark.parametrize("changes", [{}, {"ema": None}, {"gradient_clip": 0.1}, {"bf16": True}])
def test_two_halves_are_the_whole_bit_for_bit(tmp_path, changes):
    run(tmp_path / "whole", **changes)
    run(tmp_path / "halves", iterations=8, **changes)
    run(tmp_path / "halves", **changes)
    assert outcome(tmp_path / "halves") == outcome(tmp_path / "whole")


def test_a_hundred_and_a_hundred_steps_are_two_hundred(tmp_path):
    whole, halves = Toy(), Toy()
    for task, folder, stops in ((whole, "whole", [200]), (halves, "halves", [100, 200])):
        for stop in stops:
            run(tmp_path / folder, task, iterations=stop, checkpoint_every=50, validate_every=50, log_every=50)
    assert outcome(tmp_path / "halves") == outcome(tmp_path / "whole")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, halves.state_dict()[name])


def test_without_critics(tmp_path):
    run(tmp_path / "whole", Alone())
    run(tmp_path / "halves", Alone(), iterations=8)
    run(tmp_path / "halves", Alone())
    assert outcome(tmp_path / "halves") == outcome(tmp_path / "whole")
    assert not any(key.startswith("critic") for line in lines(tmp_path / "whole") for key in line)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_two_halves_are_the_whole_on_a_gpu(tmp_path):
    run(tmp_path / "whole", device="cuda")
    run(tmp_path / "halves", iterations=8, device="cuda")
    run(tmp_path / "halves", device="auto")
    assert outcome(tmp_path / "halves") == outcome(tmp_path / "whole")


def test_a_finished_run_is_left_as_it_is(tmp_path, straight):
    run(tmp_path)
    assert run(tmp_path).stopped == "finished"
    assert outcome(tmp_path) == straight


def test_neither_reads_nor_changes_the_random_numbers_of_the_caller(tmp_path, straight):
    torch.manual_seed(77)
    before = torch.get_rng_state()
    run(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert outcome(tmp_path) == straight


def test_validation_leaves_training_alone(tmp_path):
    first, second = Toy(), Toy()
    run(tmp_path / "a", first)
    run(tmp_path / "b", second, validate_every=20)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


class Killed(BaseException):
    pass


def test_killed_before_any_rename(tmp_path, straight, monkeypatch):
    rename, count = Path.replace, 0

    def until(limit):
        def replace(path, target):
            nonlocal count
            count += 1
            if count > limit:
                raise Killed
            return rename(path, target)

        return replace

    for limit in range(100):
        folder, count = tmp_path / str(limit), 0
        try:
            with monkeypatch.context() as patch:
                patch.setattr(Path, "replace", until(limit))
                run(folder)
        except Killed:
            run(folder)
            assert outcome(folder) == straight, limit
        else:
            break
    assert 10 < limit < 99


def test_leftovers_of_a_killed_process_are_swept(tmp_path, straight):
    run(tmp_path, iterations=8)
    (tmp_path / ".stargap-0123.part").write_bytes(b"half")
    (tmp_path / "checkpoint-000000010.json").write_text("{}")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "x": 1}\n{"step": 1')
    run(tmp_path)
    assert outcome(tmp_path) == straight
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.json",
        "best.safetensors",
        "checkpoint-000000015.json",
        "checkpoint-000000015.safetensors",
        "checkpoint-000000020.json",
        "checkpoint-000000020.safetensors",
        "metrics.jsonl",
        "settings.json",
    ]


def test_a_best_network_beyond_the_checkpoint_is_taken_back(tmp_path):
    run(tmp_path, iterations=8)
    wanted = (tmp_path / "best.safetensors").read_bytes()
    (tmp_path / "best.safetensors").write_bytes(b"of a step that was lost")
    run(tmp_path, iterations=8)
    assert (tmp_path / "best.safetensors").read_bytes() == wanted


# ---- signals, in other processes


def slowly(folder):
    torch.set_num_threads(1)
    run(folder, Toy(pause=0.01))


def started(processes, folder):
    process = processes.Process(target=slowly, args=(folder,))
    process.start()
    return process


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint(tmp_path, straight, processes):
    process = started(processes, tmp_path)
    wait_for(lambda: (tmp_path / "metrics.jsonl").exists() and len(lines(tmp_path)) >= 4)
    process.terminate()
    process.join()
    assert process.exitcode == 0
    newest = max(tmp_path.glob("checkpoint-*.safetensors"))
    assert 6 <= int(newest.stem.split("-")[1]) < 20
    result = run(tmp_path)
    assert result.stopped == "finished"
    assert outcome(tmp_path) == straight


@pytest.mark.slow
def test_sigkill_at_random_moments(tmp_path, straight, processes):
    moments = np.random.default_rng(5).uniform(0, 0.2, size=3)
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("")
    killed = 0
    for moment in moments:
        before = metrics.stat().st_ino
        process = started(processes, tmp_path)
        wait_for(lambda before=before: metrics.stat().st_ino != before)
        time.sleep(moment)
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    assert killed >= 1
    run(tmp_path)
    assert outcome(tmp_path) == straight


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_and_the_handlers_come_back(tmp_path, straight, number):
    class Struck(Toy):
        def critic_loss(self, batch):
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 7:
                os.kill(os.getpid(), number)
            return super().critic_loss(batch)

    before = signal.getsignal(number)
    result = run(tmp_path, Struck())
    assert (result.stopped, result.steps) == ("signal", 7)
    assert signal.getsignal(number) is before
    assert (tmp_path / "checkpoint-000000007.safetensors").exists()
    run(tmp_path)
    assert outcome(tmp_path) == straight


def test_a_second_interrupt_does_not_wait(tmp_path):
    class Struck(Toy):
        def generator_loss(self, batch):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            return super().generator_loss(batch)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Struck())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_trains_in_a_thread(tmp_path, straight):
    thread = threading.Thread(target=run, args=(tmp_path,))
    thread.start()
    thread.join()
    assert outcome(tmp_path) == straight


# ---- what is refused


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rate": 0.02}, "settings learning_rate 0.01 -> 0.02"),
        ({"ema": None}, "settings ema 0.8 -> None"),
        ({"milestones": (8,)}, r"settings milestones \[8, 12\] -> \[8\]"),
        ({"about": {"l1": 4}}, "about l1 3 -> 4"),
        ({"about": {"l1": 3, "l2": 1}}, "about l2 absent -> 1"),
        ({"task": Toy(width=9)}, r"architecture generator.0.weight float32 \(8, 4\) -> float32 \(9, 4\)"),
        ({"iterations": 7}, "8 steps are done and iterations is 7"),
    ],
)
def test_changes_are_refused_by_name(tmp_path, changes, words):
    run(tmp_path, iterations=8, about={"l1": 3})
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match=words):
        run(tmp_path, **{"about": {"l1": 3}, **changes})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept


def test_other_data_and_another_version_are_refused(tmp_path, monkeypatch):
    run(tmp_path, iterations=8)
    source = ToySource()
    source.fingerprint = "others"
    with pytest.raises(UsageError, match=r"step 8 with changes: data toy -> others; take the old values"):
        run(tmp_path, source=source)
    monkeypatch.setattr("stargap.checkpoints.__version__", "99")
    with pytest.raises(UsageError, match=r"stargap .* -> 99"):
        run(tmp_path)


def test_what_may_change(tmp_path):
    run(tmp_path, iterations=8)
    assert run(tmp_path, iterations=9, checkpoint_every=1, log_every=1, device="auto").steps == 9
    steps = sorted(int(path.stem.split("-")[1]) for path in tmp_path.glob("checkpoint-*.safetensors"))
    assert steps == [8, 9]


@pytest.mark.parametrize(
    "changes",
    [
        {"iterations": 0},
        {"learning_rate": math.nan},
        {"learning_rate": math.inf},
        {"milestones": (8, 8)},
        {"milestones": (12, 8)},
        {"ema": 1.0},
        {"device": "tpu"},
        {"seed": -1},
        {"epochs": 5},
    ],
)
def test_impossible_settings(changes):
    with pytest.raises(ValidationError):
        TrainingSettings(**changes)


def test_a_gpu_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no GPU here; set device to cpu, or install torch's build for CUDA"):
        run(tmp_path, device="cuda")


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, straight, caplog):
    run(tmp_path)
    newest, before = sorted(tmp_path.glob("checkpoint-*.safetensors"), reverse=True)
    newest.write_bytes(newest.read_bytes()[:-100])
    run(tmp_path)
    assert "going back to the checkpoint of step 15" in caplog.text
    assert newest.name in caplog.text
    assert outcome(tmp_path) == straight
    for path in (newest, before):
        path.write_bytes(b"")
    with pytest.raises(ModelError, match="no checkpoint can be used, delete"):
        run(tmp_path)


# ---- what goes wrong in a step


def test_nan_keeps_the_last_good_checkpoint(tmp_path):
    task = Toy()
    with pytest.raises(
        TrainingDiverged, match=r"step 8: the generator loss diverged: loss nan, far nan.*step 5"
    ) as info:
        run(tmp_path, task, ToySource(odd_step=7), log_every=1)
    assert (info.value.step, info.value.loss) == (8, "generator loss")
    assert "gradient_clip" in str(info.value)
    assert [line["step"] for line in lines(tmp_path) if "generator.loss" in line] == [1, 2, 3, 4, 5, 6, 7]
    assert all(tensor.isfinite().all() for tensor in task.state_dict().values())
    tensors = load_file(tmp_path / "checkpoint-000000005.safetensors")
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert list(tmp_path.glob("checkpoint-*.safetensors")) == [tmp_path / "checkpoint-000000005.safetensors"]
    with pytest.raises(TrainingDiverged, match="step 8"):
        run(tmp_path, Toy(), ToySource(odd_step=7), log_every=1)


def test_a_gradient_that_is_infinite(tmp_path):
    class Steep(Toy):
        def critic_loss(self, batch):
            return (self.critic.bias - self.critic.bias.detach()).clamp(min=0).sqrt().sum(), {}

    task = Steep()
    before = task.critic.bias.clone()
    with pytest.raises(TrainingDiverged, match=r"step 1: the critic loss diverged: gradient (inf|nan); there is no"):
        run(tmp_path, task)
    assert torch.equal(task.critic.bias, before)


def test_a_score_that_is_not_a_number(tmp_path):
    class Lost(Toy):
        def validation_score(self, batch):
            return {"score": math.nan}

    (tmp_path / "best.safetensors").write_bytes(b"of a run that was killed before its first checkpoint")
    with pytest.raises(TrainingDiverged, match="step 4: the validation score diverged: score nan"):
        run(tmp_path, Lost())
    assert not (tmp_path / "best.safetensors").exists()


class Plain(nn.Linear):
    """No noise, so that halves of a batch are the batch."""

    largest = 100

    def generator_parameters(self):
        return self.parameters()

    def critic_parameters(self):
        return []

    def generator_loss(self, batch):
        loss = (self(batch.x) - batch.y).square().mean()
        if len(batch.x) > self.largest:
            message = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
            raise RuntimeError(message)
        return loss, {}

    def validation_score(self, batch):
        return {"score": float((self(batch.x) - batch.y).square().mean())}


def plain(largest=100):
    torch.manual_seed(0)
    task = Plain(4, 4)
    task.largest = largest
    return task


def test_out_of_memory_halves_the_batch(tmp_path, caplog):
    whole, pieces, resumed = plain(), plain(largest=2), plain(largest=2)
    run(tmp_path / "whole", whole)
    assert not caplog.records
    run(tmp_path / "pieces", pieces)
    assert [record.getMessage() for record in caplog.records] == [
        "step 1: out of memory; batches are now taken in 2 pieces",
        "step 1: out of memory; batches are now taken in 4 pieces",
    ]
    assert {line["pieces"] for line in lines(tmp_path / "pieces") if "pieces" in line} == {4}
    torch.testing.assert_close(pieces.weight, whole.weight, rtol=1e-5, atol=1e-6)
    caplog.clear()
    run(tmp_path / "resumed", resumed, iterations=8)
    caplog.clear()
    run(tmp_path / "resumed", resumed)
    assert not caplog.records
    assert torch.equal(resumed.weight, pieces.weight)


def test_out_of_memory_does_not_shift_the_noise(tmp_path):
    class Noisy(Plain):
        def generator_loss(self, batch):
            early = None if self.late else torch.randn_like(batch.y)
            super().generator_loss(batch)
            noise = torch.randn_like(batch.y) if early is None else early
            return (self(batch.x) - batch.y - noise).square().mean(), {}

    weights = []
    for late in (False, True):
        task = Noisy(4, 4)
        task.load_state_dict(plain().state_dict())
        task.largest, task.late = 2, late
        run(tmp_path / str(late), task)
        weights.append(task.weight)
    assert torch.equal(*weights)


def test_out_of_memory_in_the_gradient_lets_go_of_the_failed_batch(tmp_path):
    class Steep(Plain):
        failed = None

        def generator_loss(self, batch):
            assert self.failed is None or self.failed() is None
            loss = super().generator_loss(batch)[0].clone()
            if len(batch.x) > 3:
                self.failed = weakref.ref(loss)
                loss.register_hook(self.fail)
            return loss, {}

        def fail(self, gradient):
            message = "CUDA out of memory"
            raise RuntimeError(message)

    assert run(tmp_path, Steep(4, 4)).steps == 20
    assert {line["pieces"] for line in lines(tmp_path) if "pieces" in line} == {2}


def test_memory_too_small_for_one_spectrum(tmp_path):
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        run(tmp_path, plain(largest=0))


def test_other_errors_are_not_taken_for_lack_of_memory(tmp_path):
    class Broken(Toy):
        def generator_loss(self, batch):
            return super().generator_loss(Pairs(batch.x[:, :3], batch.y))

    with pytest.raises(RuntimeError, match="shapes"):
        run(tmp_path, Broken())


# ---- what it does


def test_metrics(tmp_path):
    run(tmp_path)
    steps = [line for line in lines(tmp_path) if "learning_rate" in line]
    scores = [line for line in lines(tmp_path) if "best" in line]
    assert [line["step"] for line in steps] == list(range(2, 21, 2))
    assert [line["step"] for line in scores] == [4, 8, 12, 16, 20]
    assert list(steps[0]) == [
        "step",
        *(f"generator.{key}" for key in ("loss", "far", "fooled", "gradient")),
        *(f"critic.{key}" for key in ("loss", "gradient")),
        "learning_rate",
        "pieces",
        "seconds",
    ]
    assert list(scores[0]) == ["step", "validation.score", "validation.rows", "best", "seconds"]
    assert scores[0]["validation.rows"] == pytest.approx((5 * 5 + 2 * 2) / 7)
    seconds = [line["seconds"] for line in lines(tmp_path)]
    assert seconds == sorted(seconds)


def test_a_term_that_is_not_a_number_is_null_in_the_metrics(tmp_path):
    class Odd(Toy):
        def generator_loss(self, batch):
            loss, terms = super().generator_loss(batch)
            return loss, {**terms, "odd": torch.tensor(math.nan)}

    run(tmp_path, Odd())
    assert lines(tmp_path)[0]["generator.odd"] is None


def test_the_learning_rate_drops_at_the_milestones(tmp_path):
    run(tmp_path, log_every=1)
    optimiser = torch.optim.Adam([torch.zeros(1)], lr=0.01)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [8, 12], 0.5)
    wanted = []
    for _ in range(20):
        wanted.append(schedule.get_last_lr()[0])
        optimiser.step()
        schedule.step()
    assert [line["learning_rate"] for line in lines(tmp_path) if "learning_rate" in line] == pytest.approx(wanted)


def test_one_step_is_adams(tmp_path):
    task, other = plain(), plain()
    run(tmp_path, task, iterations=1)
    optimiser = torch.optim.Adam(other.parameters(), lr=0.01, betas=(0.5, 0.999), fused=True)
    other.generator_loss(ToySource().batch(0, 6))[0].backward()
    optimiser.step()
    assert torch.equal(task.weight, other.weight)


def test_both_losses_are_given_the_same_batch(tmp_path):
    class Same(Toy):
        def generator_loss(self, batch):
            self.seen = batch
            return super().generator_loss(batch)

        def critic_loss(self, batch):
            assert batch is self.seen
            return super().critic_loss(batch)

    assert run(tmp_path, Same()).steps == 20


def test_generators_and_critics_train_their_own(tmp_path):
    class Still(Toy):
        def critic_loss(self, batch):
            return super().critic_loss(batch)[0] * 0, {}

    task = Still()
    before = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    run(tmp_path, task)
    moved = {name for name, tensor in task.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if name.startswith("generator")}


def test_the_gradient_is_clipped(tmp_path):
    class Spy(torch.optim.Adam):
        norms: list[float] = []

        def step(self, *arguments):
            gradients = [p.grad.norm() for p in self.param_groups[0]["params"]]
            self.norms.append(float(torch.stack(gradients).norm()))
            return super().step(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "Adam", Spy)
        run(tmp_path, gradient_clip=0.05)
    assert max(Spy.norms) == pytest.approx(0.05, rel=1e-3)
    assert max(line.get("generator.gradient", 0) for line in lines(tmp_path)) > 0.1


class Counting(Plain):
    """The loss makes the one buffer count steps; scores are listed."""

    scores = (5.0, 3.0, 1.0, 2.0, 1.0)

    def __init__(self):
        super().__init__(4, 4)
        self.register_buffer("steps", torch.zeros(()))

    def generator_loss(self, batch):
        if self.training:
            self.steps += 1
        return super().generator_loss(batch)

    def validation_score(self, batch):
        return {"score": self.scores[int(self.steps) // 4 - 1]}


@pytest.mark.parametrize("ema", [None, 0.8])
def test_the_first_of_the_lowest_scores_is_kept(tmp_path, ema):
    result = run(tmp_path, Counting(), ema=ema)
    assert (result.best_score, result.best_step) == (1.0, 12)
    assert [line["best"] for line in lines(tmp_path) if "best" in line] == [True, True, True, False, False]
    best = Counting()
    assert load_best(best, tmp_path) == {"score": 1.0}
    assert best.steps == 12


def test_scores_that_are_not_numbers_beside_one_that_is(tmp_path):
    class Odd(Toy):
        def validation_score(self, batch):
            return {**super().validation_score(batch), "odd": math.nan}

    run(tmp_path, Odd(), iterations=8)
    run(tmp_path, Odd())
    assert set(load_best(Odd(), tmp_path)) == {"score", "rows"}
    assert lines(tmp_path)[-1]["validation.odd"] is None


def test_the_running_mean_is_what_is_validated_and_kept(tmp_path):
    task = plain()
    run(tmp_path, task, iterations=4, validate_every=1, ema=0.8)
    weights, mean = plain(), None
    for stop in range(1, 5):
        run(tmp_path / "plain", weights, iterations=stop, validate_every=1, ema=None)
        mean = weights.weight.detach().clone() if mean is None else mean.lerp(weights.weight.detach(), 0.2)
    best = plain()
    load_best(best, tmp_path)
    assert lines(tmp_path)[-1]["best"]
    torch.testing.assert_close(best.weight, mean)
    assert torch.equal(task.weight, weights.weight)


def test_the_best_of_another_architecture_is_refused(tmp_path):
    run(tmp_path, iterations=4)
    with pytest.raises(ModelError, match=r"of another architecture: .*generator.0.weight float32 \(8, 4\) -> "):
        load_best(Toy(width=9), tmp_path)


def test_nothing_on_disk_is_a_pickle(tmp_path):
    run(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".jsonl", ".safetensors"}
    for module in (training, checkpoints):
        assert not any(word in Path(module.__file__).read_text() for word in ("torch.load", "torch.save", "pickle"))
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["settings"]["learning_rate"] == 0.01
    assert settings["data"] == "toy"


def test_the_bar_shows_losses_on_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    train(Toy(), ToySource(), QUICK, tmp_path / "a")
    shown = capsys.readouterr()
    assert "generator " in shown.err
    assert "critic " in shown.err
    assert shown.out == ""
    run(tmp_path / "b")
    assert capsys.readouterr().err == ""


# ---- the network itself


@pytest.mark.slow
def test_cycle_starnet_resumes_bit_for_bit(tmp_path):
    few = {name: (2, 2, 2) for name in ("shared_filters", "split_filters", "critic_filters", "critic_latent_filters")}

    def task():
        return CycleTask(CycleStarNet(NetworkSettings(outer_filters=(2, 2), **few)))

    observed, random = PreparedSpectra.empty(6), np.random.default_rng(0)
    observed.flux[:] = random.normal(1, 0.1, size=observed.flux.shape)
    observed.good[:] = random.random(observed.good.shape) > 0.1
    source = PairedSource(observed, observed.flux[::-1])
    shared = {"batch": 1, "validate_every": 1, "about": {"weights": PUBLISHED_WEIGHTS}}
    run(tmp_path / "whole", task(), source, iterations=2, **shared)
    run(tmp_path / "halves", task(), source, iterations=1, **shared)
    run(tmp_path / "halves", task(), source, iterations=2, **shared)
    assert outcome(tmp_path / "halves") == outcome(tmp_path / "whole")
    assert load_best(task(), tmp_path / "whole")["score"] > 0


def test_the_learning_rate_rises_and_falls_as_half_a_cosine():
    settings = TrainingSettings(iterations=100, learning_rate=1.0, warm_up=10, cosine=True)
    rates = [settings.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(0.5 * (1 + math.cos(0.09 * math.pi)))
    assert rates[50] == pytest.approx(0.5)
    assert 0 < rates[99] < 1e-3
    assert TrainingSettings(learning_rate=1.0, warm_up=4).rate(1) == 0.5
