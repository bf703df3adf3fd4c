"""How many kernels the U-Net of Stable Diffusion 1.5 starts, what they compute and move: this package and diffusers.

    python benchmarks/kernel_counts.py

One image of 512 pixels in float32 (latents of 64 x 64, a caption of 77 tokens), on the meta device: nothing is
computed, so a count is the same on every machine and takes seconds. The training step is forward and backward pass of
the mean squared error, without the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from sd_pipeline import SDUNet2DConditionModel

# All else is diffusers' default.
SD_1_5: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
CAPTION_LENGTH = 77


@dataclass(frozen=True)
class Work:
    """What a piece of code asks of a device.

    Args:
        kernels (`int`): Dispatched operations that are not views.
        flop (`int`): Floating point operations of matrix products, convolutions and attention.
        num_bytes (`int`): Sizes of the tensors that kernels take and return.
    """

    kernels: int
    flop: int
    num_bytes: int


class KernelCounter(TorchDispatchMode):
    """Counts the operations that reach a device, below autograd, and the bytes they read and write.

    Views are left out: by torch's rule, operations whose schema says that a result aliases an argument and that
    nothing is written; and `_unsafe_view`, which returns the same memory too, but hides it from autograd. What fits in
    caches, or what one kernel reads twice, is not known here: bytes are those of whole tensors, each argument and
    result once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels = 0
        self.num_bytes = 0

    def __torch_dispatch__(
        self, func: OpOverload, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and count it."""
        result = func(*args, **(kwargs or {}))
        if not func.is_view and func is not torch.ops.aten._unsafe_view.default:
            self.kernels += 1
            leaves = tree_leaves((args, kwargs, result))
            self.num_bytes += sum(leaf.nbytes for leaf in leaves if isinstance(leaf, torch.Tensor))
        return result


class FusedAttention(TorchFunctionMode):
    """Makes attention the one kernel that it is on a GPU: the meta device would take it apart.

    torch chooses the memory-efficient kernel for float32 there. Its backward pass computes the scores a second time,
    which is among the FLOP. Attention with a mask is left as it is.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch."""
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or kwargs.get("attn_mask") is not None:
            return func(*args, **kwargs)
        query, key, value = args
        needs_backward = torch.is_grad_enabled()
        return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, needs_backward)[0]


def work_of(step: Callable[[], object]) -> Work:
    """Count what a function asks of the device.

    Args:
        step (`Callable`): Takes nothing; it is called once.
    """
    with FlopCounterMode(display=False) as flops, KernelCounter() as counter, FusedAttention():
        step()
    return Work(counter.kernels, flops.get_total_flops(), counter.num_bytes)


def work_of_unet(unet_class: type[UNet2DConditionModel], is_training: bool) -> Work:
    """Count a forward pass of Stable Diffusion 1.5's U-Net, or a training step.

    Args:
        unet_class (`type`): diffusers' class or one that takes the same arguments.
        is_training (`bool`): Whether there is a loss and a backward pass.
    """
    with torch.device("meta"):
        unet: Any = unet_class(**SD_1_5)
        unet.train(is_training)
        latents = torch.empty(1, unet.config["in_channels"], SD_1_5["sample_size"], SD_1_5["sample_size"])
        caption = torch.empty(1, CAPTION_LENGTH, SD_1_5["cross_attention_dim"])
        timesteps = torch.empty(1, dtype=torch.int64)

    def predict() -> torch.Tensor:
        prediction: torch.Tensor = unet(latents, timesteps, encoder_hidden_states=caption).sample
        return prediction

    def train() -> None:
        F.mse_loss(predict(), latents).backward()

    with torch.set_grad_enabled(is_training):
        return work_of(train if is_training else predict)


def main() -> None:
    """Print a table."""
    print(f"{'':<16}{'':<14}{'kernels':>8}{'GFLOP':>10}{'GB':>8}")
    for what, is_training in (("forward pass", False), ("training step", True)):
        for name, unet_class in (("diffusers", UNet2DConditionModel), ("this package", SDUNet2DConditionModel)):
            work = work_of_unet(unet_class, is_training)
            print(f"{what:<16}{name:<14}{work.kernels:>8}{work.flop / 1e9:>10.1f}{work.num_bytes / 1e9:>8.2f}")


if __name__ == "__main__":
    main()
