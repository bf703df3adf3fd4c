"""Which two models can be compared by their denoising errors, and where they are loaded from."""

from __future__ import annotations

from pathlib import Path

import torch

from sd_pipeline import SDDDPMScheduler, SDInpaintPipeline
from sd_pipeline.pipelines.pipeline_base import SDBasePipeline

# With the weights of the encoder, they say what the latents of an image are. The decoder does not.
_LATENT_KEYS = ("latent_channels", "scaling_factor", "shift_factor", "latents_mean", "latents_std", "posterior")


def pipeline_of(place: str) -> str:
    """Tell where the pipeline of a model is: in the folder of a finished run, or the place itself.

    Args:
        place (`str`): Folder of a run or of a pipeline, or a name.

    Raises:
        ValueError: If it is the folder of a run that has not finished.
    """
    if not (Path(place) / "config.yaml").is_file():
        return place
    if not (Path(place) / "pipeline" / "model_index.json").is_file():
        raise ValueError(
            f"{place}: is a run without a finished pipeline; allowed: finished runs, pipelines, Hub names"
        )
    return str(Path(place) / "pipeline")


def load_model(place: str) -> SDInpaintPipeline:
    """Load a model in float32, whether it inpaints or not.

    Args:
        place (`str`): As for `pipeline_of`.

    Raises:
        OSError: If there is no such model.
        ValueError: If its files are damaged or its parts do not fit, or it takes captions but not as text.
    """
    pipe = SDInpaintPipeline.from_pretrained(pipeline_of(place), dtype=torch.float32)
    pipe.check_components()
    if pipe.takes_prompts and not pipe.has_text_encoder:
        raise ValueError(f"{place}: has no text encoder for the captions that its U-Net takes")
    return pipe


def schedule_of(pipe: SDBasePipeline) -> SDDDPMScheduler:
    """Give the noise schedule of a model, and what it predicts, with nothing clipped.

    Args:
        pipe (`SDBasePipeline`): The model, with any sampler.
    """
    changes = {"clip_sample": False, "thresholding": False}
    scheduler: SDDDPMScheduler = SDDDPMScheduler.from_config(pipe.scheduler.config, **changes)
    return scheduler


def check_comparable(a: SDBasePipeline, b: SDBasePipeline, names: tuple[str, str]) -> None:
    """Refuse two models whose errors are of different things.

    One of them may take captions and the other none, or from another text encoder: that is part of what is compared.

    Args:
        a (`SDBasePipeline`): One.
        b (`SDBasePipeline`): The other.
        names (`tuple[str, str]`): What they are called.

    Raises:
        ValueError: Names the second, what differs, and what is allowed.
    """
    name_a, name_b = names
    allowed = f"allowed: that of {name_a}"
    kinds = ["inpaints" if pipe.is_inpainting_model else "does not inpaint" for pipe in (b, a)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"{name_b}: {kinds[0]}, and {name_a} {kinds[1]}; allowed: two models of one task")
    sizes = ["x".join(map(str, reversed(pipe.size_of_training()))) for pipe in (b, a)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"{name_b}: makes images of {sizes[0]} pixels; {allowed}, {sizes[1]}")
    difference = _difference_of_latents(a, b)
    if difference is not None:
        raise ValueError(f"{name_b}: has another space of latents, its {difference} differs; {allowed}")
    of_a, of_b = (schedule_of(pipe).alphas_cumprod for pipe in (a, b))
    if of_a.shape != of_b.shape or not torch.allclose(of_a, of_b, rtol=1e-5, atol=1e-8):
        raise ValueError(f"{name_b}: has another noise schedule (alphas_cumprod, {len(of_b)} timesteps); {allowed}")


def _difference_of_latents(a: SDBasePipeline, b: SDBasePipeline) -> str | None:
    """Name what makes the latents of two models different, if something does."""
    if (a.vae is None) != (b.vae is None) or a.num_latent_channels != b.num_latent_channels:
        return "number of channels" if (a.vae is None) == (b.vae is None) else "autoencoder"
    if a.vae is None or b.vae is None:
        return None
    for key in _LATENT_KEYS:
        if a.vae.config.get(key) != b.vae.config.get(key):
            return f"vae.config.{key}"
    weights = [
        {name: tensor for name, tensor in vae.state_dict().items() if name.startswith(("encoder.", "quant_conv."))}
        for vae in (a.vae, b.vae)
    ]
    if weights[0].keys() != weights[1].keys():
        return "encoder of the autoencoder"
    differing = (name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name]))
    return next((f"weight vae.{name}" for name in differing), None)
