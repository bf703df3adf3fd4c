"""The denoising U-Net: diffusers' network with an attention and ResNet blocks of our own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.attention_processor import Attention, AttnAddedKVProcessor2_0
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from sd_pipeline.models.attention import scaled_dot_product_attention
from sd_pipeline.models.layer_kinds import specialise_layers
from sd_pipeline.stock_config import StockConfigMixin
from sd_pipeline.stock_weights import SafetensorsMixin, refuse_pickled_file, safetensors_only

if TYPE_CHECKING:
    from typing_extensions import Self


class SDUNet2DConditionModel(StockConfigMixin, SafetensorsMixin, UNet2DConditionModel):  # type: ignore[misc]
    """Predict the noise (or x_0, v, the posterior mean) in latents, given a timestep and the embedding of a caption.

    A subclass of diffusers' `UNet2DConditionModel` with its weights, its configuration and, to the bit, its outputs.
    Only under autocast on a CPU does it differ, by rounding: there attention runs in float32, and 1x1 convolutions and
    gradients of the weights of small maps are matrix products, because training takes less time that way.

    Args:
        args: As in `UNet2DConditionModel`.
        kwargs: As in `UNet2DConditionModel`.

    Raises:
        ValueError: If a value is impossible.
        TypeError: If a keyword is unknown.

    Example:
        ```python
        >>> import torch
        >>> from sd_pipeline import SDUNet2DConditionModel
        >>> unet = SDUNet2DConditionModel(
        ...     block_out_channels=(16, 32),
        ...     down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        ...     up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ...     cross_attention_dim=16,
        ...     norm_num_groups=8,
        ... )
        >>> latents, caption = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 16)
        >>> unet(latents, torch.tensor([10, 500]), encoder_hidden_states=caption).sample.shape
        torch.Size([2, 4, 8, 8])

        ```
    """

    __module__ = "sd_pipeline"
    stock_class_name = "UNet2DConditionModel"
    # What `compile_unet` of the pipelines has made of `prepared_unet.forward`.
    compiled_forward: Callable[..., torch.Tensor] | None = None

    # Loading reads the constructor's signature, which `wraps` carries over.
    @functools.wraps(UNet2DConditionModel.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        except ZeroDivisionError as error:
            raise ValueError(
                "norm_num_groups and attention_head_dim (the number of heads) must be at least 1, and the latter at "
                f"most the narrowest of block_out_channels={self.config['block_out_channels']}, got norm_num_groups="
                f"{self.config['norm_num_groups']} and attention_head_dim={self.config['attention_head_dim']}"
            ) from error
        for name in ("in_channels", "out_channels", "layers_per_block", "cross_attention_dim"):
            value = self.config[name]
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.set_default_attn_processor()
        specialise_layers(self)

    @classmethod
    def from_single_file(cls, pretrained_model_link_or_path_or_dict: Any = None, **kwargs: Any) -> Self:
        """Load the U-Net of a checkpoint of one file.

        Args:
            pretrained_model_link_or_path_or_dict (`str`, `os.PathLike` or `dict[str, torch.Tensor]`):
                A file, a link to one on the Hub, or the weights themselves.
            kwargs: As in diffusers: `config`, `dtype` and others.

        Returns:
            `SDUNet2DConditionModel`: In evaluation mode.

        Raises:
            PickleError: If it is no safetensors file (it is a `ValueError`).
        """
        place = pretrained_model_link_or_path_or_dict
        if not isinstance(place, dict):
            refuse_pickled_file(place)
        loaded: Self = super().from_single_file(place, **kwargs)
        return loaded

    def load_attn_procs(self, pretrained_model_name_or_path_or_dict: Any, **kwargs: Any) -> None:
        """Load attention processors.

        Args:
            pretrained_model_name_or_path_or_dict (`str`, `os.PathLike` or `dict[str, torch.Tensor]`):
                As in `safetensors_only`.
            kwargs: As in diffusers. Only `use_safetensors=False` reads pickles.

        Raises:
            PickleError: If there is nothing but pickles, or one is asked for (it is a `ValueError`).
        """
        place = pretrained_model_name_or_path_or_dict
        super().load_attn_procs(place, **safetensors_only(place, kwargs))

    def load_lora_adapter(self, pretrained_model_name_or_path_or_dict: Any, *args: Any, **kwargs: Any) -> None:
        """Load a LoRA adapter.

        Args:
            pretrained_model_name_or_path_or_dict (`str`, `os.PathLike` or `dict[str, torch.Tensor]`):
                As in `safetensors_only`.
            args: As in diffusers.
            kwargs: As in diffusers. Only `use_safetensors=False` reads pickles.

        Raises:
            PickleError: If there is nothing but pickles, or one is asked for (it is a `ValueError`).
        """
        place = pretrained_model_name_or_path_or_dict
        super().load_lora_adapter(place, *args, **safetensors_only(place, kwargs))

    def set_default_attn_processor(self) -> None:
        """Give every attention its default processor: `SDAttnProcessor`, except where captions have added keys."""
        for module in self.modules():
            if isinstance(module, Attention):
                has_added_keys = module.added_kv_proj_dim is not None
                processor: Any = AttnAddedKVProcessor2_0() if has_added_keys else SDAttnProcessor()
                module.set_processor(processor)


class SDAttnProcessor:
    """Self- or cross-attention of the U-Net, on sequences or on feature maps.

    What diffusers' `AttnProcessor2_0` computes, without the division by 1.0 at its end.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend.

        Args:
            attn (`diffusers.models.attention_processor.Attention`): The projections and norms.
            hidden_states (`torch.Tensor` of shape `(batch_size, length, channels)`):
                The queries' side, or a feature map of shape `(batch_size, channels, height, width)`. Floating point.
            encoder_hidden_states (`torch.Tensor` of shape `(batch_size, key_length, key_channels)`, *optional*):
                The keys' and values' side; by default `hidden_states` itself.
            attention_mask (`torch.Tensor` of shape `(batch_size, 1, key_length)`, *optional*):
                Added to the scores before the softmax.
            temb (`torch.Tensor`, *optional*): Embedding of the timestep. Unused, but passed by diffusers' blocks.

        Returns:
            `torch.Tensor` of the shape and dtype of `hidden_states`.
        """
        query_blc = hidden_states.flatten(2).transpose(1, 2) if hidden_states.ndim == 4 else hidden_states
        if attn.group_norm is not None:
            query_blc = attn.group_norm(query_blc.transpose(1, 2)).transpose(1, 2)
        key_bsc = query_blc if encoder_hidden_states is None else encoder_hidden_states
        batch_size, key_length, _ = key_bsc.shape
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, key_length, batch_size)
            attention_mask = attention_mask.view(batch_size, attn.heads, -1, attention_mask.shape[-1])

        query_bnlh, key_bnsh, value_bnsh = (
            projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for projected in (attn.to_q(query_blc), attn.to_k(key_bsc), attn.to_v(key_bsc))
        )
        attended_bnlh = scaled_dot_product_attention(query_bnlh, key_bnsh, value_bnsh, attention_mask)
        attended = attended_bnlh.transpose(1, 2).flatten(2)
        for layer in attn.to_out:
            attended = layer(attended)

        if hidden_states.ndim == 4:
            attended = attended.transpose(1, 2).reshape(hidden_states.shape)
        if attn.residual_connection:
            attended = attended + hidden_states
        return attended if attn.rescale_output_factor == 1.0 else attended / attn.rescale_output_factor
