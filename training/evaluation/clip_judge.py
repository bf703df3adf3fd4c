"""The CLIP that judges: that of the run which the model comes from, or another one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from sd_pipeline.publishing.model_card import without_local_paths
from sd_pipeline.stock_weights import safetensors_folder

CLIP_OF_A_RUN = Path("text_encoder", "final", "clip")
_ALLOWED = "allowed: folder or Hub name of a CLIPModel with its tokenizer"


@dataclass(frozen=True, slots=True)
class ClipJudge:
    """Both towers of a CLIP, with what goes before each of them.

    Args:
        name (`str`): Where it comes from, without a local path.
        model (`transformers.CLIPModel`): The towers, in float32.
        tokenizer (`transformers.CLIPTokenizer`): Cuts at the longest prompt that the text tower takes.
        processor (`transformers.CLIPImageProcessorPil`): Resizes by Pillow, crops at the centre and normalises.
    """

    name: str
    model: CLIPModel
    tokenizer: CLIPTokenizer
    processor: CLIPImageProcessorPil

    def protocol(self) -> dict[str, Any]:
        """Say, as JSON can hold it, which CLIP this is and how its images are prepared."""
        config: Any = self.model.config
        return {
            "clip": self.name,
            "image_size": config.vision_config.image_size,
            "resize_filter": f"Pillow {Image.Resampling(self.processor.resample).name.lower()}, antialiased",
            "image_mean": list(self.processor.image_mean),
            "image_std": list(self.processor.image_std),
        }


def load_clip_judge(pipeline: str | None, clip: str | None = None, device: torch.device | str = "cpu") -> ClipJudge:
    """Load the CLIP of a run, or another one.

    The tokenizer lies in the repository, or beside it in a folder `tokenizer`, as a run has it. Images are prepared as
    the repository's `preprocessor_config.json` says. Without one they are prepared as for a run's own contrastive
    training: resized by Pillow's Lanczos filter, which antialiases, to pixel values in [-1, 1].

    Args:
        pipeline (`str`, *optional*): Folder of the model; in a run, the CLIP of the text encoder's stage is beside it.
        clip (`str`, *optional*): Folder or Hub name of another CLIP.
        device (`torch.device` or `str`, defaults to `"cpu"`): Where it is to run.

    Returns:
        `ClipJudge`: ready to judge.

    Raises:
        ValueError: If there is no CLIP with a tokenizer that fits.
    """
    name = clip
    if clip is None:
        of_the_run = None if pipeline is None else Path(pipeline).absolute().parent / CLIP_OF_A_RUN
        if of_the_run is None or not of_the_run.is_dir():
            raise ValueError(f"--clip is not given, and {pipeline} has no {CLIP_OF_A_RUN} beside it; {_ALLOWED}")
        name, clip = CLIP_OF_A_RUN.as_posix(), str(of_the_run)
    model = _load_model(clip)
    return ClipJudge(
        name=without_local_paths(str(name)),
        model=model.to(device),
        tokenizer=_load_tokenizer(clip, model.config.text_config),
        processor=_load_processor(clip, model.config.vision_config),
    )


def _load_model(place: str) -> Any:
    try:
        folder = safetensors_folder(place)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if not isinstance(config, CLIPConfig):
            raise ValueError(f"is of the type {config.model_type!r}")
        loaded: Any = CLIPModel.from_pretrained(
            folder, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        model, found = loaded
        # transformers draws at random what the file lacks.
        if found["missing_keys"]:
            raise ValueError(f"lacks {len(found['missing_keys'])} weights")
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"--clip {place}: {' '.join(str(error).split()).rstrip('.')}; {_ALLOWED}") from error
    return model.eval()


def _load_tokenizer(place: str, config: Any) -> CLIPTokenizer:
    beside = Path(place).parent / "tokenizer"
    for folder in (place, *([str(beside)] if beside.is_dir() else [])):
        try:
            tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=config.max_position_embeddings)
        except (OSError, ValueError):
            continue
        # From a folder without a tokenizer transformers makes an empty one.
        if len(tokenizer) == config.vocab_size:
            return tokenizer
    raise ValueError(f"--clip {place}: has no tokenizer of {config.vocab_size} tokens; {_ALLOWED}")


def _load_processor(place: str, config: Any) -> CLIPImageProcessorPil:
    try:
        return CLIPImageProcessorPil.from_pretrained(place)
    except (OSError, ValueError):
        side, half = config.image_size, [0.5, 0.5, 0.5]
        return CLIPImageProcessorPil(
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
            resample=Image.Resampling.LANCZOS,
            image_mean=half,
            image_std=half,
        )
