"""The loss by timestep: ranges that mean what they are called, and means that add up."""

from __future__ import annotations

import re

import pytest
import torch
from accelerate import Accelerator

from tests.training.runs import run_script
from training.engine.non_finite import MicroBatch
from training.engine.timestep_losses import TimestepLosses


def micro_batch(timesteps: torch.Tensor, losses: torch.Tensor) -> MicroBatch:
    return MicroBatch([(n, n) for n in range(len(losses))], timesteps, {"loss": losses})


@pytest.mark.parametrize("num_timesteps", [1000, 999, 128, 10, 7, 1])
def test_every_timestep_is_in_the_range_that_is_named(num_timesteps):
    """All of them, and each in one: a loss that is the timestep itself tells where it went."""
    timesteps = torch.arange(num_timesteps)
    losses = TimestepLosses(num_timesteps, Accelerator(cpu=True))
    losses.add([micro_batch(timesteps, timesteps.float())])
    ends = []
    for name, mean in losses.means().items():
        first, last = map(int, re.fullmatch(r"loss_t(\d+)_(\d+)", name).groups())
        assert mean == pytest.approx((first + last) / 2)
        ends.append((first, last))
    assert len(ends) == min(10, num_timesteps)
    assert [first for first, _ in ends] == [0, *(last + 1 for _, last in ends[:-1])]
    assert ends[-1][1] == num_timesteps - 1
    if num_timesteps == 1000:
        assert ends[3] == (300, 399)


def test_the_means_are_those_since_they_were_last_asked_for():
    losses = TimestepLosses(1000, Accelerator(cpu=True))
    for value in (1.0, 2.0):
        losses.add([micro_batch(torch.tensor([0, 999]), torch.tensor([value, 10 * value]))] * 2)
    assert losses.means() == {"loss_t000_099": 1.5, "loss_t900_999": 15.0}
    assert losses.means() == {}
    losses.add([micro_batch(torch.tensor([99]), torch.tensor([4.0]))])
    assert losses.means() == {"loss_t000_099": 4.0}


SPLIT = """
import torch
from accelerate import Accelerator
from tests.training.engine.test_timestep_losses import micro_batch
from training.engine.timestep_losses import TimestepLosses

accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2
generator = torch.Generator().manual_seed(0)
timesteps, values = torch.randint(0, 1000, (30,), generator=generator), torch.rand(30, generator=generator)
losses = TimestepLosses(1000, accelerator)
mine = slice(0, 10) if accelerator.process_index == 0 else slice(10, 30)
losses.add([micro_batch(timesteps[mine], values[mine])])
for name, mean in losses.means().items():
    first = int(name[6:9])
    expected = values[(timesteps >= first) & (timesteps < first + 100)].mean()
    assert abs(mean - float(expected)) < 1e-6, name
accelerator.end_training()
"""


@pytest.mark.slow
def test_processes_are_averaged_by_their_samples(tmp_path):
    script = tmp_path / "split.py"
    script.write_text(SPLIT)
    run_script(script, 2)
