"""Train, measure, use and publish a Stable Diffusion of your own, from nothing.

This file is the whole public API. Names resolve on first use (PEP 562): importing the package costs milliseconds, and
importing a class costs what that class needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sd_pipeline.models.autoencoder_kl import SDAutoencoderKL as SDAutoencoderKL
    from sd_pipeline.models.segmentation_unet import SegmentationUNet as SegmentationUNet
    from sd_pipeline.models.unet_2d_condition import SDUNet2DConditionModel as SDUNet2DConditionModel
    from sd_pipeline.pipelines.pipeline_img2img import SDImg2ImgPipeline as SDImg2ImgPipeline
    from sd_pipeline.pipelines.pipeline_inpaint import SDInpaintPipeline as SDInpaintPipeline
    from sd_pipeline.pipelines.pipeline_outpaint import SDOutpaintPipeline as SDOutpaintPipeline
    from sd_pipeline.pipelines.pipeline_sd import SDPipeline as SDPipeline
    from sd_pipeline.pipelines.pipeline_segmentation import SegmentationPipeline as SegmentationPipeline
    from sd_pipeline.schedulers.scheduling_ddpm import SDDDPMScheduler as SDDDPMScheduler

__version__ = "0.1.0"

_MODULE_OF = {
    "SDAutoencoderKL": "sd_pipeline.models.autoencoder_kl",
    "SDUNet2DConditionModel": "sd_pipeline.models.unet_2d_condition",
    "SegmentationUNet": "sd_pipeline.models.segmentation_unet",
    "SDDDPMScheduler": "sd_pipeline.schedulers.scheduling_ddpm",
    "SDPipeline": "sd_pipeline.pipelines.pipeline_sd",
    "SDImg2ImgPipeline": "sd_pipeline.pipelines.pipeline_img2img",
    "SDInpaintPipeline": "sd_pipeline.pipelines.pipeline_inpaint",
    "SDOutpaintPipeline": "sd_pipeline.pipelines.pipeline_outpaint",
    "SegmentationPipeline": "sd_pipeline.pipelines.pipeline_segmentation",
    # diffusers looks these base classes up by name in the module that a public class says it lives in.
    "ModelMixin": "diffusers.models.modeling_utils",
    "SchedulerMixin": "diffusers.schedulers.scheduling_utils",
}

__all__ = [
    "SDAutoencoderKL",
    "SDDDPMScheduler",
    "SDImg2ImgPipeline",
    "SDInpaintPipeline",
    "SDOutpaintPipeline",
    "SDPipeline",
    "SDUNet2DConditionModel",
    "SegmentationPipeline",
    "SegmentationUNet",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'sd_pipeline' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
