from __future__ import annotations

import numpy as np
import pytest
from diffusers import DDPMScheduler

from sd_pipeline import SDDDPMScheduler
from sd_pipeline.schedulers.timestep_spacing import TIMESTEP_SPACINGS


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("num_inference_steps", [1, 2, 3, 7, 10, 25, 50, 333, 999, 1000])
def test_timesteps_equal_those_of_diffusers(spacing: str, num_inference_steps: int) -> None:
    ours, theirs = (cls(timestep_spacing=spacing) for cls in (SDDDPMScheduler, DDPMScheduler))
    ours.set_timesteps(num_inference_steps)
    theirs.set_timesteps(num_inference_steps)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    assert ours.timesteps.dtype == theirs.timesteps.dtype


def test_the_offset_moves_leading_timesteps() -> None:
    ours, theirs = (cls(steps_offset=1) for cls in (SDDDPMScheduler, DDPMScheduler))
    ours.set_timesteps(50)
    theirs.set_timesteps(50)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist() == list(range(981, 0, -20))


@pytest.mark.parametrize("spacing", list(TIMESTEP_SPACINGS))
@pytest.mark.parametrize("num_train_timesteps", [1, 29, 100, 250, 1000])
def test_every_count_gives_that_many_descending_timesteps_in_range(spacing: str, num_train_timesteps: int) -> None:
    for count in range(1, num_train_timesteps + 1):
        steps = TIMESTEP_SPACINGS[spacing](num_train_timesteps, count, 0)
        assert len(steps) == count, count
        assert (np.diff(steps) < 0).all(), count
        assert steps[-1] >= 0, count
        assert steps[0] < num_train_timesteps, count


def test_trailing_starts_at_pure_noise_and_linspace_holds_both_ends() -> None:
    for count in (2, 10, 37):
        assert TIMESTEP_SPACINGS["trailing"](1000, count, 0)[0] == 999
        assert TIMESTEP_SPACINGS["linspace"](1000, count, 0)[[0, -1]].tolist() == [999, 0]


@pytest.mark.parametrize("form", [list, tuple, np.array])
def test_custom_timesteps(form: type) -> None:
    wanted = [999, 850, 736, 24, 0]
    ours, theirs = SDDDPMScheduler(), DDPMScheduler()
    ours.set_timesteps(timesteps=form(wanted))
    theirs.set_timesteps(timesteps=wanted)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist() == wanted
    assert ours.num_inference_steps == 5
    assert [ours.previous_timestep(t) for t in ours.timesteps] == [850, 736, 24, 0, -1]


def test_a_reversed_view_is_taken_as_custom_timesteps() -> None:
    scheduler = SDDDPMScheduler()
    scheduler.set_timesteps(timesteps=np.arange(5)[::-1])
    assert scheduler.timesteps.tolist() == [4, 3, 2, 1, 0]


def test_the_previous_timestep_follows_the_schedule() -> None:
    scheduler = SDDDPMScheduler()
    assert scheduler.previous_timestep(500) == 499
    assert scheduler.previous_timestep(0) == -1
    scheduler.set_timesteps(10)
    assert [scheduler.previous_timestep(t) for t in scheduler.timesteps] == [*range(800, -1, -100), -1]
    scheduler.set_timesteps(1000)
    assert scheduler.previous_timestep(500) == 499
