"""The loop itself, on a small task of two networks: exact resumption, and numbers that are not finite."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import Dataset

from training.config import AutoencoderConfig
from training.engine.checkpointing import CheckpointError, list_checkpoints, load_checkpoint
from training.engine.interruption import RunStopped, StopSignal
from training.engine.task import Batch, Validation
from training.engine.tracking import MetricsLog
from training.engine.trainer import Trainer


class Points(Dataset[dict[str, torch.Tensor]]):
    """Twelve points of a noisy line; one of them may be infinite."""

    def __init__(self, infinite: int | None) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(12, 4, generator=generator)
        self.targets = self.inputs @ torch.randn(4, 2, generator=generator)
        if infinite is not None:
            self.targets[infinite] = torch.inf

    def __len__(self) -> int:
        return 12

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        number, index = key
        return {"inputs": self.inputs[index], "targets": self.targets[index], "number": torch.tensor(number)}


class Fit(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 2))

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = self.layers(inputs)
        return {"loss": (outputs - targets).square().mean(1), "outputs": outputs}


class Judge(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, real: torch.Tensor, fake: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.layer(fake) - self.layer(real)).relu().mean(1)}


class LineTask:
    """A regression, and a second network that learns to tell its outputs from the targets from the third step on."""

    name = "autoencoder"
    shardable = False
    num_timesteps = 0

    def __init__(self, infinite: int | None = None, has_adversary: bool = True) -> None:
        torch.manual_seed(3)
        self.model = Fit()
        self.adversary: torch.nn.Module | None = Judge() if has_adversary else None
        self.dataset: Dataset[Any] = Points(infinite)
        self.active_from = 2
        self.step = 0

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.model.parameters())}]

    def adversary_parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.adversary.parameters()), "lr": 0.05}]

    def collate(self, samples: Any) -> Batch:
        batch = {key: torch.stack([sample[key] for sample in samples]) for key in ("inputs", "targets")}
        return {**batch, "timesteps": torch.stack([sample["number"] for sample in samples]) * 10}

    def prepare_batch(self, batch: Batch, step: int) -> Batch:
        self.step = step
        return {"inputs": batch["inputs"], "targets": batch["targets"]}

    def adversary_batch(self, batch: Batch, outputs: Batch) -> Batch | None:
        if self.step < self.active_from:
            return None
        return {"real": batch["targets"], "fake": outputs["outputs"].detach()}

    def sample_name(self, index: int) -> str:
        return f"point {index}"

    def validation_batches(self) -> list[Any]:
        return []

    def validate(self, step: int) -> Validation:
        return Validation({"weight": float(self.model.layers[0].weight.detach().norm())})

    def export(self, folder: Path) -> None:
        raise NotImplementedError


def trainer_of(folder: Path, task: LineTask, stop_signal: StopSignal | None = None, **settings: Any) -> Trainer:
    values = {"max_train_steps": 8, "train_batch_size": 3, "gradient_accumulation_steps": 2, "logging_steps": 1}
    values |= {"lr_scheduler": "cosine", "learning_rate": 0.02, "checkpointing_steps": 100, "ema_decay": 0.9}
    return Trainer(
        task,
        AutoencoderConfig(**{**values, **settings}),
        Accelerator(cpu=True),
        folder / "stage",
        MetricsLog(folder / "metrics.jsonl"),
        stop_signal or StopSignal(),
        seed=5,
        config={"seed": 5},
        check_resumable=lambda saved, place: None,
    )


def logged(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: row[key] for key in row if key not in ("images_per_second", "peak_memory_gb")} for row in rows]


def final_tensors(folder: Path, step: int = 8) -> dict[str, torch.Tensor]:
    state = load_checkpoint(folder / "stage" / f"checkpoint-{step}")
    return {f"{file}/{key}": tensor for file, tensors in state.tensors.items() for key, tensor in tensors.items()}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    trainer_of(folder, LineTask()).fit()
    return folder


class StopsAt(LineTask):
    """Is sent SIGTERM in the middle of a step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.stop_at = step

    def prepare_batch(self, batch: Batch, step: int) -> Batch:
        if step == self.stop_at - 1:
            signal.raise_signal(signal.SIGTERM)
        return super().prepare_batch(batch, step)


@pytest.mark.parametrize("step", range(1, 8))
def test_stopping_at_any_step_changes_nothing(straight, tmp_path, step):
    """Weights, averages, both optimizers and the logged numbers are the same to the bit, dropout included."""
    with StopSignal() as stop_signal, pytest.raises(RunStopped, match=f"autoencoder step {step};"):
        trainer_of(tmp_path, StopsAt(step), stop_signal).fit()
    assert [path.name for path in list_checkpoints(tmp_path / "stage")] == [f"checkpoint-{step}"]
    trainer_of(tmp_path, LineTask()).fit()
    expected, found = final_tensors(straight), final_tensors(tmp_path)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert logged(tmp_path) == logged(straight)


def test_a_damaged_state_is_passed_over_and_its_steps_done_again(straight, tmp_path):
    with StopSignal() as stop_signal, pytest.raises(RunStopped):
        trainer_of(tmp_path, StopsAt(6), stop_signal, checkpointing_steps=4).fit()
    (tmp_path / "stage" / "checkpoint-6" / "model.safetensors").write_bytes(b"cut")
    with pytest.warns(UserWarning, match="checkpoint-6: model.safetensors is damaged"):
        trainer_of(tmp_path, LineTask()).fit()
    expected, found = final_tensors(straight), final_tensors(tmp_path)
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert logged(tmp_path) == logged(straight)


def test_the_adversary_rests_and_then_learns_in_every_step(straight):
    rows = [row for row in logged(straight) if "loss" in row]
    assert ["discriminator_loss" in row for row in rows] == [False, False, *[True] * 6]
    tensors = final_tensors(straight)
    assert tensors["adversary_optimizer/layer.weight/step"] == 6
    assert tensors["optimizer/layers.0.weight/step"] == 8


def test_without_an_adversary_there_is_no_trace_of_one(tmp_path):
    trainer_of(tmp_path, LineTask(has_adversary=False)).fit()
    files = {path.name for path in (tmp_path / "stage" / "checkpoint-8").iterdir()}
    assert files == {"model.safetensors", "optimizer.safetensors", "ema.safetensors", "state.json", "manifest.json"}


def test_a_state_of_another_global_batch_is_refused(straight, tmp_path):
    trainer_of(tmp_path, LineTask(), max_train_steps=2).fit()
    with pytest.raises(CheckpointError, match=r"trained with 6 images an update.*is now 12; the product must stay 6"):
        trainer_of(tmp_path, LineTask(), train_batch_size=6).fit()


def test_an_infinite_loss_stops_the_run_and_is_written_down(tmp_path):
    task = LineTask(infinite=7)
    trainer = trainer_of(tmp_path, task, checkpointing_steps=1)
    with pytest.raises(FloatingPointError) as caught:
        trainer.fit()
    message = str(caught.value)
    assert "\n" not in message
    assert "the loss of point 7 (loss inf) is not finite" in message
    (line,) = (tmp_path / "stage" / "non_finite.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record["step"] == trainer.step + 1
    assert record["mixed_precision"] == "no"
    assert record["model"]["grad_norm"] in ("nan", "inf")
    assert record["model"]["weight_norm"] > 0
    assert "layers.2.bias" in record["model"]["parameters_with_non_finite_gradients"]
    assert [sample["sample_number"] for sample in record["samples"]] == [trainer.step * 6 + row for row in range(6)]
    (bad,) = [sample for sample in record["samples"] if sample["loss"] == "inf"]
    assert bad["index"] == 7
    assert bad["timestep"] == bad["sample_number"] * 10
    states = list_checkpoints(tmp_path / "stage")
    assert [path.name for path in states][-1:] == ([f"checkpoint-{trainer.step}"] if trainer.step else [])
    for state in states:
        load_checkpoint(state)


def test_an_infinite_loss_can_be_skipped(tmp_path):
    """Of two updates an epoch one is skipped; neither network, no average and no optimizer takes part in it."""
    task = LineTask(infinite=7)
    trainer_of(tmp_path, task, on_non_finite="skip").fit()
    rows = logged(tmp_path)
    skipped = [row["step"] for row in rows if row.get("skipped")]
    assert len(skipped) == 4
    assert sorted([*skipped, *(row["step"] for row in rows if "loss" in row)]) == list(range(1, 9))
    tensors = final_tensors(tmp_path)
    assert tensors["optimizer/layers.0.weight/step"] == 4
    assert tensors["ema/optimization_step"] == 4
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    records = (tmp_path / "stage" / "non_finite.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in records] == skipped


def test_skipping_everything_stops(tmp_path):
    """When the weights are at fault, there is no end to it."""
    task = LineTask()
    task.dataset.targets[:] = torch.nan
    with pytest.raises(FloatingPointError, match="step 11"):
        trainer_of(tmp_path, task, on_non_finite="skip", max_train_steps=30).fit()


def test_an_overflow_of_the_weights_is_not_saved(tmp_path):
    """The loss was finite and so was the gradient; the update was not."""
    with pytest.raises(FloatingPointError):
        trainer_of(tmp_path, LineTask(), learning_rate=1e38, checkpointing_steps=1, lr_scheduler="constant").fit()
    for state in list_checkpoints(tmp_path / "stage"):
        tensors = load_checkpoint(state).tensors["model"]
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
