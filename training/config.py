"""The configuration of a run: frozen dataclasses, validated as they are built. Imports nothing of the project.

One YAML file is one whole run. Its keys are the fields below; those of a model are the keyword arguments of its class,
and a model block that is given replaces the default block as a whole. Reading, writing and comparing configurations is
in `config_io.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

STAGES = ("text_encoder", "autoencoder", "diffusion")

StageName = Literal["text_encoder", "autoencoder", "diffusion"]
LearningRateSchedule = Literal[
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"
]


class ConfigError(ValueError):
    """A key of the configuration has an impossible value. The message is one line that names the key."""


def require(condition: bool, key: str, value: object, allowed: str) -> None:
    """Raise a one-line `ConfigError` that names the key, its value and what is allowed, unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{key} = {value!r}: must be {allowed}")


def _default_text_model() -> dict[str, Any]:
    return {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4}


def _default_vision_model() -> dict[str, Any]:
    return {
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "patch_size": 8,
    }


def _default_vae() -> dict[str, Any]:
    return {
        "block_out_channels": [32, 64, 128],
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "layers_per_block": 1,
        "latent_channels": 4,
    }


def _default_unet() -> dict[str, Any]:
    return {
        "block_out_channels": [96, 192, 288],
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 1,
        "attention_head_dim": 6,
    }


@dataclass(frozen=True)
class DataConfig:
    """Which captioned images a run learns from.

    Args:
        dataset: `digits`, `shapes`, a folder with `metadata.jsonl`, a folder saved by `datasets`, or a Hub name.
        dataset_config_name: Configuration of a Hub data set.
        dataset_revision: Branch, tag or commit of a Hub data set.
        image_column: Column with the images.
        caption_column: Column with the captions (a string, or a list of strings of which one is drawn each time).
        resolution: Side of the square training images, pixels.
        center_crop: Crop the centre; otherwise the place of the crop is drawn anew each time.
        random_flip: Mirror half of the images. Off by default, since a mirrored image falsifies its caption.
        on_bad_sample: What an unreadable or absurdly large image or a missing caption does.
        max_image_pixels: Images with more pixels than this are bad samples.
        num_samples: Size of a generated data set (`shapes`).
        validation_fraction: Part of a folder or Hub data set without a validation split that is held out.
        dataloader_num_workers: Worker processes that load images; 0 loads in the training process.
    """

    dataset: str
    dataset_config_name: str | None = None
    dataset_revision: str | None = None
    image_column: str = "image"
    caption_column: str = "text"
    resolution: int = 64
    center_crop: bool = True
    random_flip: bool = False
    on_bad_sample: Literal["error", "skip"] = "error"
    max_image_pixels: int = 100_000_000
    num_samples: int = 50_000
    validation_fraction: float = 0.0
    dataloader_num_workers: int = 0

    def __post_init__(self) -> None:
        require(bool(self.dataset.strip()), "data.dataset", self.dataset, "the name or the folder of a data set")
        require(self.resolution >= 8, "data.resolution", self.resolution, "at least 8")
        require(self.max_image_pixels >= 1, "data.max_image_pixels", self.max_image_pixels, "at least 1")
        require(self.num_samples >= 1, "data.num_samples", self.num_samples, "at least 1")
        require(0 <= self.validation_fraction < 1, "data.validation_fraction", self.validation_fraction, "in [0, 1)")
        workers = self.dataloader_num_workers
        require(workers >= 0, "data.dataloader_num_workers", workers, "at least 0")


@dataclass(frozen=True)
class StageConfig:
    """How one stage is optimised; the words are those of diffusers' training scripts.

    Args:
        max_train_steps: Optimizer updates.
        train_batch_size: Images of one process in one micro-batch.
        gradient_accumulation_steps: Micro-batches of one update.
        learning_rate: Peak learning rate.
        lr_scheduler: Shape of the learning rate over the updates.
        lr_warmup_steps: Updates over which the learning rate rises from zero.
        adam_beta1: First moment's decay of AdamW.
        adam_beta2: Second moment's decay of AdamW.
        adam_weight_decay: Decoupled weight decay, on matrices and convolutions only.
        adam_epsilon: Added to the root of the second moment.
        max_grad_norm: Global gradient norm at which gradients are clipped.
        use_ema: Keep, validate and export a float32 moving average of the weights.
        ema_decay: Its decay, approached from below as (1 + step) / (10 + step).
        gradient_checkpointing: Recompute activations in the backward pass, to save memory.
        checkpointing_steps: Updates between two training states.
        checkpoints_total_limit: How many training states are kept; null keeps all.
        validation_steps: Updates between two validations; null validates at the end only.
        logging_steps: Updates between two rows of `metrics.jsonl`.
    """

    max_train_steps: int = 10_000
    train_batch_size: int = 32
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-4
    lr_scheduler: LearningRateSchedule = "constant"
    lr_warmup_steps: int = 0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_weight_decay: float = 0.01
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    use_ema: bool = True
    ema_decay: float = 0.9999
    gradient_checkpointing: bool = False
    checkpointing_steps: int = 500
    checkpoints_total_limit: int | None = 2
    validation_steps: int | None = None
    logging_steps: int = 10

    @property
    def stage(self) -> str:
        """The name of the block in the configuration."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        for name in ("train_batch_size", "gradient_accumulation_steps", "checkpointing_steps", "logging_steps"):
            require(getattr(self, name) >= 1, f"{self.stage}.{name}", getattr(self, name), "at least 1")
        for name in ("max_train_steps", "lr_warmup_steps", "adam_weight_decay"):
            require(getattr(self, name) >= 0, f"{self.stage}.{name}", getattr(self, name), "at least 0")
        for name in ("learning_rate", "max_grad_norm", "adam_epsilon"):
            require(0 < getattr(self, name) < float("inf"), f"{self.stage}.{name}", getattr(self, name), "above 0")
        for name in ("adam_beta1", "adam_beta2", "ema_decay"):
            require(0 <= getattr(self, name) < 1, f"{self.stage}.{name}", getattr(self, name), "in [0, 1)")
        for name in ("checkpoints_total_limit", "validation_steps"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{self.stage}.{name}", value, "at least 1, or null")
        has_warmup = self.lr_scheduler != "constant" or self.lr_warmup_steps == 0
        require(
            has_warmup,
            f"{self.stage}.lr_warmup_steps",
            self.lr_warmup_steps,
            "0 with lr_scheduler 'constant', which has no warm-up ('constant_with_warmup' has)",
        )


@dataclass(frozen=True)
class TextEncoderConfig(StageConfig):
    """The tokenizer and the text encoder.

    Args:
        training: `contrastive` trains with an image tower on the run's images and captions; `joint` starts from
            random (or pretrained) weights and learns with the U-Net; `frozen` uses pretrained weights as they are.
        pretrained_model_name_or_path: Repository or folder with `text_encoder` and `tokenizer`; null trains both.
        vocab_size: Largest size of the vocabulary of a tokenizer trained on the captions.
        model: Keyword arguments of `CLIPTextConfig`; the vocabulary comes from the tokenizer.
        vision_model: Keyword arguments of `CLIPVisionConfig`, the image tower of contrastive training.
        projection_dim: Size of the space in which texts and images are compared.
    """

    training: Literal["contrastive", "joint", "frozen"] = "contrastive"
    pretrained_model_name_or_path: str | None = None
    vocab_size: int = 8192
    model: dict[str, Any] = field(default_factory=_default_text_model)
    vision_model: dict[str, Any] = field(default_factory=_default_vision_model)
    projection_dim: int = 256

    @property
    def stage(self) -> str:
        """The name of the block in the configuration."""
        return "text_encoder"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.projection_dim >= 1, "text_encoder.projection_dim", self.projection_dim, "at least 1")
        require(self.vocab_size >= 514, "text_encoder.vocab_size", self.vocab_size, "at least 514 (bytes and marks)")
        path = self.pretrained_model_name_or_path
        if self.training == "frozen":
            require(bool(path), "text_encoder.pretrained_model_name_or_path", path, "given when training is 'frozen'")
        if self.training == "contrastive":
            key = "text_encoder.pretrained_model_name_or_path"
            require(path is None, key, path, "null when training is 'contrastive', which trains from nothing")
            require(
                self.gradient_accumulation_steps == 1,
                "text_encoder.gradient_accumulation_steps",
                self.gradient_accumulation_steps,
                "1, since a contrastive loss compares all pairs of a batch and is no mean over micro-batches",
            )


@dataclass(frozen=True)
class AutoencoderConfig(StageConfig):
    """The KL autoencoder, trained on the evidence lower bound.

    Args:
        vae: Keyword arguments of `SDAutoencoderKL`.
        likelihood: `gaussian` (report eq. 8-9) or `bernoulli` (binary cross-entropy).
        likelihood_std: Standard deviation of the Gaussian likelihood, in units of pixel values in [-1, 1].
        kl_scale: Factor of the KL divergence; 1 is the bound itself.
    """

    vae: dict[str, Any] = field(default_factory=_default_vae)
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"
    likelihood_std: float = 0.1
    kl_scale: float = 1.0

    @property
    def stage(self) -> str:
        """The name of the block in the configuration."""
        return "autoencoder"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.likelihood_std > 0, "autoencoder.likelihood_std", self.likelihood_std, "above 0")
        require(self.kl_scale >= 0, "autoencoder.kl_scale", self.kl_scale, "at least 0")


@dataclass(frozen=True)
class DiffusionConfig(StageConfig):
    """The U-Net.

    Args:
        unet: Keyword arguments of `SDUNet2DConditionModel`. Channels, sample size and cross-attention size follow
            from the autoencoder and the text encoder where they are not given.
        scheduler: Keyword arguments of `SDDDPMScheduler`.
        proportion_empty_prompts: Part of the captions that is dropped, for classifier-free guidance.
        snr_gamma: Gamma of min-SNR weighting (5 is usual); null weights all timesteps alike (Algorithm 1).
        noise_offset: Standard deviation of noise that is equal over an image, a channel.
        cache_latents: Encode every image once, before training; only for images that are not augmented.
        text_encoder_learning_rate: Peak learning rate of a jointly trained text encoder; null takes `learning_rate`.
    """

    unet: dict[str, Any] = field(default_factory=_default_unet)
    scheduler: dict[str, Any] = field(default_factory=dict)
    proportion_empty_prompts: float = 0.1
    snr_gamma: float | None = None
    noise_offset: float = 0.0
    cache_latents: bool = False
    text_encoder_learning_rate: float | None = None

    @property
    def stage(self) -> str:
        """The name of the block in the configuration."""
        return "diffusion"

    def __post_init__(self) -> None:
        super().__post_init__()
        proportion = self.proportion_empty_prompts
        require(0 <= proportion <= 1, "diffusion.proportion_empty_prompts", proportion, "in [0, 1]")
        require(
            self.snr_gamma is None or self.snr_gamma > 0, "diffusion.snr_gamma", self.snr_gamma, "above 0, or null"
        )
        require(self.noise_offset >= 0, "diffusion.noise_offset", self.noise_offset, "at least 0")
        rate = self.text_encoder_learning_rate
        require(rate is None or rate > 0, "diffusion.text_encoder_learning_rate", rate, "above 0, or null")


@dataclass(frozen=True)
class EvaluationConfig:
    """The recommended call of the finished pipeline, and what validation draws with it.

    Args:
        scheduler: Class of the scheduler that is published: `SDDDPMScheduler` or the name of one of diffusers.
        scheduler_config: Keys in which it differs from the scheduler of training.
        num_inference_steps: Recommended number of denoising steps.
        guidance_scale: Recommended guidance.
        validation_prompts: Prompts of the validation pictures; empty takes captions of the data set.
    """

    scheduler: str = "DDIMScheduler"
    scheduler_config: dict[str, Any] = field(default_factory=dict)
    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    validation_prompts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        steps = self.num_inference_steps
        require(steps >= 1, "evaluation.num_inference_steps", steps, "at least 1")
        require(self.guidance_scale >= 0, "evaluation.guidance_scale", self.guidance_scale, "at least 0")


@dataclass(frozen=True)
class TrainConfig:
    """One whole run, from captioned images to a repository that `from_pretrained` loads.

    Args:
        data: The captioned images.
        output_dir: Folder of the run.
        seed: Everything random in the run follows from it.
        mixed_precision: `no`, `fp16` or `bf16`; weights and their average stay float32.
        allow_tf32: Let Ampere and later GPUs round the inputs of float32 products to 10 bits of mantissa.
        report_to: Where metrics go besides `metrics.jsonl`.
        stages: What is trained, in this order.
        text_encoder: First stage.
        autoencoder: Second stage.
        diffusion: Third stage.
        evaluation: How the result is sampled.
    """

    data: DataConfig
    output_dir: str
    seed: int = 0
    mixed_precision: Literal["no", "fp16", "bf16"] | bool = "no"
    allow_tf32: bool = False
    report_to: Literal["tensorboard", "none"] = "tensorboard"
    stages: list[StageName] = field(default_factory=lambda: list(STAGES))  # type: ignore[arg-type]
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        if self.mixed_precision is False:  # YAML reads an unquoted `no` as false.
            object.__setattr__(self, "mixed_precision", "no")
        require(isinstance(self.mixed_precision, str), "mixed_precision", self.mixed_precision, "no, fp16 or bf16")
        require(bool(self.output_dir.strip()), "output_dir", self.output_dir, "a folder")
        require(self.seed >= 0, "seed", self.seed, "at least 0")
        in_order = [stage for stage in STAGES if stage in self.stages]
        require(
            bool(self.stages) and self.stages == in_order, "stages", self.stages, f"some of {list(STAGES)}, in order"
        )

        prediction_type = self.diffusion.scheduler.get("prediction_type")
        if prediction_type == "mean":
            allowed = "'no' with diffusion.scheduler.prediction_type 'mean', whose x_0 needs float32 predictions"
            require(self.mixed_precision == "no", "mixed_precision", self.mixed_precision, allowed)

    def stage(self, name: str) -> StageConfig:
        """Return the block of the stage `name`, without steps where there is nothing to train by itself."""
        block: StageConfig = getattr(self, name)
        if isinstance(block, TextEncoderConfig) and block.training != "contrastive":
            return replace(block, max_train_steps=0, use_ema=False)
        return block
