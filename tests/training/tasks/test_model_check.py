"""A configuration whose models cannot be, or do not fit together, is refused before anything runs."""

from __future__ import annotations

import re

import pytest
import torch

from sd_pipeline import SDInpaintPipeline
from tests.components import tiny_components, tiny_text_encoder, tiny_tokenizer
from tests.training.configurations import WITHOUT_TEXT, tiny_train_config
from training.config import ConfigError
from training.tasks.model_check import check_models


def changed(block: str, **keys) -> dict:
    """Change keys of a model's block of the tiny configuration."""
    stage, name = block.split(".")
    return {f"{stage}__{name}": {**getattr(getattr(tiny_train_config(), stage), name), **keys}}


IN_PIXELS = {"stages": ["diffusion"], "diffusion__unet": WITHOUT_TEXT, "diffusion__cache_latents": False}


@pytest.mark.parametrize(
    ("values", "finished"),
    [
        ({}, []),
        ({"text_encoder__training": "joint"}, []),
        ({"stages": ["autoencoder", "diffusion"], "diffusion__unet": WITHOUT_TEXT}, []),
        (IN_PIXELS, []),
        ({"stages": ["diffusion"]}, ["text_encoder", "autoencoder"]),
        ({"stages": ["text_encoder"]}, []),
        ({"autoencoder__vae": {"posterior": "isotropic"}, "stages": ["autoencoder"]}, []),
        ({**changed("autoencoder.vae", posterior="cholesky"), "diffusion__cache_latents": False}, []),
        ({"evaluation__scheduler": "DPMSolverMultistepScheduler"}, []),
        ({"data__aspect_ratio_bucket_step": 8, "diffusion__cache_latents": False}, []),
        ({**IN_PIXELS, "data__aspect_ratio_bucket_step": 2}, []),
        ({"stages": ["autoencoder"], "data__aspect_ratio_bucket_step": 4, "diffusion__cache_latents": False}, []),
        ({"stages": ["text_encoder"], "data__aspect_ratio_bucket_step": 1, "diffusion__cache_latents": False}, []),
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
        (
            {
                "diffusion__objective": "hybrid",
                **changed("diffusion.scheduler", variance_type="learned_range"),
                "evaluation__scheduler": "DDIMScheduler",
            },
            "evaluation.scheduler = 'DDIMScheduler': a learned variance is used by DDPMScheduler, SDDDPMScheduler",
        ),
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


def test_a_u_net_that_cannot_hear_a_pretrained_text_encoder(tmp_path):
    """The width of pretrained text is known, and compared, before the stages that come first are trained."""
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    tiny_text_encoder(tokenizer).save_pretrained(tmp_path / "text_encoder")
    pretrained = {
        "text_encoder__training": "frozen",
        "text_encoder__pretrained_model_name_or_path": str(tmp_path),
    }
    check_models(tiny_train_config(**pretrained))
    with pytest.raises(ConfigError, match=r"diffusion\.unet\.cross_attention_dim = 7: .* need 32"):
        check_models(tiny_train_config(**pretrained, **changed("diffusion.unet", cross_attention_dim=7)))


@pytest.mark.parametrize(
    ("values", "finished", "factors"),
    [
        ({}, [], (8, 4, 2)),
        ({"stages": ["autoencoder"], "data__aspect_ratio_bucket_step": 2}, [], (4, 4, 1)),
        ({"stages": ["diffusion"]}, ["text_encoder", "autoencoder"], (8, 4, 2)),
        ({**IN_PIXELS, "data__aspect_ratio_bucket_step": 1}, [], (2, 1, 2)),
    ],
)
def test_sizes_of_buckets_that_the_models_cannot_halve(values, finished, factors):
    values = {"data__aspect_ratio_bucket_step": 4, "diffusion__cache_latents": False, **values}
    step, (multiple, of_vae, of_unet) = values["data__aspect_ratio_bucket_step"], factors
    message = (
        f"data.aspect_ratio_bucket_step = {step}: must be a multiple of {multiple}, as the autoencoder shrinks "
        f"pictures by {of_vae} and the U-Net what it sees by {of_unet}"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        check_models(tiny_train_config(**values), finished)


def test_buckets_of_a_pretrained_model():
    pretrained = SDInpaintPipeline(**tiny_components())
    values = {"stages": ["diffusion"], "diffusion__cache_latents": False}
    check_models(tiny_train_config(**values, data__aspect_ratio_bucket_step=8), pretrained=pretrained)
    with pytest.raises(
        ConfigError, match=r"^data\.aspect_ratio_bucket_step = 4: must be a multiple of 8, .* by 4 .* 2$"
    ):
        check_models(tiny_train_config(**values, data__aspect_ratio_bucket_step=4), pretrained=pretrained)
