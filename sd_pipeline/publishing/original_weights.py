"""Weights between our models and the layout of a single file: renamed, joined, reshaped, and back."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from sd_pipeline.latents import fold_latent_statistics
from sd_pipeline.models.autoencoder_kl import SDAutoencoderKL
from sd_pipeline.models.unet_2d_condition import SDUNet2DConditionModel
from sd_pipeline.publishing.original_families import SCALING_FACTOR, family_of
from sd_pipeline.publishing.original_layout import (
    CLIP_PREFIX,
    CONVOLUTIONS,
    UNET_PREFIX,
    VAE_PREFIX,
    KeyMap,
    unet_key_map,
    vae_key_map,
    weights_by_original_name,
)
from sd_pipeline.publishing.repository import check_finite
from sd_pipeline.publishing.repository_files import RepositoryError

logger = logging.getLogger(__name__)

# Of an autoencoder whose latents were rescaled for the file: four weights as they were.
UNFOLDED_PREFIX = "sd_pipeline.vae."
UNFOLDED = ("quant_conv.weight", "quant_conv.bias", "post_quant_conv.weight", "post_quant_conv.bias")
LATENT_STATISTICS = ("shift_factor", "latents_mean", "latents_std")
# Empty weights that say: the U-Net predicts v, and the last timestep is pure noise.
V_PREDICTION_MARKER = "v_pred"
ZERO_SNR_MARKER = "ztsnr"
EMA_PREFIX = "model_ema."
# Where a weight too many tells another kind of model.
WITHOUT_EXTRAS = (UNET_PREFIX, f"{VAE_PREFIX}encoder.", f"{VAE_PREFIX}decoder.")
# ComfyUI's rule for 2.x files that do not say what they predict: this bias spreads further in those trained for v.
TELLING_BIAS = f"{UNET_PREFIX}output_blocks.11.1.transformer_blocks.0.norm1.bias"
LARGEST_EPSILON_SPREAD = 0.09


def to_original(unet: Any, vae: Any, text_encoder: Any, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """Lay out the weights of three models as in a single file.

    Args:
        unet (`Any`): A U-Net of diffusers or of this package.
        vae (`Any`): An autoencoder. If its latents are not raw latents times 0.18215, its quant convolutions are
            rescaled so that they are, and kept as they were beside.
        text_encoder (`Any`): A text encoder.
        dtype (`torch.dtype`, *optional*): Of the result.

    Returns:
        `dict[str, torch.Tensor]`: On the CPU, contiguous.

    Raises:
        ValueError: If a weight is not finite, or has no place in the file.
    """
    folded = _fold(vae)
    text_key_map = family_of(unet.config).text_key_map(text_encoder.config.num_hidden_layers)
    weights: dict[str, torch.Tensor] = {}
    for name, model, key_map in (
        ("unet", unet, unet_key_map()),
        ("vae", folded, vae_key_map()),
        ("text_encoder", text_encoder, text_key_map),
    ):
        check_finite(name, model)
        weights |= _renamed(name, model.state_dict(), key_map)
    if folded is not vae:
        weights |= {UNFOLDED_PREFIX + name: vae.state_dict()[name] for name in UNFOLDED}
    converted = {name: weight.detach().to("cpu", dtype).contiguous() for name, weight in weights.items()}
    for name, weight in converted.items():
        if dtype is not None and not torch.isfinite(weight).all():
            raise ValueError(f"the weight {name!r} is not finite in {dtype}: the model is not saved")
    return converted


def noise_schedule(scheduler: Any) -> dict[str, torch.Tensor]:
    """Lay out the noise schedule as the original code keeps it beside the weights, and what the U-Net predicts.

    Args:
        scheduler (`Any`): Any with `alphas_cumprod`.

    Returns:
        `dict[str, torch.Tensor]`: float32 of shape `(num_train_timesteps,)`; the markers are empty.
    """
    alphas_cumprod = scheduler.alphas_cumprod.detach().to("cpu", torch.float32).contiguous()
    previous = torch.cat([torch.ones(1), alphas_cumprod[:-1]])
    weights = {
        "betas": 1 - alphas_cumprod / previous,
        "alphas_cumprod": alphas_cumprod,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": alphas_cumprod.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - alphas_cumprod).sqrt(),
    }
    if scheduler.config.get("prediction_type") == "v_prediction":
        weights[V_PREDICTION_MARKER] = torch.empty(0)
    if scheduler.config.get("rescale_betas_zero_snr"):
        weights[ZERO_SNR_MARKER] = torch.empty(0)
    return weights


class OriginalWeights:
    """The weights of an open single file.

    Args:
        file_name (`str`): Its name, for messages.
        file (`Any`): As `safetensors.safe_open` opens it.
        shapes (mapping): Shape of each weight in it.
        dtype (`torch.dtype`, *optional*): Of the models to load; by default that of the file.
    """

    def __init__(
        self, file_name: str, file: Any, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype | None
    ) -> None:
        self.file_name = file_name
        self._file = file
        self._dtype = dtype
        self._stored_name = {_with_text_model(name): name for name in shapes}
        self.shapes = {name: shapes[stored] for name, stored in self._stored_name.items()}

    def guess_prediction_type(self) -> str:
        """Guess what the U-Net of a 2.x file predicts, by ComfyUI's rule.

        Returns:
            `str`: `"epsilon"`, for inpainting always, or `"v_prediction"`.
        """
        inpaints = self.shapes[f"{UNET_PREFIX}input_blocks.0.0.weight"][1] == 9
        spread = self._read(TELLING_BIAS).float().std(correction=0)
        guessed = "v_prediction" if spread > LARGEST_EPSILON_SPREAD and not inpaints else "epsilon"
        logger.warning(
            f"{self.file_name} does not say what it predicts; taken for {guessed}. If images are noise, pass "
            "`prediction_type`."
        )
        return guessed

    def load(self, configs: Mapping[str, Any], extract_ema: bool) -> dict[str, nn.Module]:
        """Build the models.

        Args:
            configs (mapping): The configurations of `unet`, `vae` and `text_encoder`.
            extract_ema (`bool`): Whether to take the averaged weights of the U-Net.

        Returns:
            `dict[str, nn.Module]`: The three, in evaluation mode.

        Raises:
            RepositoryError: If a weight is missing, superfluous or of another shape.
        """
        vae_config, text_config = dict(configs["vae"]), configs["text_encoder"]
        is_rescaled = not _has_known_scale(vae_config)
        if is_rescaled and UNFOLDED_PREFIX + UNFOLDED[0] not in self.shapes:
            # Some tool kept the metadata and dropped the weights beside the model.
            vae_config |= {"scaling_factor": SCALING_FACTOR, **dict.fromkeys(LATENT_STATISTICS)}
            is_rescaled = False
        text_key_map = family_of(configs["unet"]).text_key_map(text_config.get("num_hidden_layers", 0))
        models = {
            "unet": self._build(SDUNet2DConditionModel.from_config, configs["unet"]),
            "vae": self._build(SDAutoencoderKL.from_config, vae_config),
            "text_encoder": self._build(_text_encoder, text_config),
        }
        key_maps = {"unet": unet_key_map(), "vae": vae_key_map(), "text_encoder": text_key_map}
        layouts = {name: weights_by_original_name(models[name].state_dict(), key_maps[name]) for name in models}
        self._refuse_extras({**layouts["unet"], **layouts["vae"]})
        if extract_ema:
            layouts["unet"] = {_ema_name(original): names for original, names in layouts["unet"].items()}
        elif any(name.startswith(f"{EMA_PREFIX}diffusion_model") for name in self.shapes):
            logger.warning(
                f"{self.file_name} has averaged weights too ({EMA_PREFIX}*); `extract_ema=True` takes them."
            )
        for name, model in models.items():
            self._check(model, layouts[name])
        for name, model in models.items():
            self._fill(model, layouts[name])
        if is_rescaled:
            unfolded = {name: self._read(UNFOLDED_PREFIX + name) for name in UNFOLDED}
            models["vae"].load_state_dict(unfolded, strict=False)
        return models

    def _build(self, build: Callable[[Any], nn.Module], config: Any) -> nn.Module:
        try:
            with torch.device("meta"):
                return build(config).eval()
        except (ValueError, TypeError, KeyError) as error:
            raise RepositoryError(f"{self.file_name}: {str(error).splitlines()[0]}") from error

    def _refuse_extras(self, known: Collection[str]) -> None:
        for name in self.shapes:
            if name.startswith(WITHOUT_EXTRAS) and name not in known:
                raise RepositoryError(
                    f"{self.file_name} is no Stable Diffusion 1.x or 2.x: it has the weight {name!r}"
                )

    def _check(self, model: nn.Module, layout: Mapping[str, list[str]]) -> None:
        expected = model.state_dict()
        placed = {name for names in layout.values() for name in names}
        for name in expected:
            if name not in placed:
                raise RepositoryError(f"{self.file_name}: its metadata ask for {name!r}, which has no place in a file")
        for original, names in layout.items():
            self._require(original)
            shape, wanted = self.shapes[original], sum(expected[name].numel() for name in names)
            if math.prod(shape) != wanted:
                raise RepositoryError(
                    f"{self.file_name}: the weight {original!r} has shape {shape}; the model needs {wanted} numbers"
                )

    def _fill(self, model: nn.Module, layout: Mapping[str, list[str]]) -> None:
        expected = model.state_dict()
        state: dict[str, torch.Tensor] = {}
        for original, names in layout.items():
            # A copy is aligned in memory. The bytes of the file need not be, and then computing rounds otherwise.
            for name, part in zip(names, self._read(original).chunk(len(names)), strict=True):
                state[name] = part.reshape(expected[name].shape).clone()
        model.load_state_dict(state, assign=True)
        if isinstance(model, CLIPTextModel):
            # No weight, and therefore in no file.
            positions = torch.arange(model.config.max_position_embeddings)[None]
            model.embeddings.register_buffer("position_ids", positions, persistent=False)

    def _read(self, name: str) -> torch.Tensor:
        self._require(name)
        return self._file.get_tensor(self._stored_name[name]).to(self._dtype)

    def _require(self, name: str) -> None:
        if name not in self.shapes:
            raise RepositoryError(f"{self.file_name} lacks the weight {name!r}")


def _renamed(model_name: str, state: Mapping[str, torch.Tensor], key_map: KeyMap) -> dict[str, torch.Tensor]:
    layout = weights_by_original_name(state, key_map)
    placed = {name for names in layout.values() for name in names}
    for name in state:
        if name not in placed:
            raise ValueError(f"{model_name} has the weight {name!r}, for which a single file has no place")
    renamed = {}
    for original, names in layout.items():
        weight = torch.cat([state[name] for name in names]) if len(names) > 1 else state[names[0]]
        renamed[original] = weight[..., None, None] if CONVOLUTIONS in original and weight.ndim == 2 else weight
    return renamed


def _with_text_model(name: str) -> str:
    # Some tools left these words out.
    bare = CLIP_PREFIX.removesuffix("text_model.")
    return CLIP_PREFIX + name.removeprefix(bare).removeprefix("text_model.") if name.startswith(bare) else name


def _ema_name(original: str) -> str:
    return EMA_PREFIX + "".join(original.split(".")[1:])


def _has_known_scale(config: Mapping[str, Any]) -> bool:
    return config.get("scaling_factor") == SCALING_FACTOR and not any(config.get(key) for key in LATENT_STATISTICS)


def _fold(vae: Any) -> Any:
    if _has_known_scale(vae.config):
        return vae
    shift, mean, std = (vae.config.get(key) for key in LATENT_STATISTICS)
    if mean is None or std is None:
        mean, std = [shift or 0.0] * vae.config["latent_channels"], [1.0] * vae.config["latent_channels"]
    folded = copy.deepcopy(vae)
    scale = SCALING_FACTOR / vae.config["scaling_factor"]
    fold_latent_statistics(folded, torch.tensor(mean).double(), torch.tensor(std).double() * scale)
    return folded


def _text_encoder(config: Mapping[str, Any]) -> CLIPTextModel:
    # A file of a stranger must not choose an implementation, which may be code from the Hub.
    safe = {key: value for key, value in config.items() if "implementation" not in key}
    return CLIPTextModel(CLIPTextConfig.from_dict(safe))
