"""The variational autoencoder: images to a Gaussian over latents, and latents to images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import AutoencoderMixin, DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

from sd_pipeline.models.autoencoder_blocks import ACTIVATIONS, Decoder, Encoder
from sd_pipeline.models.cholesky_head import CholeskyHead
from sd_pipeline.models.constructor_checks import check_counts
from sd_pipeline.models.gaussian import LOGVAR_RANGE, CholeskyGaussian, DiagonalGaussian
from sd_pipeline.models.tiling import TileGrid, apply_tiled
from sd_pipeline.stock_config import StockConfigMixin
from sd_pipeline.stock_weights import SafetensorsMixin

POSTERIORS = ("diagonal", "isotropic", "cholesky")


class SDAutoencoderKL(StockConfigMixin, SafetensorsMixin, ModelMixin, AutoencoderMixin, ConfigMixin):  # type: ignore[misc]
    r"""The autoencoder of latent diffusion (Rombach et al. 2022), with the posterior of report section 2.

    q_phi(z|x) = N(E_phi(x), diag(sigma_phi(x)^2)),    x = D_theta(z)

    Configuration and state-dict keys are those of diffusers' `AutoencoderKL`; `posterior` is added. Folders saved by
    either class load in the other. Slicing (`enable_slicing`) takes one sample of a batch at a time, tiling
    (`enable_tiling`) one tile of `sample_size` pixels.

    Args:
        in_channels (`int`, *optional*, defaults to 3): Channels of the input image.
        out_channels (`int`, *optional*, defaults to 3): Channels of the decoded image.
        down_block_types (`tuple[str]`, *optional*, defaults to `("DownEncoderBlock2D",)`):
            `"DownEncoderBlock2D"` once for each resolution.
        up_block_types (`tuple[str]`, *optional*, defaults to `("UpDecoderBlock2D",)`):
            `"UpDecoderBlock2D"` once for each resolution.
        block_out_channels (`tuple[int]`, *optional*, defaults to `(64,)`):
            Width of each resolution, the finest first. Latents are 2^(len - 1) times smaller than images.
        layers_per_block (`int`, *optional*, defaults to 1): ResNet blocks a resolution (one more in the decoder).
        act_fn (`str`, *optional*, defaults to `"silu"`): One of silu, swish, mish, gelu, relu.
        latent_channels (`int`, *optional*, defaults to 4): Channels of the latents.
        norm_num_groups (`int`, *optional*, defaults to 32): Groups of the group normalisation; divides each width.
        sample_size (`int`, *optional*, defaults to 32): Side of the images, and of a tile, in pixels.
        scaling_factor (`float`, *optional*, defaults to 0.18215):
            Latents of the diffusion model are raw latents times this; see `sd_pipeline.latents`.
        shift_factor (`float`, *optional*): Subtracted from raw latents before scaling.
        latents_mean (`tuple[float]`, *optional*): Mean of each channel of raw latents.
        latents_std (`tuple[float]`, *optional*): Standard deviation of each channel of raw latents.
        force_upcast (`bool`, *optional*, defaults to `True`): Whether pipelines should run this model in float32.
        use_quant_conv (`bool`, *optional*, defaults to `True`): Whether a 1x1 convolution follows the encoder.
        use_post_quant_conv (`bool`, *optional*, defaults to `True`): Whether a 1x1 convolution precedes the decoder.
        mid_block_add_attention (`bool`, *optional*, defaults to `True`):
            Whether the lowest resolution of encoder and decoder has self-attention.
        posterior (`str`, *optional*, defaults to `"diagonal"`):
            `"diagonal"`: a standard deviation for each element of the latents, as in diffusers. `"isotropic"`: one
            sigma_phi(x) for an image, as in report eq. 9; its log-variance is the mean over the image's elements.
            `"cholesky"`: a covariance of all elements, as in report eq. 10, for images of `sample_size` alone and
            latents of at most 512 elements. Diffusers can decode with such a model, and encodes to other deviations.

    Raises:
        ValueError: If a value is impossible; the message names the key, the value and what is allowed.

    Example:
        ```python
        >>> import torch
        >>> from sd_pipeline import SDAutoencoderKL
        >>> vae = SDAutoencoderKL(block_out_channels=(32,), norm_num_groups=8)
        >>> pixel_values = torch.rand(2, 3, 16, 16) * 2 - 1
        >>> posterior = vae.encode(pixel_values).latent_dist
        >>> vae.decode(posterior.sample()).sample.shape
        torch.Size([2, 3, 16, 16])

        ```
    """

    __module__ = "sd_pipeline"
    stock_class_name = "AutoencoderKL"
    added_config_defaults: ClassVar = {"posterior": "diagonal"}
    _supports_gradient_checkpointing = True
    _no_split_modules = ("ResnetBlock", "SelfAttention")  # type: ignore[assignment]

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",),
        up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",),
        block_out_channels: tuple[int, ...] = (64,),
        layers_per_block: int = 1,
        act_fn: str = "silu",
        latent_channels: int = 4,
        norm_num_groups: int = 32,
        sample_size: int = 32,
        scaling_factor: float = 0.18215,
        shift_factor: float | None = None,
        latents_mean: tuple[float, ...] | None = None,
        latents_std: tuple[float, ...] | None = None,
        force_upcast: bool = True,
        use_quant_conv: bool = True,
        use_post_quant_conv: bool = True,
        mid_block_add_attention: bool = True,
        posterior: str = "diagonal",
    ) -> None:
        super().__init__()
        tile_size = sample_size if isinstance(sample_size, int) else sample_size[0]
        check_counts(
            sample_size=tile_size,
            in_channels=in_channels,
            out_channels=out_channels,
            layers_per_block=layers_per_block,
            latent_channels=latent_channels,
            norm_num_groups=norm_num_groups,
        )
        _check_blocks(down_block_types, up_block_types, block_out_channels, norm_num_groups)
        _check_choice("act_fn", act_fn, tuple(ACTIVATIONS))
        _check_choice("posterior", posterior, POSTERIORS)
        _check_latent_scale(latent_channels, scaling_factor, latents_mean, latents_std)
        shared = (block_out_channels, layers_per_block, norm_num_groups, act_fn, mid_block_add_attention)
        self.encoder = Encoder(in_channels, 2 * latent_channels, *shared)
        self.quant_conv = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1) if use_quant_conv else None
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1) if use_post_quant_conv else None
        self.decoder = Decoder(latent_channels, out_channels, *shared)
        self.cholesky_head: CholeskyHead | None = None
        if posterior == "cholesky":
            num_elements = latent_channels * (tile_size // 2 ** (len(block_out_channels) - 1)) ** 2
            self.cholesky_head = CholeskyHead(2 * num_elements, num_elements)

        self.use_slicing = False
        self.use_tiling = False
        self.tile_sample_min_size = tile_size
        self.tile_latent_min_size = tile_size // 2 ** (len(block_out_channels) - 1)
        self.tile_overlap_factor = 0.25

    @apply_forward_hook
    def encode(
        self, x: torch.Tensor, return_dict: bool = True
    ) -> AutoencoderKLOutput | tuple[DiagonalGaussian | CholeskyGaussian]:
        """Encode images to the posterior over their raw latents.

        Args:
            x (`torch.Tensor` of shape `(batch_size, in_channels, height, width)`): Images in [-1, 1]. Floating point.
            return_dict (`bool`, *optional*, defaults to `True`): Whether to return an output object.

        Returns:
            [`~diffusers.models.modeling_outputs.AutoencoderKLOutput`] with `latent_dist`, or the tuple of it: a
            `DiagonalGaussian` of shape `(batch_size, latent_channels, height / f, width / f)`,
            f = 2^(len(block_out_channels) - 1), or with `posterior="cholesky"` a `CholeskyGaussian`.

        Raises:
            ValueError: If the posterior is `"cholesky"` and the images are not of `sample_size`.
        """
        latent_dist = (
            self._diagonal_posterior(x) if self.cholesky_head is None else self._full_posterior(x, self.cholesky_head)
        )
        return AutoencoderKLOutput(latent_dist=latent_dist) if return_dict else (latent_dist,)

    @apply_forward_hook
    def decode(
        self, z: torch.Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> DecoderOutput | tuple[torch.Tensor]:
        """Decode raw latents to images.

        Args:
            z (`torch.Tensor` of shape `(batch_size, latent_channels, height, width)`): Raw latents. Floating point.
            return_dict (`bool`, *optional*, defaults to `True`): Whether to return an output object.
            generator (`torch.Generator`, *optional*): Unused; pipelines pass one to every decoder.

        Returns:
            [`~diffusers.models.autoencoders.vae.DecoderOutput`] with `sample`, or the tuple of it: a `torch.Tensor` of
            shape `(batch_size, out_channels, f * height, f * width)`, in about [-1, 1] and not clipped.
        """
        grid = TileGrid(self.tile_latent_min_size, self.tile_sample_min_size, self.tile_overlap_factor)
        sample = self._in_parts(self._decode_latents, z, grid)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(
        self,
        sample: torch.Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> DecoderOutput | tuple[torch.Tensor]:
        """Encode images and decode them again.

        Args:
            sample (`torch.Tensor` of shape `(batch_size, in_channels, height, width)`): Images in [-1, 1].
            sample_posterior (`bool`, *optional*, defaults to `False`): Whether to draw the latents; else the mode.
            return_dict (`bool`, *optional*, defaults to `True`): Whether to return an output object.
            generator (`torch.Generator`, *optional*): Where the noise of the posterior comes from.

        Returns:
            [`~diffusers.models.autoencoders.vae.DecoderOutput`] with `sample`, or the tuple of it: a `torch.Tensor` of
            shape `(batch_size, out_channels, height, width)`, in about [-1, 1] and not clipped.
        """
        posterior = self.encode(sample).latent_dist
        latents = posterior.sample(generator=generator) if sample_posterior else posterior.mode()
        return self.decode(latents, return_dict=return_dict)

    def _diagonal_posterior(self, pixel_values: torch.Tensor) -> DiagonalGaussian:
        grid = TileGrid(self.tile_sample_min_size, self.tile_latent_min_size, self.tile_overlap_factor)
        mean, logvar = self._in_parts(self._encode_moments, pixel_values, grid).chunk(2, dim=1)
        if self.config["posterior"] == "isotropic":
            logvar = logvar.mean(dim=(1, 2, 3), keepdim=True).expand_as(mean)
        return DiagonalGaussian(mean, logvar)

    def _full_posterior(self, pixel_values: torch.Tensor, head: CholeskyHead) -> CholeskyGaussian:
        side = self.tile_sample_min_size
        if pixel_values.shape[-2:] != (side, side):
            height, width = pixel_values.shape[-2:]
            raise ValueError(f"posterior 'cholesky' is for images of {side}x{side} pixels, got {height}x{width}")
        features = self.encoder(pixel_values)
        moments = features if self.quant_conv is None else self.quant_conv(features)
        mean, logvar = moments.chunk(2, dim=1)
        # Features from before quant_conv: what is folded into that leaves the correlations alone.
        return CholeskyGaussian(mean, head(features, logvar.clamp(*LOGVAR_RANGE)))

    def _encode_moments(self, pixel_values: torch.Tensor) -> torch.Tensor:
        moments = self.encoder(pixel_values)
        return moments if self.quant_conv is None else self.quant_conv(moments)

    def _decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        return self.decoder(latents if self.post_quant_conv is None else self.post_quant_conv(latents))

    def _in_parts(
        self, network: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor, grid: TileGrid
    ) -> torch.Tensor:
        """Apply a network to a batch, sample by sample under slicing and tile by tile under tiling."""
        if self.use_slicing and batch.shape[0] > 1:
            return torch.cat([self._in_parts(network, sample, grid) for sample in batch.split(1)])
        if self.use_tiling and not grid.fits(batch):
            return apply_tiled(network, batch, grid)
        return network(batch)


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def _check_blocks(
    down_block_types: Sequence[str], up_block_types: Sequence[str], block_out_channels: Sequence[int], num_groups: int
) -> None:
    lengths = [len(down_block_types), len(up_block_types), len(block_out_channels)]
    if min(lengths) < 1 or len(set(lengths)) > 1:
        raise ValueError(
            "down_block_types, up_block_types and block_out_channels must have one length of at least 1, "
            f"got {lengths[0]}, {lengths[1]} and {lengths[2]}"
        )
    for down_block_type in down_block_types:
        _check_choice("down_block_types", down_block_type, ("DownEncoderBlock2D",))
    for up_block_type in up_block_types:
        _check_choice("up_block_types", up_block_type, ("UpDecoderBlock2D",))
    for width in block_out_channels:
        check_counts(block_out_channels=width)
        if width % num_groups:
            raise ValueError(f"block_out_channels must be divisible by norm_num_groups={num_groups}, got {width}")


def _check_latent_scale(
    latent_channels: int,
    scaling_factor: float,
    latents_mean: Sequence[float] | None,
    latents_std: Sequence[float] | None,
) -> None:
    if not (math.isfinite(scaling_factor) and scaling_factor > 0):
        raise ValueError(f"scaling_factor must be finite and above 0, got {scaling_factor!r}")
    for name, values in (("latents_mean", latents_mean), ("latents_std", latents_std)):
        if values is not None and len(values) != latent_channels:
            raise ValueError(f"{name} must have latent_channels={latent_channels} values, got {len(values)}")
