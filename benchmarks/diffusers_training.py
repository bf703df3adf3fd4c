"""Training with the parts of diffusers and transformers alone, each stage in the way of their examples.

The loop of the diffusion stage makes the steps of `examples/text_to_image/train_text_to_image.py` in their order.
Autoencoder and text encoder work in each step, both in the precision of autocast; AdamW, clipping and the average of
the weights have the defaults of their libraries; the loss is gathered and read in each step.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import CLIPModel, CLIPTextModel

from benchmarks.stepped_training import USUAL_MEMORY
from training.engine.memory import keep_freed_memory

Batch = dict[str, torch.Tensor]


class Loop:
    """A plain loop around a loss.

    Args:
        model (`torch.nn.Module`): What is trained; float32.
        loss (`Callable`): Makes a loss, a scalar, of a batch on the device.
        dataset (`torch.utils.data.Dataset`): Training samples.
        collate (`Callable`): Makes a batch of a list of them.
        batch_size (`int`): Samples of an update.
        accelerator (`accelerate.Accelerator`): Device and precision.
        learning_rate (`float`): Of AdamW.
        ema_decay (`float`, *optional*): Of the average of the weights; none by default.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Batch], torch.Tensor],
        dataset: Dataset[Any],
        collate: Callable[[Sequence[Any]], Batch],
        batch_size: int,
        accelerator: Accelerator,
        learning_rate: float = 1e-4,
        ema_decay: float | None = None,
    ) -> None:
        self.model = model.to(accelerator.device).train()
        self.loss = loss
        self.loader = DataLoader(dataset, batch_size=batch_size, shuffle=True, collate_fn=collate, drop_last=True)
        self.accelerator = accelerator
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=learning_rate)
        self.schedule = get_scheduler("constant", self.optimizer)
        self.average = None if ema_decay is None else EMAModel(self.model.parameters(), decay=ema_decay)
        if self.average is not None:
            self.average.to(accelerator.device)
        self.losses: list[float] = []
        self._bar = tqdm(file=io.StringIO())
        self._batches = self._epochs()

    def _epochs(self) -> Iterator[Batch]:
        while True:
            yield from self.loader

    def advance(self, num_updates: int) -> None:
        """Make some updates.

        Args:
            num_updates (`int`): How many.
        """
        accelerator = self.accelerator
        keep_freed_memory(USUAL_MEMORY)
        for batch in itertools.islice(self._batches, num_updates):
            loss = self.loss({name: value.to(accelerator.device) for name, value in batch.items()})
            mean = accelerator.gather(loss.detach().repeat(len(next(iter(batch.values()))))).mean()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
            if self.average is not None:
                self.average.step(self.model.parameters())
            self.losses.append(float(mean))
            self._bar.update()
            self._bar.set_postfix(step_loss=float(loss.detach()), lr=self.schedule.get_last_lr()[0])


class DenoisingLoss:
    """What the example asks of the U-Net in a step.

    Args:
        unet (`UNet2DConditionModel`): The network.
        vae (`AutoencoderKL`): Frozen; it is put into the precision of the accelerator, as the example does.
        text_encoder (`CLIPTextModel`): Frozen; likewise.
        scheduler (`DDPMScheduler`): The forward process.
        accelerator (`accelerate.Accelerator`): Device and precision.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        scheduler: DDPMScheduler,
        accelerator: Accelerator,
    ) -> None:
        self.dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
        self.unet: Any = unet
        self.vae: Any = vae.to(accelerator.device, self.dtype).requires_grad_(False).eval()
        self.text_encoder: Any = text_encoder.to(accelerator.device, self.dtype).requires_grad_(False).eval()
        self.scheduler: Any = scheduler
        self.accelerator = accelerator

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Encode images and captions, draw noise and timesteps, and compare.

        Args:
            batch (`dict`): `pixel_values` of shape `(batch_size, 3, height, width)`, and `input_ids` of shape
                `(batch_size, length)`.

        Returns:
            `torch.Tensor`, a scalar, float32.
        """
        with torch.no_grad():
            latents = self.vae.encode(batch["pixel_values"].to(self.dtype)).latent_dist.sample()
        latents = latents * self.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        steps = self.scheduler.config.num_train_timesteps
        timesteps = torch.randint(0, steps, latents.shape[:1], device=latents.device)
        return self.error(latents, noise, timesteps, batch["input_ids"])

    def error(
        self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, input_ids: torch.Tensor
    ) -> torch.Tensor:
        """Compare what the U-Net sees in noisy latents with the noise.

        Args:
            latents (`torch.Tensor` of shape `(batch_size, channels, height, width)`): x_0.
            noise (`torch.Tensor`, same shape): epsilon.
            timesteps (`torch.LongTensor` of shape `(batch_size,)`): t.
            input_ids (`torch.LongTensor` of shape `(batch_size, length)`): Tokens.

        Returns:
            `torch.Tensor`, a scalar, float32.
        """
        noisy_latents = self.scheduler.add_noise(latents, noise, timesteps)
        captions = self.text_encoder(input_ids, return_dict=False)[0]
        with self.accelerator.autocast():
            prediction = self.unet(noisy_latents, timesteps, captions, return_dict=False)[0]
        return F.mse_loss(prediction.float(), noise.float(), reduction="mean")


def autoencoder_loss(
    vae: AutoencoderKL, std: float, kl_scale: float, accelerator: Accelerator
) -> Callable[[Batch], torch.Tensor]:
    """Make the negative evidence lower bound of a Gaussian likelihood, in nats a pixel value.

    Args:
        vae (`AutoencoderKL`): The network.
        std (`float`): Standard deviation of the likelihood.
        kl_scale (`float`): Factor of the divergence.
        accelerator (`accelerate.Accelerator`): Device and precision.

    Returns:
        `Callable`: Takes a batch with `pixel_values`.
    """
    network: Any = vae

    def loss(batch: Batch) -> torch.Tensor:
        images = batch["pixel_values"]
        with accelerator.autocast():
            posterior = network.encode(images).latent_dist
            decoded = network.decode(posterior.sample()).sample
        error = F.mse_loss(decoded.float(), images) / (2 * std**2)
        total: torch.Tensor = error + kl_scale * posterior.kl().float().mean() / images[0].numel()
        return total

    return loss


def contrastive_loss(clip: CLIPModel, accelerator: Accelerator) -> Callable[[Batch], torch.Tensor]:
    """Make the loss of transformers' CLIP.

    Args:
        clip (`CLIPModel`): Both towers.
        accelerator (`accelerate.Accelerator`): Device and precision.

    Returns:
        `Callable`: Takes a batch with `pixel_values` and `input_ids`.
    """
    network: Any = clip

    def loss(batch: Batch) -> torch.Tensor:
        with accelerator.autocast():
            output = network(**batch, return_loss=True)
        value: torch.Tensor = output.loss.float()
        return value

    return loss
