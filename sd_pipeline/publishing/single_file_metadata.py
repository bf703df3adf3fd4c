"""What a single file says about its weights, in its header: for other tools by ModelSpec, and for us everything else.

ModelSpec: https://github.com/Stability-AI/ModelSpec. Our keys start with `sd_pipeline.` and hold JSON.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import diffusers
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from transformers import CLIPTokenizer

import sd_pipeline
from sd_pipeline.publishing.original_families import VOCAB_SIZE, Family, family_of
from sd_pipeline.publishing.original_weights import V_PREDICTION_MARKER
from sd_pipeline.publishing.repository_files import RepositoryError
from sd_pipeline.publishing.stock_layout import OUR_CLASS_OF, STOCK_CLASS_OF

PREFIX = "sd_pipeline."
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
MODELS = ("unet", "vae", "text_encoder")
CLIP_TOKENIZER = "openai/clip-vit-large-patch14"
# A few tokens of CLIP's vocabulary, by which it is told from another one of its size.
CLIP_TOKENS = {"a</w>": 320, "diagram</w>": 22697, "dog</w>": 1929, "cat</w>": 2368, "<|endoftext|>": 49407}
SHORT_PREDICTION_TYPES = {"epsilon": "epsilon", "v_prediction": "v"}
IMPLEMENTATIONS = {
    "1": "https://github.com/CompVis/stable-diffusion",
    "2": "https://github.com/Stability-AI/stablediffusion",
}


def describe(
    title: str,
    *,
    unet: Any,
    vae: Any,
    text_encoder: Any,
    scheduler: Any,
    tokenizer: CLIPTokenizer | None,
    recommended_call: Mapping[str, Any],
) -> dict[str, str]:
    """Write down what the weights do not say.

    Args:
        title (`str`): A name for the model.
        unet (`Any`): The component; the others likewise.
        vae (`Any`): The autoencoder.
        text_encoder (`Any`): The text encoder.
        scheduler (`Any`): The scheduler.
        tokenizer ([`~transformers.CLIPTokenizer`], *optional*): Its vocabulary is left out where it is CLIP's own.
        recommended_call (mapping): Defaults of a call.

    Returns:
        `dict[str, str]`: The metadata of the file.
    """
    prediction_type = SHORT_PREDICTION_TYPES[scheduler.config.get("prediction_type", "epsilon")]
    family = family_of(unet.config)
    metadata = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": _architecture(family, unet.config["in_channels"], prediction_type),
        "modelspec.implementation": IMPLEMENTATIONS[family.version],
        "modelspec.title": title,
        "modelspec.prediction_type": prediction_type,
    }
    size = unet.config["sample_size"]
    if size:
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        metadata["modelspec.resolution"] = f"{8 * width}x{8 * height}"
    said = {
        "unet": json.loads(unet.to_json_string()),
        "vae": json.loads(vae.to_json_string()),
        "text_encoder": json.loads(text_encoder.config.to_json_string()),
        "scheduler": {**json.loads(scheduler.to_json_string()), "_class_name": _stock_name(scheduler)},
        "recommended_call": dict(recommended_call),
        "tokenizer": None if tokenizer is None else _tokenizer_files(tokenizer),
    }
    for config in (said["unet"], said["vae"], said["text_encoder"], said["scheduler"]):
        config.pop("_name_or_path", None)
    return metadata | {PREFIX + name: json.dumps(value, ensure_ascii=True) for name, value in said.items()}


def read_own(file: str, metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """Read our own metadata.

    Args:
        file (`str`): The file's name, for messages.
        metadata (mapping): What is in its header.

    Returns:
        `dict[str, Any]`: Its values by their keys without `sd_pipeline.`; `None` where there are none.

    Raises:
        RepositoryError: If they are damaged.
    """
    own = {name.removeprefix(PREFIX): value for name, value in metadata.items() if name.startswith(PREFIX)}
    if not own:
        return None
    wanted = (*MODELS, "scheduler", "recommended_call", "tokenizer")
    try:
        said = {name: json.loads(own[name]) for name in wanted}
    except (KeyError, json.JSONDecodeError) as error:
        raise RepositoryError(f"{file}: its metadata of this package is damaged or incomplete") from error
    for name, value in said.items():
        if not isinstance(value, dict) and not (name == "tokenizer" and value is None):
            raise RepositoryError(f"{file}: its metadata {PREFIX + name} holds no JSON object")
    return said


def read_prediction_type(metadata: Mapping[str, str], weights: Collection[str]) -> str | None:
    """Find out what the U-Net predicts, as other tools write it down.

    Args:
        metadata (mapping): What is in the header.
        weights (collection of `str`): Names of the weights. ComfyUI marks v-prediction by an empty one, `v_pred`.

    Returns:
        `str`: `"epsilon"` or `"v_prediction"`; `None` where nothing says it.
    """
    long = {short: name for name, short in SHORT_PREDICTION_TYPES.items()} | {"v_prediction": "v_prediction"}
    # ComfyUI writes the second key.
    for key in ("modelspec.prediction_type", "modelspec.predict_key"):
        if metadata.get(key) in long:
            return long[metadata[key]]
    return "v_prediction" if V_PREDICTION_MARKER in weights else None


def build_scheduler(file: str, config: Mapping[str, Any]) -> Any:
    """Build the scheduler that a file asks for.

    Args:
        file (`str`): Its name, for messages.
        config (mapping): The configuration, with the class in `_class_name`.

    Returns:
        `Any`: One of diffusers, or ours in place of `DDPMScheduler`.

    Raises:
        RepositoryError: If there is no such scheduler.
    """
    name = str(config.get("_class_name"))
    package = sd_pipeline if name in OUR_CLASS_OF else diffusers
    scheduler_class = getattr(package, OUR_CLASS_OF.get(name, name), None)
    if not (isinstance(scheduler_class, type) and issubclass(scheduler_class, SchedulerMixin)):
        raise RepositoryError(f"{file}: its scheduler {name!r} is none of diffusers")
    return scheduler_class.from_config(dict(config))  # type: ignore[attr-defined]


def build_tokenizer(file: str, facts: Mapping[str, Any]) -> CLIPTokenizer:
    """Build the tokenizer of a file.

    Args:
        file (`str`): Its name, for messages.
        facts (mapping): What `read_own` returned, or the same guessed.

    Returns:
        [`~transformers.CLIPTokenizer`]: From the file, or CLIP's own, from the Hub or its cache.

    Raises:
        RepositoryError: If it is neither in the file nor to be had.
    """
    text_config = facts["text_encoder"]
    files = facts["tokenizer"] or {}
    if "tokenizer.json" in files:
        with tempfile.TemporaryDirectory() as folder:
            for name in TOKENIZER_FILES:
                (Path(folder) / name).write_text(json.dumps(files.get(name, {})), encoding="utf-8")
            return CLIPTokenizer.from_pretrained(folder)
    if text_config["vocab_size"] != VOCAB_SIZE:
        size = text_config["vocab_size"]
        raise RepositoryError(f"{file} has no tokenizer, and its {size} tokens are not CLIP's: pass `tokenizer`")
    settings = files.get("tokenizer_config.json") or {
        "pad_token": family_of(facts["unet"]).pad_token,
        "model_max_length": text_config["max_position_embeddings"],
    }
    chosen = {key: settings[key] for key in ("pad_token", "model_max_length") if key in settings}
    with contextlib.suppress(OSError, ValueError):
        tokenizer = CLIPTokenizer.from_pretrained(CLIP_TOKENIZER, **chosen)
        # Without its files, transformers returns one that knows two tokens, and no error.
        if len(tokenizer) == VOCAB_SIZE:
            return tokenizer
    raise RepositoryError(
        f"{file} has CLIP's own tokenizer, and {CLIP_TOKENIZER} cannot be had from the Hub: pass `tokenizer`"
    )


def _tokenizer_files(tokenizer: CLIPTokenizer) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = {name: json.loads((Path(folder) / name).read_text(encoding="utf-8")) for name in TOKENIZER_FILES}
    files["tokenizer_config.json"].pop("name_or_path", None)
    vocabulary = tokenizer.get_vocab()
    if len(vocabulary) == VOCAB_SIZE and all(vocabulary.get(token) == at for token, at in CLIP_TOKENS.items()):
        del files["tokenizer.json"]
    return files


def _architecture(family: Family, in_channels: int, prediction_type: str) -> str:
    name = f"stable-diffusion-v{family.version}"
    if in_channels == 9:
        return f"{name}-inpainting"
    if family.version == "1":
        return name
    return f"{name}-768-v" if prediction_type == "v" else f"{name}-512"


def _stock_name(scheduler: Any) -> str:
    name = type(scheduler).__name__
    return STOCK_CLASS_OF.get(name, name)
