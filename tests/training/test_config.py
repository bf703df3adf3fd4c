"""The configuration: what is refused, what is allowed, and what follows from what."""

from __future__ import annotations

import dataclasses
import math

import pytest

from tests.training.configurations import BLOCKS, config_of, with_values
from training.config import STAGES, ConfigError, TrainConfig

LEAST = {"data.dataset": "digits", "output_dir": "out"}
INF, NAN = math.inf, math.nan

SEGMENTATION = {"stages": ["segmentation"], "data.dataset": "cells"}

IMPOSSIBLE = [
    ("data.dataset", " ", {}),
    ("data.resolution", 7, {}),
    ("data.max_image_pixels", 0, {}),
    ("data.num_samples", 0, {}),
    ("data.shuffle_buffer_size", 0, {}),
    ("data.validation_fraction", -0.1, {}),
    ("data.validation_fraction", 1.0, {}),
    ("data.validation_fraction", NAN, {}),
    ("data.dataloader_num_workers", -1, {}),
    ("data.streaming", True, {}),
    ("data.aspect_ratio_bucket_step", 8, {"data.dataset": "shards", "data.streaming": True}),
    ("output_dir", "", {}),
    ("seed", -1, {}),
    ("mixed_precision", True, {}),
    ("mixed_precision", "bf16", {"diffusion.scheduler": {"prediction_type": "mean"}}),
    ("stages", [], {}),
    ("stages", ["diffusion", "autoencoder"], {}),
    ("stages", ["autoencoder", "autoencoder"], {}),
    ("text_encoder.projection_dim", 0, {}),
    ("text_encoder.vocab_size", 513, {}),
    ("text_encoder.thumbnail_weight", -1.0, {}),
    ("text_encoder.thumbnail_weight", INF, {}),
    ("text_encoder.thumbnail_weight", 1.0, {"text_encoder.training": "joint"}),
    ("text_encoder.pretrained_model_name_or_path", None, {"text_encoder.training": "frozen"}),
    ("text_encoder.pretrained_model_name_or_path", "some/model", {}),
    ("text_encoder.gradient_accumulation_steps", 2, {}),
    ("autoencoder.likelihood_std", 0.0, {}),
    ("autoencoder.likelihood_std", INF, {}),
    ("autoencoder.kl_scale", -1.0, {}),
    ("autoencoder.kl_scale", INF, {}),
    ("autoencoder.perceptual.scale", -1.0, {}),
    ("autoencoder.perceptual.scale", INF, {}),
    ("autoencoder.perceptual.model_name_or_path", " ", {}),
    ("autoencoder.adversarial.scale", -0.1, {}),
    ("autoencoder.adversarial.scale", NAN, {}),
    ("autoencoder.adversarial.start_step", -1, {}),
    ("autoencoder.adversarial.learning_rate", 0.0, {}),
    (
        "autoencoder.adversarial.start_step",
        500,
        {"autoencoder.adversarial.scale": 0.1, "autoencoder.max_train_steps": 500},
    ),
    ("autoencoder.adversarial.base_channels", 12, {}),
    ("autoencoder.adversarial.num_layers", 0, {}),
    ("diffusion.proportion_empty_prompts", -0.1, {}),
    ("diffusion.proportion_empty_prompts", 1.1, {}),
    ("diffusion.vlb_scale", 0.0, {}),
    ("diffusion.vlb_scale", INF, {}),
    ("diffusion.snr_gamma", 0.0, {}),
    ("diffusion.snr_gamma", INF, {}),
    ("diffusion.noise_offset", -0.1, {}),
    ("diffusion.noise_offset", INF, {}),
    ("diffusion.text_encoder_learning_rate", 0.0, {}),
    ("diffusion.text_encoder_learning_rate", INF, {}),
    ("diffusion.logit_mean", INF, {}),
    ("diffusion.logit_std", 0.0, {}),
    ("diffusion.logit_mean_start", 4.0, {}),
    ("diffusion.logit_mean_start", INF, {"diffusion.weighting_scheme": "logit_normal"}),
    ("diffusion.logit_mean_start_samples", 0, {}),
    (
        "diffusion.train_text_encoder",
        True,
        {"text_encoder.training": "frozen", "text_encoder.pretrained_model_name_or_path": "a"},
    ),
    ("diffusion.pre_compute_text_embeddings", True, {"diffusion.train_text_encoder": True}),
    ("diffusion.pre_compute_text_embeddings", True, {"text_encoder.training": "joint"}),
    ("diffusion.pre_compute_text_embeddings", True, {"data.streaming": True, "data.dataset": "owner/name"}),
    ("diffusion.cache_latents", True, {"data.random_flip": True}),
    ("diffusion.cache_latents", True, {"data.center_crop": False}),
    ("diffusion.cache_latents", True, {"data.aspect_ratio_bucket_step": 8}),
    ("data.aspect_ratio_bucket_step", 0, {}),
    ("data.aspect_ratio_bucket_step", 12, {}),
    ("data.aspect_ratio_bucket_step", 128, {}),
    ("diffusion.latent_cache_dir", "latents", {}),
    ("diffusion.latent_cache_dir", " ", {"diffusion.cache_latents": True}),
    ("segmentation.border_weight", -1.0, {}),
    ("segmentation.border_weight", INF, {}),
    ("segmentation.border_sigma", 0.0, {}),
    ("segmentation.border_sigma", INF, {}),
    ("segmentation.elastic_std", -1.0, {}),
    ("segmentation.elastic_std", INF, {}),
    ("segmentation.grey_value_std", -0.1, {}),
    ("segmentation.grey_value_std", INF, {}),
    ("segmentation.max_rotation", -1.0, {}),
    ("segmentation.max_rotation", 181.0, {}),
    ("data.dataset", "cells", {}),
    ("data.dataset", "shapes", SEGMENTATION),
    ("data.label_column", "mask", {}),
    ("data.label_type", "classes", {}),
    ("data.aspect_ratio_bucket_step", 8, SEGMENTATION),
    ("data.streaming", True, {**SEGMENTATION, "data.dataset": "folder"}),
    ("data.shape_pairs", [["ring", "green"]], SEGMENTATION),
    ("stages", ["diffusion", "segmentation"], {}),
    ("evaluation.num_inference_steps", 0, {}),
    ("evaluation.guidance_scale", -1.0, {}),
    ("evaluation.guidance_scale", INF, {}),
    ("evaluation.eta", -0.1, {}),
    ("evaluation.eta", 1.1, {}),
    ("hub.hub_model_id", "nobody", {}),
    ("hub.hub_model_id", None, {"hub.push_to_hub": True}),
    ("hub.hub_revision", " ", {}),
    ("hub.push_retries", -1, {}),
    *(
        (f"{stage}.{name}", value, {})
        for stage in STAGES
        for name, values in {
            "max_train_steps": (-1,),
            "train_batch_size": (0,),
            "gradient_accumulation_steps": (0,),
            "learning_rate": (0.0, -1e-4, INF, NAN),
            "lr_warmup_steps": (-1, 10),
            "adam_beta1": (-0.1, 1.0, NAN),
            "adam_beta2": (-0.1, 1.0, NAN),
            "adam_weight_decay": (-0.1, INF, NAN),
            "adam_epsilon": (0.0, INF),
            "max_grad_norm": (0.0, -1.0, INF),
            "ema_decay": (-0.1, 1.0),
            "sgd_momentum": (-0.1, 1.0, NAN),
            "checkpointing_steps": (0,),
            "checkpoints_total_limit": (0,),
            "validation_steps": (0,),
            "logging_steps": (0,),
        }.items()
        for value in values
    ),
]


@pytest.mark.parametrize(("key", "value", "others"), IMPOSSIBLE)
def test_impossible_values_are_named_in_one_line(key, value, others):
    with pytest.raises(ConfigError) as caught:
        config_of(with_values({**LEAST, **others, key: value}))
    message = str(caught.value)
    assert message.startswith(f"{key} = {value!r}: must be ")
    assert "\n" not in message


def test_every_number_has_a_bound():
    """A field that takes numbers and refuses none of them has been forgotten here or there."""
    blocks = {f"{block}.": kind for block, kind in BLOCKS.items()} | {"": TrainConfig}
    numbers = {
        prefix + field.name
        for prefix, kind in blocks.items()
        for field in dataclasses.fields(kind)
        if {"int", "float"} & set(str(field.type).replace("|", " ").split())
    }
    assert len(numbers) > 50
    assert numbers == {key for key, _, _ in IMPOSSIBLE} & numbers


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"mixed_precision": False},
        {"mixed_precision": "bf16"},
        {"mixed_precision": "no", "diffusion.scheduler": {"prediction_type": "mean"}},
        {"stages": ["diffusion"]},
        {"stages": ["text_encoder", "diffusion"]},
        SEGMENTATION,
        {**SEGMENTATION, "data.dataset": "folder", "data.label_column": "mask", "data.label_type": "classes"},
        {"autoencoder.lr_scheduler": "constant_with_warmup", "autoencoder.lr_warmup_steps": 10},
        {"autoencoder.max_train_steps": 0, "autoencoder.kl_scale": 0.0},
        {"diffusion.proportion_empty_prompts": 1.0, "diffusion.checkpoints_total_limit": None},
        {"diffusion.cache_latents": True},
        {"text_encoder.training": "joint", "text_encoder.gradient_accumulation_steps": 4},
        {"text_encoder.training": "joint", "text_encoder.pretrained_model_name_or_path": "some/model"},
        {"text_encoder.training": "frozen", "text_encoder.pretrained_model_name_or_path": "some/model"},
    ],
)
def test_what_is_allowed(values):
    assert isinstance(config_of(with_values({**LEAST, **values})), TrainConfig)


def test_yaml_reads_an_unquoted_no_as_false():
    assert config_of(with_values({**LEAST, "mixed_precision": False})).mixed_precision == "no"


def test_a_configuration_cannot_be_changed():
    config = config_of(with_values(LEAST))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]


def test_default_models_are_not_shared():
    one, other = config_of(with_values(LEAST)), config_of(with_values(LEAST))
    assert one == other
    one.diffusion.unet["block_out_channels"].append(7)
    assert one != other


@pytest.mark.parametrize("training", ["joint", "frozen"])
def test_a_text_encoder_without_a_stage_of_its_own_takes_no_steps(training):
    path = "some/model" if training == "frozen" else None
    values = {"text_encoder.training": training, "text_encoder.pretrained_model_name_or_path": path}
    config = config_of(with_values({**LEAST, **values}))
    assert (config.stage("text_encoder").max_train_steps, config.stage("text_encoder").use_ema) == (0, False)
    assert config.stage("diffusion") is config.diffusion


def test_each_stage_knows_its_name():
    config = config_of(with_values(LEAST))
    assert [config.stage(name).stage for name in STAGES] == list(STAGES)
