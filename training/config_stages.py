"""How a stage is trained, and the block of the first one. Imports nothing of the project.

The keys of a model are the arguments of its class; a model block that is given replaces the default as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

LearningRateSchedule = Literal[
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"
]


INFINITY = float("inf")


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
        optimizer: `adamw`, or `sgd`: stochastic gradient descent with momentum, without weight decay.
        sgd_momentum: Momentum of `sgd`.
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
        on_non_finite: What a loss or gradient that is infinite or NaN does: `stop` the run, or `skip` the update. What
            met it is written to `STAGE/non_finite.jsonl`; more than 10 skipped updates in a row stop the run.
    """

    max_train_steps: int = 10_000
    train_batch_size: int = 32
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-4
    lr_scheduler: LearningRateSchedule = "constant"
    lr_warmup_steps: int = 0
    optimizer: Literal["adamw", "sgd"] = "adamw"
    sgd_momentum: float = 0.9
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
    on_non_finite: Literal["stop", "skip"] = "stop"

    @property
    def stage(self) -> str:
        """The name of the block in the configuration."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        for name in ("train_batch_size", "gradient_accumulation_steps", "checkpointing_steps", "logging_steps"):
            require(getattr(self, name) >= 1, f"{self.stage}.{name}", getattr(self, name), "at least 1")
        for name in ("max_train_steps", "lr_warmup_steps", "adam_weight_decay"):
            value = getattr(self, name)
            require(0 <= value < INFINITY, f"{self.stage}.{name}", value, "at least 0 and finite")
        for name in ("learning_rate", "max_grad_norm", "adam_epsilon"):
            value = getattr(self, name)
            require(0 < value < INFINITY, f"{self.stage}.{name}", value, "above 0 and finite")
        for name in ("adam_beta1", "adam_beta2", "ema_decay", "sgd_momentum"):
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
        thumbnail_weight: Factor of the squared error of an 8x8 thumbnail that contrastive training lets the text
            encoder draw from a caption; it teaches relations, which contrast alone does not. 0 draws none.
    """

    training: Literal["contrastive", "joint", "frozen"] = "contrastive"
    pretrained_model_name_or_path: str | None = None
    vocab_size: int = 8192
    model: dict[str, Any] = field(default_factory=_default_text_model)
    vision_model: dict[str, Any] = field(default_factory=_default_vision_model)
    projection_dim: int = 256
    thumbnail_weight: float = 0.0

    @property
    def stage(self) -> str:
        """The name of the block in the configuration."""
        return "text_encoder"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.projection_dim >= 1, "text_encoder.projection_dim", self.projection_dim, "at least 1")
        require(self.vocab_size >= 514, "text_encoder.vocab_size", self.vocab_size, "at least 514 (bytes and marks)")
        weight = self.thumbnail_weight
        require(0 <= weight < INFINITY, "text_encoder.thumbnail_weight", weight, "at least 0 and finite")
        if self.training != "contrastive":
            require(weight == 0, "text_encoder.thumbnail_weight", weight, "0 unless training is 'contrastive'")
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
