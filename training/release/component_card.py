"""What the cards of an autoencoder, a text encoder and a segmentation say of their measurements, and tell the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index

from sd_pipeline.publishing.model_card import markdown_table, without_local_paths
from training.config import TextEncoderConfig
from training.release.training_data import hub_dataset

_METADATA: dict[str, dict[str, Any]] = {
    "autoencoder": {
        "library_name": "diffusers",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["sd_pipeline", "diffusers", "autoencoder", "vae"],
    },
    "segmentation": {
        "library_name": "sd_pipeline",
        "pipeline_tag": "image-segmentation",
        "tags": ["sd_pipeline", "image-segmentation", "unet"],
    },
    "text_encoder": {
        "library_name": "transformers",
        "pipeline_tag": "feature-extraction",
        "tags": ["sd_pipeline", "clip", "text-encoder"],
    },
}

# What of a validation is for a card: how it is called, and what it is. Losses compare only with those of like runs.
_MEASURES = {
    "psnr": ("PSNR", "peak signal-to-noise ratio of reconstructions, dB, mean over the images"),
    "ssim": ("SSIM", "structural similarity of reconstructions (Wang et al. 2004), mean over the images"),
    "reconstruction_distance": (
        "Frechet distance",
        "between images and reconstructions, in features of the run's CLIP",
    ),
    "caption_accuracy": ("accuracy", "share of images whose own caption is the nearest of all captions"),
    "pixel_error": ("pixel error", "share of pixels of another class, mean over the images"),
    "mean_iou": ("mean IoU", "intersection over union, mean over classes and images"),
    "rand_error": ("Rand error", "1 - Rand F-score of the objects (ISBI 2012), mean over the images"),
    "warping_error": ("warping error", "share of pixels whose change is one of topology, mean over the images"),
    "seg": ("SEG", "overlap of each object with the one found for it (Cell Tracking Challenge), mean over the images"),
    "merged_neighbours": ("merged neighbours", "share of pairs of touching objects that are found as one"),
    "ap_50": ("AP50", "TP / (TP + FP + FN) of objects with an IoU of at least 0.5, mean over the images"),
    "thumbnail_error": ("thumbnail error", "mean squared error of 8x8 thumbnails told from the caption alone"),
}


def component_metadata(stage: str, name: str, dataset: str, measured: Mapping[str, float]) -> dict[str, Any]:
    """Make what the Hub is to know of a part of a model, or of a segmentation.

    Args:
        stage (`str`): `autoencoder`, `text_encoder` or `segmentation`.
        name (`str`): Of the card.
        dataset (`str`): `data.dataset` of the configuration.
        measured (`Mapping[str, float]`): Of the last validation.
    """
    entries = dict(_METADATA[stage])
    measured = {key: measured[key] for key in _MEASURES if key in measured}
    if measured:
        results = [
            EvalResult(
                task_type=entries["pipeline_tag"],
                dataset_type=hub_dataset(dataset) or without_local_paths(dataset),
                dataset_name=f"{without_local_paths(dataset)}, held-out images",
                dataset_split="validation",
                metric_type=key,
                metric_name=_MEASURES[key][0],
                metric_value=round(value, 4),
            )
            for key, value in measured.items()
        ]
        entries["model-index"] = eval_results_to_model_index(name, results)
    return entries


def measured_text(measured: Mapping[str, float], num_images: int) -> str:
    """Tell what validation measured, and on what.

    Args:
        measured (`Mapping[str, float]`): Of the last validation; may be empty.
        num_images (`int`): How many held-out images it looked at.
    """
    measured = {key: measured[key] for key in _MEASURES if key in measured}
    if not measured:
        return (
            "Nothing has been measured: the data have no held-out images. `data.validation_fraction` in the "
            "configuration holds some out, and training then measures them at its end."
        )
    rows = [[_MEASURES[key][0], f"{value:.4g}", _MEASURES[key][1]] for key, value in measured.items()]
    return (
        markdown_table(["measure", "value", "what it is"], rows)
        + f"\n\nThe last validation of the training, on {num_images:,} held-out images. One number each, "
        "without an interval."
    )


def vae_use(repository: str, is_stock: bool) -> str:
    """Show how to load an autoencoder.

    Args:
        repository (`str`): Its folder or repository, with the weights in `vae`.
        is_stock (`bool`): Whether plain diffusers can.
    """
    package, name = ("diffusers", "AutoencoderKL") if is_stock else ("sd_pipeline", "SDAutoencoderKL")
    told = (
        "With plain diffusers, and nothing of this package; `sd_pipeline.SDAutoencoderKL` is used likewise:"
        if is_stock
        else "With `sd_pipeline`; diffusers has no class for all of what it is made of:"
    )
    return (
        f"{told}\n\n```python\nimport torch\nfrom {package} import {name}\n\n"
        f'vae = {name}.from_pretrained("{without_local_paths(repository)}", subfolder="vae")\n'
        "pixel_values = torch.zeros(1, 3, vae.config.sample_size, vae.config.sample_size)  # in [-1, 1]\n"
        "latents = vae.encode(pixel_values).latent_dist.sample()\n"
        "reconstruction = vae.decode(latents).sample\n```"
    )


def text_encoder_origin(settings: TextEncoderConfig) -> str:
    """Tell where the weights of a text encoder come from.

    Args:
        settings (`TextEncoderConfig`): Its block of the configuration.
    """
    if settings.pretrained_model_name_or_path is not None:
        return f"taken over unchanged from `{without_local_paths(settings.pretrained_model_name_or_path)}`"
    if settings.training == "joint":
        return "with the random weights that joint training with the U-Net starts from"
    return "trained from nothing with `sd_pipeline` to tell which caption belongs to which picture"
