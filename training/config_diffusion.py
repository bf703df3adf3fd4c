"""The block of the U-Net in a configuration. Imports nothing of the project but the other blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from training.config_distillation import DistillationConfig
from training.config_stages import INFINITY, StageConfig, require


def _default_unet() -> dict[str, Any]:
    return {
        "block_out_channels": [96, 192, 288],
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 1,
        "attention_head_dim": 6,
    }


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (Hu et al. 2021), trained in place of the weights they are added to.

    Args:
        rank: Of the products of two matrices that are added to the weights; 0 trains the weights themselves.
        lora_alpha: Adapters are multiplied by lora_alpha / rank; null takes the rank.
        lora_dropout: Share of an adapter's inputs that is dropped in training.
        target_modules: Layers of the U-Net that get adapters, by the ends of their names.
        text_encoder_target_modules: Layers of the text encoder that get some, with `train_text_encoder`.
    """

    rank: int = 0
    lora_alpha: float | None = None
    lora_dropout: float = 0.0
    target_modules: list[str] = field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"])
    text_encoder_target_modules: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "out_proj"])

    def __post_init__(self) -> None:
        require(self.rank >= 0, "diffusion.lora.rank", self.rank, "at least 0")
        alpha, dropout = self.lora_alpha, self.lora_dropout
        is_possible = alpha is None or 0 < alpha < INFINITY
        require(is_possible, "diffusion.lora.lora_alpha", alpha, "above 0 and finite, or null")
        require(0 <= dropout < 1, "diffusion.lora.lora_dropout", dropout, "in [0, 1)")
        for name in ("target_modules", "text_encoder_target_modules"):
            value = getattr(self, name)
            require(bool(value) and all(value), f"diffusion.lora.{name}", value, "a list of at least one name")


@dataclass(frozen=True)
class DiffusionConfig(StageConfig):
    """The U-Net.

    Args:
        pretrained_model_name_or_path: Stable Diffusion to go on from: a folder, a repository on the Hub or a model
            that comes with this package. U-Net, autoencoder, text encoder, tokenizer and noise schedule are its own,
            and what `evaluation` leaves open is as it recommends; null trains a U-Net from nothing.
        lora: Low-rank adapters to train in place of the weights of a pretrained model.
        distillation: Train a student of the pretrained model that needs fewer steps.
        inpainting: Train the U-Net to inpaint: it sees a random mask and the latents of the masked image beside the
            noisy ones. One that was not trained so is grown, by channels of zeros.
        unet: Keyword arguments of `SDUNet2DConditionModel`. Channels, sample size and cross-attention size follow
            from the autoencoder and the text encoder where they are not given.
        scheduler: Keyword arguments of `SDDDPMScheduler`.
        proportion_empty_prompts: Part of the captions that is dropped, for classifier-free guidance.
        objective: `simple` is the squared error of Algorithm 1; `weighted` that of the mean in nats, the bound's own
            weights (report eq. 20, 23); `vlb` the whole bound; `hybrid` the sum of `simple` and vlb_scale `vlb`, in
            which the bound trains the variance alone (Nichol and Dhariwal 2021). The last three are in bits of each
            value, an unbiased estimate of the sum over all timesteps. `hybrid` needs
            `diffusion.scheduler.variance_type: learned_range`, `vlb` allows it.
        vlb_scale: Factor of the bound in `hybrid`.
        snr_gamma: Gamma of min-SNR weighting (5 is usual); null weights all timesteps alike (Algorithm 1).
        timestep_sampling: `uniform` draws every timestep by itself; `stratified` spreads those of consecutive samples
            evenly, so that the loss of a batch varies less.
        weighting_scheme: Density of the timesteps: `none` is uniform, `logit_normal` that of Esser et al. 2024.
        logit_mean: Mean of the logit of t / T of `logit_normal`; above 0 favours noisy timesteps.
        logit_std: Its standard deviation.
        logit_mean_start: The mean at the first sample; null starts at `logit_mean`. A start above it shows the U-Net
            noise, where a caption is all there is to go by, before pictures.
        logit_mean_start_samples: Samples over which the mean goes from there to `logit_mean`.
        noise_offset: Standard deviation of noise that is equal over an image, a channel.
        sample_posterior: Train on samples of the autoencoder's posterior; otherwise on its mode, which spares the
            U-Net noise that nothing can predict.
        cache_latents: Encode every image once, before training; only for images that are not augmented.
        latent_cache_dir: Folder of the encoded images, which runs with the same autoencoder and images may share;
            null takes `OUTPUT_DIR/latents`.
        pre_compute_text_embeddings: Encode every caption once, before training, and keep the result in memory: 4 bytes
            times captions, tokens and width of the text encoder in each process.
        train_text_encoder: Go on training a contrastive or pretrained text encoder with the U-Net.
        text_encoder_learning_rate: Peak learning rate of a text encoder that learns with the U-Net; null takes
            `learning_rate`.
    """

    pretrained_model_name_or_path: str | None = None
    lora: LoraConfig = field(default_factory=LoraConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    inpainting: bool = False
    unet: dict[str, Any] = field(default_factory=_default_unet)
    scheduler: dict[str, Any] = field(default_factory=dict)
    proportion_empty_prompts: float = 0.1
    objective: Literal["simple", "weighted", "vlb", "hybrid"] = "simple"
    vlb_scale: float = 0.001
    snr_gamma: float | None = None
    timestep_sampling: Literal["uniform", "stratified"] = "uniform"
    weighting_scheme: Literal["none", "logit_normal"] = "none"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    logit_mean_start: float | None = None
    logit_mean_start_samples: int = 50_000
    noise_offset: float = 0.0
    sample_posterior: bool = True
    cache_latents: bool = False
    latent_cache_dir: str | None = None
    pre_compute_text_embeddings: bool = False
    train_text_encoder: bool = False
    text_encoder_learning_rate: float | None = None

    @property
    def stage(self) -> str:
        """The name of the block in the configuration."""
        return "diffusion"

    def __post_init__(self) -> None:
        super().__post_init__()
        proportion = self.proportion_empty_prompts
        require(0 <= proportion <= 1, "diffusion.proportion_empty_prompts", proportion, "in [0, 1]")
        offset = self.noise_offset
        require(0 <= offset < INFINITY, "diffusion.noise_offset", offset, "at least 0 and finite")
        mean, std = self.logit_mean, self.logit_std
        require(-INFINITY < mean < INFINITY, "diffusion.logit_mean", mean, "finite")
        require(0 < std < INFINITY, "diffusion.logit_std", std, "above 0 and finite")
        start, samples = self.logit_mean_start, self.logit_mean_start_samples
        fits = start is None or (self.weighting_scheme == "logit_normal" and -INFINITY < start < INFINITY)
        require(fits, "diffusion.logit_mean_start", start, "finite and with weighting_scheme 'logit_normal', or null")
        require(samples >= 1, "diffusion.logit_mean_start_samples", samples, "at least 1")
        self._check_objective()
        self._check_distillation()
        path, is_trained = self.pretrained_model_name_or_path, self.lora.rank > 0
        require(
            path is None or bool(path.strip()), "diffusion.pretrained_model_name_or_path", path, "a model, or null"
        )
        allowed = "left out with diffusion.pretrained_model_name_or_path, whose U-Net it is"
        require(path is None or self.unet == _default_unet(), "diffusion.unet", self.unet, allowed)
        allowed = "0 without diffusion.pretrained_model_name_or_path: adapters need weights to adapt"
        require(path is not None or not is_trained, "diffusion.lora.rank", self.lora.rank, allowed)
        allowed = "left out with diffusion.lora.rank: adapters are used with the noise schedule of their model"
        require(not is_trained or not self.scheduler, "diffusion.scheduler", self.scheduler, allowed)
        allowed = "false with diffusion.inpainting, which encodes masked images anew in each step"
        require(not (self.inpainting and self.cache_latents), "diffusion.cache_latents", True, allowed)
        folder, allowed = self.latent_cache_dir, "a folder with diffusion.cache_latents, or null"
        fits = folder is None or (self.cache_latents and bool(folder.strip()))
        require(fits, "diffusion.latent_cache_dir", folder, allowed)
        allowed = "false with diffusion.train_text_encoder, which changes them"
        is_stale = self.pre_compute_text_embeddings and self.train_text_encoder
        require(not is_stale, "diffusion.pre_compute_text_embeddings", True, allowed)
        for name in ("snr_gamma", "text_encoder_learning_rate"):
            value = getattr(self, name)
            is_possible = value is None or 0 < value < INFINITY
            require(is_possible, f"diffusion.{name}", value, "above 0 and finite, or null")

    def _check_objective(self) -> None:
        """Check that what is asked for is the bound: timesteps drawn evenly, and no weights but its own."""
        objective, scale = self.objective, self.vlb_scale
        require(0 < scale < INFINITY, "diffusion.vlb_scale", scale, "above 0 and finite")
        is_bound = objective in ("weighted", "vlb")
        allowed = f"null with diffusion.objective '{objective}', which has weights of its own"
        require(not is_bound or self.snr_gamma is None, "diffusion.snr_gamma", self.snr_gamma, allowed)
        allowed = f"'none' with diffusion.objective '{objective}', which counts all timesteps alike"
        is_even = objective == "simple" or self.weighting_scheme == "none"
        require(is_even, "diffusion.weighting_scheme", self.weighting_scheme, allowed)
        is_learned, kind = self.learns_variance, self.scheduler.get("variance_type")
        allowed = f"another with diffusion.objective '{objective}', which trains no variance"
        require(not is_learned or objective in ("vlb", "hybrid"), "diffusion.scheduler.variance_type", kind, allowed)
        allowed = "'simple', 'weighted' or 'vlb' unless diffusion.scheduler.variance_type is learned_range"
        require(is_learned or objective != "hybrid", "diffusion.objective", objective, allowed)

    def _check_distillation(self) -> None:
        """Refuse what a student cannot be taught, or has from its teacher."""
        steps = self.distillation.num_inference_steps
        if not self.distillation.is_on:
            return
        key, path = "diffusion.distillation.num_inference_steps", self.pretrained_model_name_or_path
        require(path is not None, key, steps, "0 without diffusion.pretrained_model_name_or_path: that is the teacher")
        with_it = "with diffusion.distillation"
        allowed = f"left out {with_it}: the student has the noise schedule and the prediction of its teacher"
        require(not self.scheduler, "diffusion.scheduler", self.scheduler, allowed)
        require(self.objective == "simple", "diffusion.objective", self.objective, f"'simple' {with_it}")
        allowed = f"null {with_it}, which has weights of its own"
        require(self.snr_gamma is None, "diffusion.snr_gamma", self.snr_gamma, allowed)
        allowed = f"0 {with_it}: a student is a whole model"
        require(self.lora.rank == 0, "diffusion.lora.rank", self.lora.rank, allowed)
        allowed = f"false {with_it}: the teacher needs the text encoder as it is"
        require(not self.train_text_encoder, "diffusion.train_text_encoder", True, allowed)

    @property
    def learns_variance(self) -> bool:
        """Whether the U-Net has twice the channels, for the variances of its steps."""
        return self.scheduler.get("variance_type") == "learned_range"
