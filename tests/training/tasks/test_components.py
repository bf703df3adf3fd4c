"""Building models from a configuration, and refusing those that cannot be, before anything runs."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from transformers import CLIPTextModel

from sd_pipeline import SDDDPMScheduler
from tests.components import tiny_text_encoder, tiny_tokenizer
from tests.training.configurations import tiny_train_config
from training.config import ConfigError, TrainConfig
from training.data.clip_tokenizer import train_clip_tokenizer
from training.tasks.components import (
    build_clip_model,
    build_scheduler,
    build_text_model,
    build_unet,
    build_vae,
    check_models,
    downsampling_factor,
    load_frozen_models,
    load_text_encoder,
    recommended_scheduler,
    text_model_config,
)

WITHOUT_TEXT = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}


def changed(block: str, **keys) -> dict:
    """Change keys of a model's block of the tiny configuration."""
    stage, name = block.split(".")
    return {f"{stage}__{name}": {**getattr(getattr(tiny_train_config(), stage), name), **keys}}


@pytest.mark.parametrize(
    ("values", "finished"),
    [
        ({}, []),
        ({"text_encoder__training": "joint"}, []),
        ({"stages": ["autoencoder", "diffusion"], "diffusion__unet": WITHOUT_TEXT}, []),
        ({"stages": ["diffusion"], "diffusion__unet": WITHOUT_TEXT, "diffusion__cache_latents": False}, []),
        ({"stages": ["diffusion"]}, ["text_encoder", "autoencoder"]),
        ({"stages": ["text_encoder"]}, []),
        ({"autoencoder__vae": {"posterior": "isotropic"}, "stages": ["autoencoder"]}, []),
        ({"evaluation__scheduler": "DPMSolverMultistepScheduler"}, []),
        (
            {
                **changed("diffusion.scheduler", prediction_type="mean"),
                "evaluation__scheduler": "SDDDPMScheduler",
            },
            [],
        ),
    ],
)
def test_models_that_fit(values, finished):
    check_models(tiny_train_config(**values), finished)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data__resolution": 30}, "data.resolution = 30: must be a multiple of 4"),
        (changed("text_encoder.model", hidden_siz=8), "text_encoder.model.hidden_siz: unknown key; allowed: "),
        (changed("text_encoder.model", hidden_size="wide"), "text_encoder.model: .*hidden_size.*wide"),
        (changed("text_encoder.model", hidden_size=15), "text_encoder.model: .*15.*attention heads"),
        (changed("text_encoder.model", num_attention_heads=0), "text_encoder.model: "),
        (changed("text_encoder.model", max_position_embeddings=0), "text_encoder.model: "),
        (changed("text_encoder.model", eos_token_id=2), "text_encoder.model.eos_token_id: cannot be given"),
        (changed("text_encoder.model", vocab_size=49408), "text_encoder.model.vocab_size: cannot be given"),
        (changed("text_encoder.vision_model", depth=8), "text_encoder.vision_model.depth: unknown key"),
        (changed("text_encoder.vision_model", patch_size=64), "text_encoder.vision_model: "),
        (changed("text_encoder.vision_model", image_size=64), "text_encoder.vision_model.image_size: cannot be given"),
        (changed("autoencoder.vae", latent_chanels=8), "autoencoder.vae: .*latent_chanels"),
        (changed("autoencoder.vae", norm_num_groups=3), "autoencoder.vae: .*norm_num_groups"),
        (changed("autoencoder.vae", block_out_channels=4), "autoencoder.vae: "),
        (changed("autoencoder.vae", posterior="round"), "autoencoder.vae: .*posterior.*isotropic"),
        (changed("autoencoder.vae", use_quant_conv=False), "autoencoder.vae.use_quant_conv = False: must be true"),
        (changed("autoencoder.vae", use_post_quant_conv=False), "autoencoder.vae.use_post_quant_conv = False"),
        (changed("diffusion.unet", layer_per_block=1), "diffusion.unet: .*layer_per_block"),
        (changed("diffusion.unet", in_channels=9), "diffusion.unet.in_channels = 9: .* need 4"),
        (changed("diffusion.unet", sample_size=9), "diffusion.unet.sample_size = 9: .* need 8"),
        (changed("diffusion.unet", cross_attention_dim=9), "diffusion.unet.cross_attention_dim = 9: .* need 16"),
        (changed("diffusion.unet", block_out_channels=[8]), "diffusion.unet: .*block_out_channels"),
        (changed("diffusion.unet", block_out_channels="wide"), "diffusion.unet: "),
        (changed("diffusion.unet", norm_num_groups=5), "diffusion.unet: "),
        (changed("diffusion.unet", act_fn="steep"), "diffusion.unet: .*steep"),
        (
            changed("diffusion.unet", down_block_types=["Downward", "DownBlock2D"]),
            "diffusion.unet: .*Downward",
        ),
        ({"diffusion__unet": WITHOUT_TEXT}, "diffusion.unet: no block attends to the text encoder"),
        ({"stages": ["autoencoder", "diffusion"]}, "diffusion.unet: CrossAttnDownBlock2D attends to a text encoder"),
        (
            {"stages": ["diffusion"], "diffusion__unet": WITHOUT_TEXT},
            "diffusion.cache_latents = True: a model in pixel space",
        ),
        (changed("diffusion.scheduler", beta_start=-1.0), "diffusion.scheduler: .*beta_start"),
        (changed("diffusion.scheduler", beta_began=0.1), "diffusion.scheduler: .*beta_began"),
        (changed("diffusion.scheduler", variance_type="learned"), "diffusion.scheduler.variance_type = 'learned'"),
        ({"evaluation__scheduler": "DIMScheduler"}, "evaluation.scheduler = 'DIMScheduler': must be .*DDIMScheduler"),
        ({"evaluation__scheduler": "UNet2DModel"}, "evaluation.scheduler = 'UNet2DModel': must be "),
        (
            {"evaluation__scheduler_config": {"time_spacing": "trailing"}},
            "evaluation.scheduler_config.time_spacing: unknown key of DDIMScheduler",
        ),
        (
            {"evaluation__scheduler_config": {"beta_schedule": "steep"}},
            "evaluation.scheduler_config: .*steep",
        ),
        ({"evaluation__num_inference_steps": 1001}, "evaluation.num_inference_steps: .*1001"),
        (changed("diffusion.scheduler", prediction_type="mean"), "evaluation.scheduler: .*DDIMScheduler.*mean"),
    ],
)
def test_models_that_cannot_be(values, message):
    with pytest.raises(ConfigError, match=f"^{message}") as caught:
        check_models(tiny_train_config(**values))
    assert "\n" not in str(caught.value)


def test_checking_leaves_no_trace():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    check_models(tiny_train_config())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.empty(0).device.type == "cpu"


def test_the_u_net_follows_from_the_other_models():
    unet = build_unet(tiny_train_config(), latent_channels=4, latent_size=8, cross_attention_dim=16)
    keys = ("in_channels", "out_channels", "sample_size", "cross_attention_dim")
    assert [unet.config[key] for key in keys] == [4, 4, 8, 16]
    pixels = build_unet(tiny_train_config(diffusion__unet=WITHOUT_TEXT), 3, 32, None)
    assert [pixels.config[key] for key in keys[:3]] == [3, 3, 32]


def test_the_autoencoder_knows_its_size_and_factor():
    vae = build_vae(tiny_train_config())
    assert vae.config.sample_size == 32
    latents = vae.encode(torch.zeros(1, 3, 32, 32)).latent_dist.mode()
    assert latents.shape[-1] * downsampling_factor(vae) == 32


def test_the_vocabulary_follows_from_the_tokenizer():
    config = tiny_train_config().text_encoder
    tokenizer = train_clip_tokenizer(["a red circle"], 600, 12)
    text = text_model_config(config, tokenizer)
    assert (text.vocab_size, text.bos_token_id, text.eos_token_id) == (
        len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id
    )  # fmt: skip
    assert text_model_config(config, None).vocab_size == config.vocab_size
    clip = build_clip_model(config, tokenizer, 32)
    assert clip.config.text_config.eos_token_id == tokenizer.eos_token_id
    assert clip.config.vision_config.image_size == 32
    assert clip.text_projection.weight.shape == (config.projection_dim, 16)
    assert build_text_model(config, tokenizer).get_input_embeddings().weight.shape == (len(tokenizer), 16)


def schedulers(**values) -> tuple[SDDDPMScheduler, object]:
    config: TrainConfig = tiny_train_config(**values)
    training = build_scheduler(config, in_pixel_space=False)
    return training, recommended_scheduler(config, training)


def test_x_0_is_clipped_in_pixel_space_only():
    config = tiny_train_config()
    assert build_scheduler(config, in_pixel_space=True).config.clip_sample
    assert not build_scheduler(config, in_pixel_space=False).config.clip_sample
    asked = tiny_train_config(diffusion__scheduler={"clip_sample": True})
    assert build_scheduler(asked, in_pixel_space=False).config.clip_sample


@pytest.mark.parametrize("kind", [DDIMScheduler, DPMSolverMultistepScheduler, SDDDPMScheduler])
def test_the_published_scheduler_has_the_forward_process_of_training(kind):
    given = {"beta_schedule": "scaled_linear", "beta_end": 0.012, "prediction_type": "v_prediction"}
    training, published = schedulers(evaluation__scheduler=kind.__name__, diffusion__scheduler=given)
    assert type(published) is kind
    torch.testing.assert_close(published.alphas_cumprod, training.alphas_cumprod)
    assert published.config.prediction_type == "v_prediction"


def test_the_published_scheduler_is_the_one_that_was_asked_for():
    """Keys at their default in training are kept by `from_config` only if it does not know that they were."""
    asked = {"timestep_spacing": "trailing", "set_alpha_to_one": False, "rescale_betas_zero_snr": True}
    _, published = schedulers(evaluation__scheduler_config=asked)
    assert {key: published.config[key] for key in asked} == asked
    assert (published.config.clip_sample, published.config.steps_offset) == (False, 1)
    _, published = schedulers(evaluation__scheduler_config={"steps_offset": 0})
    assert published.config.steps_offset == 0


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    tiny_text_encoder(tokenizer).save_pretrained(folder / "text_encoder")
    return folder


def test_text_encoders_load_from_both_layouts(text_folder, tmp_path):
    tokenizer, model = load_text_encoder(str(text_folder))
    expected = tiny_text_encoder(tokenizer)
    model.half().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    flat_tokenizer, flat_model = load_text_encoder(str(tmp_path))
    assert isinstance(flat_model, CLIPTextModel)
    assert flat_model.dtype == torch.float32
    assert flat_tokenizer.get_vocab() == tokenizer.get_vocab()
    torch.testing.assert_close(flat_model.state_dict(), expected.state_dict(), rtol=1e-3, atol=1e-3)


def test_a_missing_text_encoder_is_named(tmp_path):
    with pytest.raises(
        ConfigError, match=r"text_encoder\.pretrained_model_name_or_path = .*: cannot be loaded"
    ) as caught:
        load_text_encoder(str(tmp_path / "none"))
    assert "\n" not in str(caught.value)


def test_earlier_stages_are_loaded_where_they_are(text_folder, tmp_path):
    vae = build_vae(tiny_train_config())
    vae.save_pretrained(tmp_path / "vae")
    frozen = load_frozen_models(text_folder, tmp_path, torch.device("cpu"))
    assert len(frozen.tokenizer) == frozen.text_encoder.config.vocab_size
    for key, value in vae.state_dict().items():
        assert torch.equal(frozen.vae.state_dict()[key], value)
    nothing = load_frozen_models(None, None, torch.device("cpu"))
    assert (nothing.tokenizer, nothing.text_encoder, nothing.vae) == (None, None, None)
