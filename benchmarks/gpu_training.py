"""Images a second of training a U-Net on cached latents, and the share of the machine's matrix products in that.

An update is that of a run: captions through the frozen text encoder, a sample of each posterior, the loss of
`DenoisingModel` under autocast to bfloat16, clipped gradients, fused AdamW and the average of the weights. Weights and
data are random; what they are changes no time.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import CLIPTextModel

from benchmarks.gpu_sizes import Size, stable_diffusion_scheduler
from benchmarks.kernel_counts import CAPTION_LENGTH
from benchmarks.measurement import Spread, forget, synchronise
from training.config import DiffusionConfig
from training.engine.ema import AveragedWeights
from training.engine.optimisation import build_optimizer
from training.tasks.denoising_model import DenoisingModel
from training.tasks.parameter_groups import decay_matrices_only

_BATCHES_IN_MEMORY = 4
# Waiting for the device costs some of its time, so it is waited for after as many updates as take this long.
_SECONDS_OF_A_BLOCK = 2.0
_FEWEST_BLOCKS = 5


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One way to fit an update into memory.

    Args:
        batch_size (`int`): Images of a micro-batch.
        accumulation (`int`): Micro-batches of an update.
        gradient_checkpointing (`bool`): Whether activations are computed again in the backward pass.
    """

    batch_size: int
    accumulation: int
    gradient_checkpointing: bool


def attempts(batch_size: int) -> list[Attempt]:
    """List ways to train on as many images an update, the fastest first.

    Args:
        batch_size (`int`): Images of an update, a multiple of 4.
    """
    return [
        Attempt(batch_size, 1, False),
        Attempt(batch_size // 2, 2, False),
        Attempt(batch_size, 1, True),
        Attempt(batch_size // 4, 4, False),
        Attempt(batch_size // 4, 4, True),
    ]


def training_speed(
    size: Size,
    device: torch.device,
    bf16_flops: float | None,
    use_compile: bool,
    use_channels_last: bool,
    note: Callable[[str, dict[str, Any]], None],
) -> dict[str, Any]:
    """Train in the first way that fits into memory.

    Args:
        size (`Size`): What, and how long.
        device (`torch.device`): Where.
        bf16_flops (`float`, *optional*): What bfloat16 matrix products reach, in FLOP/s, if it was measured.
        use_compile (`bool`): Whether `torch.compile` is used for the U-Net.
        use_channels_last (`bool`): Whether its weights and latents lie with their channels last.
        note (`Callable`): Told what is known before the end: the ways that did not fit.

    Returns:
        `dict[str, Any]`: `images_per_second` with quartiles over blocks of updates, `fraction` of `bf16_flops`, and
        more.

    Raises:
        torch.OutOfMemoryError: If no way fits.
    """
    refused: list[dict[str, Any]] = []
    ways = attempts(size.batch_size)
    for attempt in ways:
        failure = None
        try:
            found = _train(size, device, attempt, use_compile, use_channels_last)
        except torch.OutOfMemoryError as error:
            if attempt is ways[-1]:
                raise
            failure = str(error).splitlines()[0]
        # Outside of `except`, whose error holds the frames, and with them the tensors, of what did not fit.
        if failure is None:
            break
        refused.append({**dataclasses.asdict(attempt), "failure": failure})
        note("training, out of memory", {"attempts": refused})
        forget(device)
    # Forward and backward pass, which is twice a forward pass. What is computed again is not counted.
    flop = 3 * size.forward_flop()
    found |= {"gflop_per_image": flop / 1e9, "tflops": found["images_per_second"] * flop / 1e12}
    if bf16_flops is not None:
        found["fraction"] = found["images_per_second"] * flop / bf16_flops
    return found


def _train(
    size: Size, device: torch.device, attempt: Attempt, use_compile: bool, use_channels_last: bool
) -> dict[str, Any]:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    update = Update(size, device, attempt, use_compile, use_channels_last)
    started = time.perf_counter()
    # After two updates everything is compiled, and every buffer is there.
    _timed(update, 2, device)
    first_updates = time.perf_counter() - started
    seconds_of_update, warmed = 0.0, time.perf_counter()
    while not seconds_of_update or time.perf_counter() - warmed < size.warm_seconds:
        seconds_of_update = _timed(update, 1, device)
    updates = max(1, math.ceil(min(_SECONDS_OF_A_BLOCK, size.timed_seconds / _FEWEST_BLOCKS) / seconds_of_update))
    blocks: list[float] = []
    timed = time.perf_counter()
    while len(blocks) < _FEWEST_BLOCKS or time.perf_counter() - timed < size.timed_seconds:
        blocks.append(_timed(update, updates, device))
    images = updates * size.batch_size
    spread = Spread.of([images / seconds for seconds in blocks])
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    return {
        "images_per_second": spread.median,
        "quartiles": [spread.low, spread.high],
        "images_per_second_of_all": images * len(blocks) / sum(blocks),
        **dataclasses.asdict(attempt),
        "first_updates_seconds": first_updates,
        "timed_updates": updates * len(blocks),
        "peak_memory_gib": peak,
        "last_loss": update.loss(),
    }


def _timed(update: Update, number: int, device: torch.device) -> float:
    """Return the seconds of some updates."""
    started = time.perf_counter()
    for _ in range(number):
        update()
    synchronise(device)
    return time.perf_counter() - started


class Update:
    """Makes updates.

    Args:
        size (`Size`): What is trained.
        device (`torch.device`): Where.
        attempt (`Attempt`): How it fits into memory.
        use_compile (`bool`): Whether `torch.compile` is used for the U-Net.
        use_channels_last (`bool`): Whether its weights and latents lie with their channels last.
    """

    def __init__(
        self, size: Size, device: torch.device, attempt: Attempt, use_compile: bool, use_channels_last: bool
    ) -> None:
        self.device, self.attempt = device, attempt
        self.layout = torch.channels_last if use_channels_last else torch.contiguous_format
        text_encoder: Any = CLIPTextModel(size.text_encoder)
        self.text_encoder = text_encoder.to(device).requires_grad_(False).eval()
        unet: Any = size.build_unet()
        unet.to(device, memory_format=self.layout)
        if attempt.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        settings = DiffusionConfig()
        self.settings = settings
        self.model = DenoisingModel(unet, None, stable_diffusion_scheduler(), settings).to(device).train()
        if use_compile:
            unet.compile()
        self.optimizer = build_optimizer(decay_matrices_only(self.model), settings)
        self.average = AveragedWeights(self.model, settings.ema_decay)
        self.batches = itertools.cycle(list(self._made(size)))
        self._loss = torch.zeros((), device=device)

    def _made(self, size: Size) -> Iterator[dict[str, torch.Tensor]]:
        """Make micro-batches as a loader leaves them: posteriors, noise and tokens, pinned where that helps."""
        shape = (self.attempt.batch_size, *size.latent_shape)
        for _ in range(_BATCHES_IN_MEMORY):
            batch = {
                "latent_mean": torch.randn(shape),
                "latent_std": torch.full(shape, 0.1),
                "posterior_noise": torch.randn(shape),
                "noise": torch.randn(shape),
                "timesteps": torch.randint(1000, shape[:1]),
                "input_ids": torch.randint(size.text_encoder.vocab_size, (shape[0], CAPTION_LENGTH)),
            }
            pins = self.device.type == "cuda"
            yield {name: value.pin_memory() if pins else value for name, value in batch.items()}

    def __call__(self) -> None:
        """Make one update."""
        for _ in range(self.attempt.accumulation):
            batch = {name: value.to(self.device, non_blocking=True) for name, value in next(self.batches).items()}
            latents = batch["latent_mean"] + batch["latent_std"] * batch["posterior_noise"]
            with torch.autocast(self.device.type, torch.bfloat16):
                with torch.no_grad():
                    captions = self.text_encoder(batch["input_ids"])[0]
                losses = self.model(
                    latents.to(memory_format=self.layout),
                    batch["noise"].to(memory_format=self.layout),
                    batch["timesteps"],
                    captions,
                )
            loss = losses["loss"].mean()
            (loss / self.attempt.accumulation).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.step()
        self._loss = loss.detach()

    def loss(self) -> float:
        """Return the loss of the last micro-batch: a number that is not finite would speak against all the others."""
        return float(self._loss)
