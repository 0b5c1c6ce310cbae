"""A training that is kept goes on elsewhere."""

import torch
from starnet_kept import go_on, keep
from torch import nn

from stargap.checkpoints import load_best
from stargap.starnet.losses import Batch
from stargap.starnet.training import train
from stargap.starnet.training_settings import TrainingSettings


class Mean(nn.Linear):
    def generator_parameters(self):
        return self.parameters()

    def critic_parameters(self):
        return []

    def generator_loss(self, batch):
        return (self(batch.synthetic) - batch.observed).square().mean(), {}

    def validation_score(self, batch):
        return {"score": float(self.generator_loss(batch)[0])}


class Ones:
    fingerprint = "ones"

    def batch(self, step, size):
        return Batch(*[torch.ones(size, 1)] * 4)

    def validation(self):
        return [self.batch(0, 1)]


def test_a_kept_training_goes_on_in_another_folder(tmp_path):
    torch.manual_seed(0)
    task = Mean(1, 1)
    base = TrainingSettings(learning_rate=0.01, batch=2, validate_every=10, log_every=1, device="cpu")

    def run(folder, iterations):
        return train(task, Ones(), base.model_copy(update={"iterations": iterations}), folder, progress=False)

    run(tmp_path / "here", 30)
    weight = task.weight.detach().clone()
    assert keep(tmp_path / "here", tmp_path / "kept.safetensors") == 30
    with torch.no_grad():
        task.weight.fill_(5.0)
    go_on(tmp_path / "there", tmp_path / "kept.safetensors", lambda steps: run(tmp_path / "there", steps))
    scores = load_best(task, tmp_path / "there")
    torch.testing.assert_close(task.weight.detach(), weight, rtol=1e-3, atol=0)
    result = run(tmp_path / "there", 40)
    assert result.steps == 40
    assert result.best_score < scores["score"]
