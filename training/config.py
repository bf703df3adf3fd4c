"""The configuration of a run: frozen dataclasses, validated as they are built. Imports nothing else of the project.

One YAML file is one whole run, and its keys are the fields below. The blocks of the stages are in `config_stages.py`,
`config_autoencoder.py`, `config_diffusion.py` (with `config_distillation.py`) and `config_segmentation.py`, the others
in `config_evaluation.py`, `config_card.py` and `config_hub.py`; reading, writing and comparing configurations is in
`config_io.py`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from training.config_autoencoder import AdversarialConfig, AutoencoderConfig, PerceptualConfig
from training.config_card import CardConfig
from training.config_diffusion import DiffusionConfig, LoraConfig
from training.config_distillation import DistillationConfig
from training.config_evaluation import EvaluationConfig, sampling_of_student
from training.config_hub import HubConfig
from training.config_segmentation import SegmentationConfig
from training.config_stages import ConfigError, StageConfig, TextEncoderConfig, require

__all__ = [
    "STAGES",
    "AdversarialConfig",
    "AutoencoderConfig",
    "CardConfig",
    "ConfigError",
    "DataConfig",
    "DiffusionConfig",
    "DistillationConfig",
    "EvaluationConfig",
    "HubConfig",
    "LoraConfig",
    "PerceptualConfig",
    "SegmentationConfig",
    "StageConfig",
    "TextEncoderConfig",
    "TrainConfig",
    "require",
]

STAGES = ("text_encoder", "autoencoder", "diffusion", "segmentation")
_OF_DIFFUSION = STAGES[:3]

StageName = Literal["text_encoder", "autoencoder", "diffusion", "segmentation"]
Tracker = Literal["tensorboard", "wandb", "trackio"]


@dataclass(frozen=True)
class DataConfig:
    """Which captioned or annotated images a run learns from.

    Args:
        dataset: `digits`, `shapes`, `emoji`, a folder with `metadata.jsonl`, a folder saved by `datasets`, or a Hub
            name. For segmentation: `cells`, such a folder or name, a folder with `images` and `labels` in it, or one
            with TIFF stacks `train-volume.tif` and `train-labels.tif`.
        dataset_config_name: Configuration of a Hub data set.
        dataset_revision: Branch, tag or commit of a Hub data set.
        image_column: Column with the images.
        caption_column: Column with the captions (a string, or a list of strings of which one is drawn each time).
        label_column: Column with the label images of segmentation; in `metadata.jsonl`, their paths.
        label_type: What the numbers in label images are: `instances`, 0 for the background and another number for
            each object, or `classes`.
        resolution: Side of the square training images, pixels; for segmentation that of the network's input.
        aspect_ratio_bucket_step: Train the autoencoder and the U-Net on pictures of several shapes: the sizes whose
            sides are multiples of this, whose area is about `resolution` squared and whose longer side is at most
            twice the shorter; every picture is cropped to the nearest. Null trains on squares.
        center_crop: Crop the centre; otherwise the place of the crop is drawn anew each time, as it always is for
            segmentation.
        random_flip: Mirror half of the images. Off by default, since a mirrored image falsifies its caption.
        on_bad_sample: What an unreadable or absurdly large image or a missing caption does.
        max_image_pixels: Images with more pixels than this are bad samples.
        num_samples: Size of a generated data set (`shapes`, `cells`).
        shape_pairs: Pairs of shape and colour, such as `[[ring, green]]`, that `shapes` holds out; given, training
            sees the scenes of the split `pair` that hold one of these and no other. Empty: the split `seen`.
        validation_fraction: Part of a folder or Hub data set without a validation split that is held out.
        dataloader_num_workers: Worker processes that load images; 0 loads in the training process.
        streaming: Read every image where it lies when it is needed, from `.tar` (webdataset) or `.parquet` shards;
            `dataset` is then a folder, a URL (`https://host/{000..010}.tar`, `hf://datasets/...`) or a Hub name. In
            `.tar` files, `image_column` and `caption_column` are extensions, the latter also a key of `.json` members.
            A tokenizer learns from the first million captions. `on_bad_sample: skip` also puts the next image in the
            place of one that is found to be damaged in training.
        shuffle_buffer_size: With `streaming`, the samples that are shuffled together, after the order of the shards.
    """

    dataset: str
    dataset_config_name: str | None = None
    dataset_revision: str | None = None
    image_column: str = "image"
    caption_column: str = "text"
    label_column: str = "label"
    label_type: Literal["instances", "classes"] = "instances"
    resolution: int = 64
    aspect_ratio_bucket_step: int | None = None
    center_crop: bool = True
    random_flip: bool = False
    on_bad_sample: Literal["error", "skip"] = "error"
    max_image_pixels: int = 100_000_000
    num_samples: int = 50_000
    shape_pairs: list[list[str]] = field(default_factory=list)
    validation_fraction: float = 0.0
    dataloader_num_workers: int = 0
    streaming: bool = False
    shuffle_buffer_size: int = 10_000

    def __post_init__(self) -> None:
        require(bool(self.dataset.strip()), "data.dataset", self.dataset, "the name or the folder of a data set")
        require(self.resolution >= 8, "data.resolution", self.resolution, "at least 8")
        step = self.aspect_ratio_bucket_step
        fits = step is None or (step >= 1 and self.resolution % step == 0)
        allowed = f"a divisor of data.resolution, {self.resolution}, or null"
        require(fits, "data.aspect_ratio_bucket_step", step, allowed)
        require(self.max_image_pixels >= 1, "data.max_image_pixels", self.max_image_pixels, "at least 1")
        require(self.num_samples >= 1, "data.num_samples", self.num_samples, "at least 1")
        require(0 <= self.validation_fraction < 1, "data.validation_fraction", self.validation_fraction, "in [0, 1)")
        workers = self.dataloader_num_workers
        require(workers >= 0, "data.dataloader_num_workers", workers, "at least 0")
        require(self.shuffle_buffer_size >= 1, "data.shuffle_buffer_size", self.shuffle_buffer_size, "at least 1")
        allowed = "null with data.streaming, as the sizes of images are not known before they are read"
        require(not (self.streaming and step is not None), "data.aspect_ratio_bucket_step", step, allowed)
        is_made = self.dataset in ("digits", "shapes", "emoji", "cells")
        allowed = f"false for {self.dataset}, whose images are made or loaded whole"
        require(not (self.streaming and is_made), "data.streaming", self.streaming, allowed)

    def captioned(self) -> dict[str, Any]:
        """Return the keys that say which captioned images there are, without those of labels and of loading."""
        others = ("dataloader_num_workers", "label_column", "label_type")
        return {key: value for key, value in asdict(self).items() if key not in others}


@dataclass(frozen=True)
class TrainConfig:
    """One whole run, from captioned or annotated images to a repository that `from_pretrained` loads.

    Args:
        data: The images.
        output_dir: Folder of the run.
        seed: Everything random in the run follows from it.
        mixed_precision: `no`, `fp16` or `bf16`; weights and their average stay float32.
        allow_tf32: Let Ampere and later GPUs round the inputs of float32 products to 10 bits of mantissa.
        report_to: Where metrics and validation pictures go besides the folder of the run: `tensorboard`, `wandb`,
            `trackio`, a list of some, or `none`.
        stages: What is trained, in this order; segmentation stands alone.
        text_encoder: First stage.
        autoencoder: Second stage.
        diffusion: Third stage.
        segmentation: The stage of a segmentation run.
        evaluation: How the result is sampled.
        card: What the model card is to say that a program cannot know.
        hub: Whether and where it is published.
    """

    data: DataConfig
    output_dir: str
    seed: int = 0
    mixed_precision: Literal["no", "fp16", "bf16"] | bool = "no"
    allow_tf32: bool = False
    report_to: Tracker | Literal["none"] | list[Tracker] = "tensorboard"
    stages: list[StageName] = field(default_factory=lambda: list(_OF_DIFFUSION))  # type: ignore[arg-type]
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    card: CardConfig = field(default_factory=CardConfig)
    hub: HubConfig = field(default_factory=HubConfig)

    def __post_init__(self) -> None:
        if self.mixed_precision is False:  # YAML reads an unquoted `no` as false.
            object.__setattr__(self, "mixed_precision", "no")
        require(isinstance(self.mixed_precision, str), "mixed_precision", self.mixed_precision, "no, fp16 or bf16")
        require(bool(self.output_dir.strip()), "output_dir", self.output_dir, "a folder")
        require(self.seed >= 0, "seed", self.seed, "at least 0")
        in_order = [stage for stage in _OF_DIFFUSION if stage in self.stages]
        fits = self.segments or (bool(self.stages) and self.stages == in_order)
        require(fits, "stages", self.stages, f"some of {list(_OF_DIFFUSION)}, in order, or ['segmentation']")
        self._check_kind_of_data()

        allowed = "null unless the run ends with a whole pipeline: adapters and parts of one have no variants"
        makes_pipeline = self.stages[-1] == "diffusion" and not self.diffusion.lora.rank
        require(self.hub.variant is None or makes_pipeline, "hub.variant", self.hub.variant, allowed)

        prediction_type = self.diffusion.scheduler.get("prediction_type")
        if prediction_type == "mean":
            allowed = "'no' with diffusion.scheduler.prediction_type 'mean', whose x_0 needs float32 predictions"
            require(self.mixed_precision == "no", "mixed_precision", self.mixed_precision, allowed)

        path = self.diffusion.pretrained_model_name_or_path
        allowed = "['diffusion'] with diffusion.pretrained_model_name_or_path, which brings the other models along"
        require(path is None or self.stages == ["diffusion"], "stages", self.stages, allowed)

        key, allowed = "diffusion.train_text_encoder", "false with text_encoder.training 'frozen' ('joint' trains it)"
        is_frozen = self.text_encoder.training == "frozen"
        require(not (self.diffusion.train_text_encoder and is_frozen), key, True, allowed)

        if self.diffusion.pre_compute_text_embeddings:
            key = "diffusion.pre_compute_text_embeddings"
            allowed = "false with text_encoder.training 'joint', which changes them"
            require(self.text_encoder.training != "joint", key, True, allowed)
            allowed = "false with data.streaming, whose captions are read as they come"
            require(not self.data.streaming, key, True, allowed)

        if self.diffusion.distillation.is_on:
            self.evaluation.check_left_to_student()

        is_augmented = self.data.random_flip or not self.data.center_crop
        allowed = "false with data.random_flip or without data.center_crop, which change the images each time"
        require(not (self.diffusion.cache_latents and is_augmented), "diffusion.cache_latents", True, allowed)

        has_shapes = self.data.aspect_ratio_bucket_step is not None
        allowed = "false with data.aspect_ratio_bucket_step, which gives the latents several shapes"
        require(not (self.diffusion.cache_latents and has_shapes), "diffusion.cache_latents", True, allowed)
        is_full = self.autoencoder.vae.get("posterior") == "cholesky"
        allowed = "false with autoencoder.vae.posterior 'cholesky', whose covariances are not cached"
        require(not (self.diffusion.cache_latents and is_full), "diffusion.cache_latents", True, allowed)
        allowed = "null with autoencoder.vae.posterior 'cholesky', which is for images of one size"
        step = self.data.aspect_ratio_bucket_step
        require(not (is_full and has_shapes), "data.aspect_ratio_bucket_step", step, allowed)

    def _check_kind_of_data(self) -> None:
        """Refuse keys that only captioned, or only annotated images have."""
        data = self.data
        if not self.segments:
            allowed = f"one with captions for {self.stages}; cells has labels"
            require(data.dataset != "cells", "data.dataset", data.dataset, allowed)
            for key, default in (("label_column", "label"), ("label_type", "instances")):
                require(
                    getattr(data, key) == default, f"data.{key}", getattr(data, key), "left out without segmentation"
                )
            return
        allowed = "'cells', or a folder or Hub name with label images, for segmentation"
        require(data.dataset not in ("digits", "shapes", "emoji"), "data.dataset", data.dataset, allowed)
        step, pairs = data.aspect_ratio_bucket_step, data.shape_pairs
        require(step is None, "data.aspect_ratio_bucket_step", step, "null for segmentation")
        require(not data.streaming, "data.streaming", data.streaming, "false for segmentation")
        require(not pairs, "data.shape_pairs", pairs, "empty for segmentation")

    @property
    def segments(self) -> bool:
        """Whether the run trains a segmentation."""
        return self.stages == ["segmentation"]

    @property
    def weight_map_dir(self) -> Path:
        """The folder of the weight maps of segmentation."""
        return Path(self.output_dir) / "weight_maps"

    @property
    def trackers(self) -> list[str]:
        """What `report_to` names, each once."""
        named = self.report_to if isinstance(self.report_to, list) else [self.report_to]
        return [name for name in dict.fromkeys(named) if name != "none"]

    @property
    def sampling(self) -> EvaluationConfig:
        """How the result is sampled: as `evaluation` says, or as a distilled student has learned it."""
        distillation = self.diffusion.distillation
        if not distillation.is_on:
            return self.evaluation
        return replace(self.evaluation, **sampling_of_student(distillation.num_inference_steps))

    @property
    def latent_cache_dir(self) -> str:
        """The folder of the encoded images."""
        return self.diffusion.latent_cache_dir or f"{self.output_dir}/latents"

    def stage(self, name: str) -> StageConfig:
        """Return the block of the stage `name`, without steps where there is nothing to train by itself."""
        block: StageConfig = getattr(self, name)
        if isinstance(block, TextEncoderConfig) and block.training != "contrastive":
            return replace(block, max_train_steps=0, use_ema=False)
        return block
