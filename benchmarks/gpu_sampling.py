"""Steps a second of the sampler: the package's own loop, with guidance.

A step asks the U-Net twice about each image. Text encoder and autoencoder are left out, and weights are random; that
changes no time of a step.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers import DDIMScheduler

from benchmarks.gpu_sizes import Size, stable_diffusion_scheduler
from benchmarks.kernel_counts import CAPTION_LENGTH
from benchmarks.measurement import Spread, interleaved, synchronised
from sd_pipeline.pipelines.denoising import DenoisingInputs, denoise
from sd_pipeline.pipelines.scheduler_use import set_timesteps

_GUIDANCE_SCALE = 7.5
_REPETITIONS = 5
# The first calls of a compiled U-Net compile it, record its graph and replay that for the first time.
_WARM_UP = 3


def sampling_speed(
    size: Size, device: torch.device, batch_size: int, use_compile: bool, use_channels_last: bool
) -> dict[str, Any]:
    """Denoise a batch several times.

    Args:
        size (`Size`): Of the U-Net, and how many steps.
        device (`torch.device`): Where.
        batch_size (`int`): Images.
        use_compile (`bool`): Whether the U-Net is compiled, on a GPU into CUDA graphs.
        use_channels_last (`bool`): Whether its weights and latents lie with their channels last.

    Returns:
        `dict[str, Any]`: `steps_per_second` with quartiles, and more.
    """
    layout = torch.channels_last if use_channels_last else torch.contiguous_format
    unet: Any = size.build_unet().eval()
    unet.to(device, torch.bfloat16, memory_format=layout)
    if use_compile:
        unet.compile(mode="reduce-overhead")
    scheduler: Any = DDIMScheduler.from_config(stable_diffusion_scheduler().config)
    inputs = DenoisingInputs(
        latents=torch.randn(batch_size, *size.latent_shape, device=device, dtype=unet.dtype).to(memory_format=layout),
        timesteps=set_timesteps(scheduler, size.num_inference_steps, None, None, device),
        encoder_hidden_states=torch.randn(
            2 * batch_size, CAPTION_LENGTH, size.unet["cross_attention_dim"], device=device, dtype=unet.dtype
        ),
        guidance_scale=_GUIDANCE_SCALE,
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    sample = synchronised({"sample": partial(_sampled, unet, scheduler, inputs)}, device)
    seconds = interleaved(sample, _REPETITIONS, _WARM_UP)["sample"]
    spread = Spread.of([size.num_inference_steps / one for one in seconds])
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    return {
        "steps_per_second": spread.median,
        "quartiles": [spread.low, spread.high],
        "images_per_second": batch_size * spread.median / size.num_inference_steps,
        "num_inference_steps": size.num_inference_steps,
        "tflops": 2 * batch_size * size.forward_flop() * spread.median / 1e12,
        "peak_memory_gib": peak,
        "is_finite": bool(torch.isfinite(_sampled(unet, scheduler, inputs)).all()),
    }


@torch.no_grad()
def _sampled(unet: Any, scheduler: Any, inputs: DenoisingInputs) -> torch.Tensor:
    return denoise(unet, scheduler, inputs)
