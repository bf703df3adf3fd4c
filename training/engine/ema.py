"""The moving average of the weights: diffusers' `EMAModel`, with its state by parameter name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from diffusers.training_utils import EMAModel

from training.engine.state_tensors import like, own_part, whole_of_parts


class AveragedWeights:
    """A float32 moving average of a model's trained parameters.

    Args:
        model (`torch.nn.Module`): The unwrapped model, with float32 weights.
        decay (`float`): Final decay; it is approached as (1 + step) / (10 + step).
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._average = EMAModel(self._own_parts(), decay=decay, foreach=True)

    def _own_parts(self) -> list[Any]:
        # Averaging works on what this process holds; most operations on lists refuse sharded tensors.
        return [own_part(parameter).requires_grad_() for parameter in self._parameters.values()]

    def to(self, device: torch.device) -> None:
        """Move the average to a device."""
        self._average.to(device)

    @torch.no_grad()
    def step(self) -> None:
        """Take the present weights into the average. Call it once an optimizer update.

        average <- average + (1 - decay) (weights - average)
        """
        average = self._average
        average.optimization_step += 1
        decay = average.get_decay(average.optimization_step)
        # The step of `EMAModel` makes two passes and a copy of all weights, which on a CPU cost seven times as much.
        torch._foreach_lerp_(average.shadow_params, self._own_parts(), 1 - decay)

    def copy_to_model(self) -> None:
        """Put the average into the model for good."""
        self._average.copy_to(self._own_parts())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the model for the time of a `with` block."""
        parameters = self._own_parts()
        self._average.store(parameters)
        self._average.copy_to(parameters)
        try:
            yield
        finally:
            self._average.restore(parameters)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the average by parameter name, and the number of updates it has seen."""
        shadows = zip(self._parameters.items(), self._average.shadow_params, strict=True)
        return {
            **{name: whole_of_parts(shadow, parameter) for (name, parameter), shadow in shadows},
            "optimization_step": torch.tensor(self._average.optimization_step),
        }

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            KeyError: If the average of a parameter is missing.
        """
        self._average.optimization_step = int(state["optimization_step"])
        for (name, parameter), shadow in zip(self._parameters.items(), self._average.shadow_params, strict=True):
            shadow.copy_(own_part(like(state[name], parameter)))


@contextmanager
def as_evaluated(model: torch.nn.Module, average: AveragedWeights | None) -> Iterator[None]:
    """Have a model as it is used after training for the time of a `with` block: no dropout, no gradients.

    Args:
        model (`torch.nn.Module`): The unwrapped model.
        average (`AveragedWeights`, *optional*): What stands in the place of its weights; by default they stay.
    """
    model.eval()
    with torch.no_grad(), average.applied() if average is not None else nullcontext():
        yield
    model.train()
