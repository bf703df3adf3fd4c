"""A model in one file: out, in, in a new process, through diffusers, from others, and what is refused."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from diffusers.loaders import single_file_utils
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sd_pipeline import SDAutoencoderKL, SDDDPMScheduler, SDInpaintPipeline, SDPipeline, SDUNet2DConditionModel
from sd_pipeline.publishing.repository_files import RepositoryError
from sd_pipeline.publishing.single_file import load_single_file, save_single_file
from sd_pipeline.publishing.single_file_metadata import CLIP_TOKENS
from tests.components import MAX_LENGTH, tiny_components, tiny_scheduler, tiny_tokenizer
from tests.source_files import ROOT

MODELS = ("unet", "vae", "text_encoder")
PROMPT = "a red circle"
VERSIONS = pytest.mark.parametrize("version", [1, 2], ids=["1.x", "2.x"])


def unet_of(version: int, **overrides: Any) -> SDUNet2DConditionModel:
    """Make a narrow U-Net with the structure of Stable Diffusion 1.x or 2.x."""
    widths = (32, 32, 64, 64) if version == 1 else (64, 64, 64, 64)
    config = {
        "sample_size": 8,
        "block_out_channels": widths,
        "attention_head_dim": 8 if version == 1 else (1, 1, 1, 1),
        "cross_attention_dim": 64,
        "use_linear_projection": version == 2,
    }
    return SDUNet2DConditionModel(**{**config, **overrides}).eval()


def vae_of(**overrides: Any) -> SDAutoencoderKL:
    """Make a narrow autoencoder with the structure of theirs."""
    config = {
        "block_out_channels": (32, 32, 32, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "sample_size": 64,
    }
    return SDAutoencoderKL(**{**config, **overrides}).eval()


def text_encoder_of(version: int, tokenizer: CLIPTokenizer, **overrides: Any) -> CLIPTextModel:
    """Make a narrow text encoder for this tokenizer."""
    config = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 1,
        "max_position_embeddings": MAX_LENGTH,
        "hidden_act": "quick_gelu" if version == 1 else "gelu",
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPTextModel(CLIPTextConfig(**{**config, **overrides})).eval()


def components_of(version: int = 1, in_channels: int = 4) -> dict[str, Any]:
    """Make a whole model, its weights all random: no two tensors are alike."""
    torch.manual_seed(version)
    tokenizer = tiny_tokenizer()
    components = {
        "unet": unet_of(version, in_channels=in_channels),
        "vae": vae_of(),
        "text_encoder": text_encoder_of(version, tokenizer),
        "tokenizer": tokenizer,
        "scheduler": tiny_scheduler(),
    }
    with torch.no_grad():
        for name in MODELS:
            for parameter in components[name].parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return components


def digest(components: dict[str, Any]) -> dict[str, str]:
    """Hash names, types, shapes and bits of all weights, and everything else that makes a model."""
    found = {}
    for name in MODELS:
        sha = hashlib.sha256()
        for key, tensor in components[name].state_dict().items():
            sha.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            sha.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        found[name] = sha.hexdigest()
    config = components["text_encoder"].config.to_dict()
    found["text_config"] = json.dumps({key: config[key] for key in sorted(config) if key not in ("dtype",)})
    for name in ("unet", "vae", "scheduler"):
        found[f"{name}_config"] = components[name].to_json_string()
    tokenizer = components["tokenizer"]
    found["tokenizer"] = tokenizer.backend_tokenizer.to_str() + f"{tokenizer.model_max_length}{tokenizer.pad_token}"
    return found


def latents_of(pipe: Any) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 2, "output_type": "latent", "height": 64, "width": 64}
    return pipe(PROMPT, generator=torch.Generator().manual_seed(0), **call).images


def without_metadata(file: Path, drop: tuple[str, ...] = ("sd_pipeline.",), **metadata: str) -> Path:
    """Write the same file as another tool would: weights alone."""
    weights = {name: tensor for name, tensor in load_file(file).items() if not name.startswith(drop)}
    save_file(weights, file.with_name("foreign.safetensors"), metadata={"format": "pt", **metadata})
    return file.with_name("foreign.safetensors")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[int, Path]:
    """Save a model of either family once."""
    folder = tmp_path_factory.mktemp("single")
    for version in (1, 2):
        save_single_file(folder / f"{version}.safetensors", **components_of(version))
    return {version: folder / f"{version}.safetensors" for version in (1, 2)}


@VERSIONS
@pytest.mark.parametrize("in_channels", [4, 9])
def test_round_trip_is_exact(tmp_path, version, in_channels):
    components = components_of(version, in_channels)
    call = {"num_inference_steps": 7, "guidance_scale": 2.5}
    save_single_file(tmp_path / "model.safetensors", **components, recommended_call=call)
    loaded = load_single_file(tmp_path / "model.safetensors")
    assert digest(loaded) == digest(components)
    assert loaded["recommended_call"] == call
    kinds = [SDUNet2DConditionModel, SDAutoencoderKL, CLIPTextModel, CLIPTokenizer, SDDDPMScheduler]
    assert [type(loaded[name]) for name in (*MODELS, "tokenizer", "scheduler")] == kinds
    assert not any(loaded[name].training for name in MODELS)
    assert all(parameter.requires_grad for name in MODELS for parameter in loaded[name].parameters())
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"], "nothing is left beside it"


def test_round_trip_in_a_new_process(saved):
    code = """
import json, sys
from sd_pipeline.publishing.single_file import load_single_file
from tests.publishing.test_single_file import digest
print(json.dumps([digest(load_single_file(file)) for file in sys.argv[1:]]))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(saved[1]), str(saved[2])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert json.loads(done.stdout.splitlines()[-1]) == [digest(components_of(version)) for version in (1, 2)]


@VERSIONS
def test_pipeline_makes_the_same_latents(saved, version):
    assert torch.equal(
        latents_of(SDPipeline(**load_single_file(saved[version]))), latents_of(SDPipeline(**components_of(version)))
    )


@VERSIONS
def test_diffusers_converters_read_the_same_weights(saved, version):
    """They were written by others, for the files that people have."""
    components, weights = components_of(version), load_file(saved[version])
    unet, vae, text_encoder = (components[name] for name in MODELS)
    text = (
        single_file_utils.convert_ldm_clip_checkpoint(weights)
        if version == 1
        else single_file_utils.convert_open_clip_checkpoint(text_encoder, weights)
    )
    for model, converted in (
        (unet, single_file_utils.convert_ldm_unet_checkpoint(weights, unet.config)),
        (vae, single_file_utils.convert_ldm_vae_checkpoint(weights, vae.config)),
        (text_encoder, {name.removeprefix("text_model."): weight for name, weight in text.items()}),
    ):
        state = model.state_dict()
        assert converted.keys() == state.keys()
        assert all(torch.equal(converted[name], state[name]) for name in state)


@VERSIONS
@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_plain_diffusers_loads_it(tmp_path, saved, version, dtype):
    components = components_of(version)
    SDPipeline(**components).save_pretrained(tmp_path / "repository")
    file = saved[version]
    if dtype is not None:
        file = tmp_path / "half.safetensors"
        save_single_file(file, **components, dtype=dtype)
    stock = StableDiffusionPipeline.from_single_file(
        str(file), config=str(tmp_path / "repository"), local_files_only=True, dtype=dtype
    )
    loaded = load_single_file(file)
    if dtype is not None:
        assert {stock.unet.dtype, stock.text_encoder.dtype, loaded["unet"].dtype} == {dtype}
        assert loaded["text_encoder"].dtype == dtype
        return
    # diffusers computes with the file's own bytes, which are not aligned and round otherwise.
    stock.unet = copy.deepcopy(stock.unet)
    ours = StableDiffusionPipeline(**SDPipeline(**loaded).components, requires_safety_checker=False)
    assert torch.equal(latents_of(stock), latents_of(ours))


def test_plain_diffusers_loads_an_inpainting_model(tmp_path):
    components = components_of(1, in_channels=9)
    save_single_file(tmp_path / "model.safetensors", **components)
    StableDiffusionInpaintPipeline(
        **components, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    ).save_pretrained(tmp_path / "repository")
    stock = StableDiffusionInpaintPipeline.from_single_file(
        str(tmp_path / "model.safetensors"), config=str(tmp_path / "repository"), local_files_only=True
    )
    state = components["unet"].state_dict()
    assert all(torch.equal(weight, state[name]) for name, weight in stock.unet.state_dict().items())


def test_half_precision(tmp_path):
    components = components_of()
    save_single_file(tmp_path / "half.safetensors", **components, dtype=torch.float16)
    halves = {name: components[name].half() for name in MODELS}
    assert digest(load_single_file(tmp_path / "half.safetensors")) == digest({**components, **halves})
    again = load_single_file(tmp_path / "half.safetensors", dtype=torch.float32)
    assert {again[name].dtype for name in MODELS} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("DDIMScheduler", {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}),
        ("EulerDiscreteScheduler", {"beta_schedule": "linear"}),
        ("DPMSolverMultistepScheduler", {"trained_betas": [0.001 * (1 + i) for i in range(10)]}),
        ("SDDDPMScheduler", {"prediction_type": "v_prediction"}),
    ],
)
def test_schedulers(tmp_path, name, config):
    scheduler = SDDDPMScheduler(**config) if name == "SDDDPMScheduler" else getattr(diffusers, name)(**config)
    save_single_file(tmp_path / "model.safetensors", **{**components_of(), "scheduler": scheduler})
    loaded = load_single_file(tmp_path / "model.safetensors")["scheduler"]
    assert type(loaded) is type(scheduler)
    assert loaded.to_json_string() == scheduler.to_json_string()
    weights = load_file(tmp_path / "model.safetensors")
    torch.testing.assert_close(weights["alphas_cumprod"], scheduler.alphas_cumprod)
    torch.testing.assert_close((1 - weights["betas"]).cumprod(0), scheduler.alphas_cumprod, atol=1e-5, rtol=1e-4)
    assert ("v_pred" in weights) == (scheduler.config.prediction_type == "v_prediction")
    assert ("ztsnr" in weights) == bool(scheduler.config.get("rescale_betas_zero_snr"))


def test_metadata_for_other_tools(tmp_path):
    file = tmp_path / "my model.safetensors"
    kinds = {}
    for version, in_channels, kind in [
        (1, 4, "epsilon"),
        (1, 9, "epsilon"),
        (2, 4, "epsilon"),
        (2, 4, "v_prediction"),
    ]:
        scheduler = tiny_scheduler(prediction_type=kind)
        save_single_file(file, **{**components_of(version, in_channels), "scheduler": scheduler}, overwrite=True)
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
        kinds[version, in_channels, kind] = metadata["modelspec.architecture"]
        assert metadata["modelspec.prediction_type"] == kind.removesuffix("_prediction")
        assert (metadata["modelspec.title"], metadata["modelspec.resolution"]) == ("my model", "64x64")
        assert str(tmp_path) not in json.dumps(metadata)
    assert list(kinds.values()) == [
        "stable-diffusion-v1",
        "stable-diffusion-v1-inpainting",
        "stable-diffusion-v2-512",
        "stable-diffusion-v2-768-v",
    ]


@pytest.mark.parametrize(
    "scale",
    [
        {"scaling_factor": 1.0},
        {"shift_factor": 0.3},
        {"latents_mean": (1.0, -1.0, 0.0, 2.0), "latents_std": (1.0, 2.0, 3.0, 4.0)},
    ],
    ids=["factor", "shift", "statistics"],
)
def test_other_tools_know_one_scale_of_latents(tmp_path, scale):
    components = {**components_of(), "vae": vae_of(**scale)}
    save_single_file(tmp_path / "model.safetensors", **components)
    assert digest(load_single_file(tmp_path / "model.safetensors")) == digest(components)

    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    wanted = SDPipeline(**components).decode_latents(latents, "pt")
    file = without_metadata(tmp_path / "model.safetensors")
    vae = load_single_file(file, tokenizer=tiny_tokenizer())["vae"]
    torch.testing.assert_close(
        (vae.decode(latents / 0.18215).sample / 2 + 0.5).clamp(0, 1), wanted, atol=1e-5, rtol=1e-5
    )
    # Some tools keep the metadata and drop weights that they do not know.
    with safe_open(tmp_path / "model.safetensors", "pt") as opened:
        metadata = opened.metadata()
    kept = load_single_file(without_metadata(tmp_path / "model.safetensors", **metadata))["vae"]
    assert kept.config.scaling_factor == 0.18215
    assert digest({**components, "vae": kept})["vae"] == digest({**components, "vae": vae})["vae"]


@VERSIONS
def test_files_of_others(saved, version):
    components = components_of(version)
    loaded = load_single_file(without_metadata(saved[version]), tokenizer=components["tokenizer"])
    mine, theirs = digest(loaded), digest(components)
    assert [mine[name] for name in MODELS] == [theirs[name] for name in MODELS]
    scheduler = loaded["scheduler"]
    assert type(scheduler).__name__ == {1: "PNDMScheduler", 2: "DDIMScheduler"}[version]
    assert (scheduler.config.beta_start, scheduler.config.beta_end) == (0.00085, 0.012)
    assert (scheduler.config.clip_sample if version == 2 else False) is False
    assert loaded["recommended_call"] == {}
    loaded["scheduler"] = components["scheduler"]
    latents = latents_of(SDPipeline(**loaded))
    assert torch.equal(latents, latents_of(SDPipeline(**components))), "heads and activation were guessed right"


@pytest.mark.parametrize(
    ("metadata", "marker", "spread", "predicted"),
    [
        ({}, False, 0.05, "epsilon"),
        ({}, False, 0.2, "v_prediction"),
        ({}, True, 0.05, "v_prediction"),
        ({"modelspec.prediction_type": "epsilon"}, True, 0.2, "epsilon"),
        ({"modelspec.predict_key": "v"}, False, 0.05, "v_prediction"),
    ],
)
def test_what_a_file_of_others_predicts(saved, metadata, marker, spread, predicted):
    file = without_metadata(saved[2], **metadata)
    weights = load_file(file)
    bias = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    weights[bias] = torch.tensor([spread, -spread]).repeat(32)
    if marker:
        weights["v_pred"] = torch.empty(0)
    save_file(weights, file, metadata=metadata)
    loaded = load_single_file(file, tokenizer=tiny_tokenizer())
    assert loaded["scheduler"].config.prediction_type == predicted
    assert loaded["unet"].config.sample_size == (96 if predicted == "v_prediction" else 64)
    for asked in ("epsilon", "v_prediction"):
        again = load_single_file(file, tokenizer=tiny_tokenizer(), prediction_type=asked)
        assert again["scheduler"].config.prediction_type == asked
    given = DDIMScheduler(prediction_type="sample")
    assert load_single_file(file, tokenizer=tiny_tokenizer(), scheduler=given)["scheduler"] is given


def test_prediction_type_may_be_corrected(saved):
    assert load_single_file(saved[1], prediction_type="v_prediction")["scheduler"].config["prediction_type"] == (
        "v_prediction"
    )
    with pytest.raises(ValueError, match="prediction_type is 'v'; allowed: epsilon or v_prediction"):
        load_single_file(saved[1], prediction_type="v")
    with pytest.raises(ValueError, match="prediction_type is 'epsilon'; allowed: nothing beside `scheduler`"):
        load_single_file(saved[1], prediction_type="epsilon", scheduler=tiny_scheduler())


def test_averaged_weights(saved, caplog):
    file = without_metadata(saved[1])
    weights = load_file(file)
    weights |= {
        "model_ema." + "".join(name.split(".")[1:]): weight + 1
        for name, weight in weights.items()
        if name.startswith("model.diffusion_model.")
    }
    save_file(weights, file)
    plain = load_single_file(file, tokenizer=tiny_tokenizer())["unet"].state_dict()
    assert "`extract_ema=True` takes them" in caplog.text
    averaged = load_single_file(file, tokenizer=tiny_tokenizer(), extract_ema=True)["unet"].state_dict()
    assert all(torch.equal(averaged[name], plain[name] + 1) for name in plain)
    with pytest.raises(RepositoryError, match=r"lacks the weight 'model_ema\."):
        load_single_file(saved[1], extract_ema=True)


def test_text_encoder_without_the_words_text_model(saved):
    file = without_metadata(saved[1])
    weights = {
        name.replace("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer."): weight
        for name, weight in load_file(file).items()
    }
    assert not any("text_model" in name for name in weights)
    save_file(weights, file)
    text_encoder = load_single_file(file, tokenizer=tiny_tokenizer())["text_encoder"]
    assert (
        digest({**components_of(1), "text_encoder": text_encoder})["text_encoder"]
        == (digest(components_of(1))["text_encoder"])
    )


def test_a_file_of_a_stranger_writes_no_files(saved, tmp_path):
    with safe_open(saved[1], "pt") as opened:
        metadata = opened.metadata()
    stored = json.loads(metadata["sd_pipeline.tokenizer"])
    metadata["sd_pipeline.tokenizer"] = json.dumps({**stored, str(tmp_path / "planted"): {}, "../planted": {}})
    file = tmp_path / "model.safetensors"
    save_file(load_file(saved[1]), file, metadata=metadata)
    assert len(load_single_file(file)["tokenizer"]) == len(tiny_tokenizer())
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_last_layer_of_openclip_is_left_out(tmp_path):
    """Published files have its 24 layers, of which 23 were used."""
    torch.manual_seed(0)
    components = components_of(2)
    components["text_encoder"] = text_encoder_of(2, components["tokenizer"], num_hidden_layers=24)
    save_single_file(tmp_path / "model.safetensors", **components)
    file = without_metadata(tmp_path / "model.safetensors")
    weights = load_file(file)
    weights["cond_stage_model.model.text_projection"] = torch.eye(64)
    weights["cond_stage_model.model.logit_scale"] = torch.ones(())
    save_file(weights, file)
    text_encoder = load_single_file(file, tokenizer=components["tokenizer"])["text_encoder"]
    assert text_encoder.config.num_hidden_layers == 23
    state = components["text_encoder"].state_dict()
    assert all(torch.equal(weight, state[name]) for name, weight in text_encoder.state_dict().items())


def clip_sized_tokenizer() -> CLIPTokenizer:
    """Make one that cannot be told from CLIP's own."""
    at = {index: token for token, index in CLIP_TOKENS.items()} | {0: "!", 49406: "<|startoftext|>"}
    vocabulary = {at.get(index, f"token-{index}"): index for index in range(49408)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], pad_token="!", model_max_length=77)


def test_the_vocabulary_of_clip_is_not_in_the_file(tmp_path):
    tokenizer = clip_sized_tokenizer()
    text_encoder = text_encoder_of(1, tokenizer)
    file = tmp_path / "model.safetensors"
    save_single_file(file, **{**components_of(), "tokenizer": tokenizer, "text_encoder": text_encoder})
    with safe_open(file, "pt") as opened:
        stored = json.loads(opened.metadata()["sd_pipeline.tokenizer"])
    assert list(stored) == ["tokenizer_config.json"]
    assert (stored["tokenizer_config.json"]["pad_token"], "name_or_path" in stored) == ("!", False)
    with pytest.raises(RepositoryError, match=r"CLIP's own tokenizer, and .* cannot be had from the Hub") as caught:
        load_single_file(file)
    assert "\n" not in str(caught.value)
    assert load_single_file(file, tokenizer=tokenizer)["tokenizer"] is tokenizer


def test_a_model_without_its_tokenizer(tmp_path):
    file = tmp_path / "model.safetensors"
    save_single_file(file, **{**components_of(), "tokenizer": None})
    with pytest.raises(RepositoryError, match="has no tokenizer, and its 554 tokens are not CLIP's: pass `tokenizer`"):
        load_single_file(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vae": None}, "vae is None; .* needs all four components"),
        ({"text_encoder": None}, "text_encoder is None"),
        ({"unet": lambda: unet_of(1, in_channels=8)}, "unet.config.in_channels is 8; .* needs 4 or 9"),
        ({"unet": lambda: unet_of(1, out_channels=8)}, "unet.config.out_channels is 8"),
        ({"unet": lambda: unet_of(1, layers_per_block=1)}, "unet.config.layers_per_block is 1"),
        ({"unet": lambda: unet_of(1, num_class_embeds=3)}, "unet.config.num_class_embeds is 3"),
        ({"unet": lambda: unet_of(1, cross_attention_dim=32)}, "unet.config.cross_attention_dim is 32; .* needs 64"),
        ({"unet": lambda: tiny_components()["unet"]}, "unet.config.down_block_types is"),
        ({"vae": lambda: tiny_components()["vae"]}, "vae.config.down_block_types is"),
        ({"vae": lambda: vae_of(posterior="isotropic")}, "vae.config.posterior is 'isotropic'; .* needs 'diagonal'"),
        ({"vae": lambda: vae_of(use_quant_conv=False)}, "vae.config.use_quant_conv is False"),
        ({"vae": lambda: vae_of(latent_channels=8)}, "vae.config.latent_channels is 8; .* needs 4"),
        ({"scheduler": lambda: tiny_scheduler(prediction_type="mean")}, "scheduler.config.prediction_type is 'mean'"),
        ({"scheduler": lambda: tiny_scheduler(prediction_type="sample")}, "needs epsilon or v_prediction"),
    ],
)
def test_models_of_another_shape_are_refused(tmp_path, changes, message):
    components = components_of() | {name: make and make() for name, make in changes.items()}
    with pytest.raises(ValueError, match=message) as caught:
        save_single_file(tmp_path / "model.safetensors", **components)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", MODELS)
def test_weights_that_are_not_finite_are_refused(tmp_path, name):
    components = components_of()
    next(iter(components[name].parameters())).data.flatten()[0] = float("nan")
    with pytest.raises(ValueError, match=f"{name}: the weight .* is not finite"):
        save_single_file(tmp_path / "model.safetensors", **components)
    components = components_of()
    next(iter(components[name].parameters())).data.flatten()[0] = 1e6
    with pytest.raises(ValueError, match=r"is not finite in torch.float16"):
        save_single_file(tmp_path / "model.safetensors", **components, dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_destroyed(tmp_path):
    file = tmp_path / "new folder" / "model.safetensors"
    components = components_of()
    save_single_file(file, **components)
    (tmp_path / "usual").touch()
    assert file.stat().st_mode == (tmp_path / "usual").stat().st_mode
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"model.safetensors exists and is not overwritten"):
        save_single_file(file, **components_of(2))
    with pytest.raises(ValueError, match="vae is None"):
        save_single_file(file, **{**components, "vae": None}, overwrite=True)
    assert file.read_bytes() == before
    file.with_name(f".{file.name}.new").write_bytes(b"what a crash left")
    save_single_file(file, **components_of(2), overwrite=True)
    assert digest(load_single_file(file)) == digest(components_of(2))
    assert [path.name for path in file.parent.iterdir()] == ["model.safetensors"]
    with pytest.raises(ValueError, match=r"the name of a single file must end in .safetensors"):
        save_single_file(tmp_path / "model.ckpt", **components)


def test_what_other_tools_will_get_wrong_is_said(tmp_path, caplog):
    components = components_of(2)
    components["text_encoder"].config.hidden_act = "quick_gelu"
    save_single_file(tmp_path / "model.safetensors", **{**components, "scheduler": DDIMScheduler()})
    assert "text_encoder.config.hidden_act is quick_gelu, theirs gelu" in caplog.text
    assert "unet.config.block_out_channels is [64, 64, 64, 64], theirs [320, 640, 1280, 1280]" in caplog.text
    assert "noise schedule is not scaled_linear" in caplog.text


def test_pickles_are_never_read(tmp_path):
    for name in ("model.ckpt", "renamed.safetensors"):
        torch.save({"state_dict": {"weight": torch.ones(1)}}, tmp_path / name)
        with pytest.raises(RepositoryError, match=f"{name} is a pickle, which can run any code when it is read"):
            load_single_file(tmp_path / name)


@pytest.mark.parametrize("size", [0, 5, 100, -1000])
def test_truncated_files(saved, tmp_path, size):
    (tmp_path / "model.safetensors").write_bytes(saved[1].read_bytes()[:size])
    with pytest.raises(RepositoryError, match=r"model.safetensors is (truncated|not a safetensors file)"):
        load_single_file(tmp_path / "model.safetensors")


def test_missing_file(tmp_path):
    with pytest.raises(RepositoryError, match=r"model.safetensors is missing"):
        load_single_file(tmp_path / "model.safetensors")


@pytest.mark.parametrize("own", [True, False], ids=["ours", "of others"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.diffusion_model.out.2.bias": None}, "lacks the weight 'model.diffusion_model.out.2.bias'"),
        ({"first_stage_model.quant_conv.bias": None}, "lacks the weight 'first_stage_model.quant_conv.bias'"),
        ({"model.diffusion_model.out.2.bias": torch.ones(5)}, r"'model.diffusion_model.out.2.bias' has shape \(5,\)"),
        (
            {"model.diffusion_model.label_emb.0.0.weight": torch.ones(5)},
            "it has the weight 'model.diffusion_model",
        ),
        (
            {"cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": None},
            "lacks the weight 'cond_stage_model.transformer.text_model.embeddings.token_embedding.weight'",
        ),
    ],
)
def test_damaged_files(saved, tmp_path, own, change, message):
    with safe_open(saved[1], "pt") as opened:
        metadata = opened.metadata() if own else {}
    weights = load_file(saved[1]) | change
    file = tmp_path / "model.safetensors"
    save_file({name: weight for name, weight in weights.items() if weight is not None}, file, metadata=metadata)
    with pytest.raises(RepositoryError, match=message) as caught:
        load_single_file(file, tokenizer=tiny_tokenizer())
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            {"conditioner.embedders.0.x": 1},
            r"is a Stable Diffusion XL file \(it has conditioner.*\); allowed: 1.x",
        ),
        (
            {"lora_unet.alpha": 1},
            "is no Stable Diffusion 1.x or 2.x: it lacks the weight 'model.diffusion_model",
        ),
        ({"model.diffusion_model.input_blocks.0.0.weight": 8}, "its U-Net takes 8 channels; allowed: 4 or 9"),
    ],
)
def test_other_kinds_of_files(tmp_path, weights, message):
    file = tmp_path / "model.safetensors"
    save_file({name: torch.ones(2, channels, 3, 3) for name, channels in weights.items()}, file)
    with pytest.raises(RepositoryError, match=message):
        load_single_file(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sd_pipeline.unet": "{"}, "its metadata of this package is damaged or incomplete"),
        ({"sd_pipeline.vae": None}, "its metadata of this package is damaged or incomplete"),
        ({"sd_pipeline.vae": "[]"}, "its metadata sd_pipeline.vae holds no JSON object"),
        (
            {"sd_pipeline.scheduler": '{"_class_name": "UNet2DModel"}'},
            "its scheduler 'UNet2DModel' is none of diffusers",
        ),
        ({"sd_pipeline.vae": '{"norm_num_groups": 0}'}, "norm_num_groups"),
        ({"sd_pipeline.vae": "[" * 10**5}, "its metadata of this package is damaged or incomplete"),
        ({"sd_pipeline.unet": '{"layers_per_block": 1000000}'}, "asks for 1000000 layers, but there are"),
        ({"sd_pipeline.text_encoder": '{"num_hidden_layers": 1000000000}'}, "`num_hidden_layers` is 1000000000, but"),
        ({"sd_pipeline.unet": '{"block_out_channels": [10000000]}'}, "`block_out_channels` is .10000000., but beside"),
        ({"sd_pipeline.text_encoder": '{"_attn_implementation": "stranger/kernel"}'}, "which may be code"),
        ({"sd_pipeline.scheduler": '{"num_train_timesteps": 1000000000}'}, "allowed: at most 1000000"),
        ({"sd_pipeline.scheduler": '{"_class_name": "DDIMScheduler", "beta_start": "x"}'}, "DDIMScheduler"),
        (
            {"sd_pipeline.unet": '{"block_out_channels": [32, 32, 64, 64], "layers_per_block": 3}'},
            "which has no place in a file",
        ),
        ({"sd_pipeline.text_encoder": '{"num_hidden_layers": 3, "hidden_size": 32}'}, "has shape"),
    ],
)
def test_damaged_metadata(saved, tmp_path, changes, message):
    with safe_open(saved[1], "pt") as opened:
        metadata = opened.metadata() | changes
    kept = {name: value for name, value in metadata.items() if value is not None}
    save_file(load_file(saved[1]), tmp_path / "model.safetensors", metadata=kept)
    with pytest.raises(RepositoryError, match=message) as caught:
        load_single_file(tmp_path / "model.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("in_channels", "kind"), [(4, SDPipeline), (9, SDInpaintPipeline)])
def test_pipelines_go_into_one_file_and_come_back(tmp_path, in_channels, kind):
    recommended = {"num_inference_steps": 2, "guidance_scale": 3.0}
    pipe = kind(**components_of(in_channels=in_channels), recommended_call=recommended)
    pipe.save_single_file(tmp_path / "model.safetensors")
    again = kind.from_single_file(tmp_path / "model.safetensors")
    assert again.config["recommended_call"] == recommended
    for name in MODELS:
        old, new = (getattr(one, name).state_dict() for one in (pipe, again))
        assert old.keys() == new.keys()
        assert all(torch.equal(old[key], new[key]) for key in old), name
    with pytest.raises(ValueError, match="exists"):
        again.save_single_file(tmp_path / "model.safetensors")
    again.save_single_file(tmp_path / "model.safetensors", overwrite=True, dtype=torch.float16)
    assert kind.from_single_file(tmp_path / "model.safetensors").unet.dtype == torch.float16


def test_the_packaged_model_is_refused(tmp_path):
    pipe = SDPipeline.from_pretrained("pretrained/shapes-64")
    with pytest.raises(ValueError, match=r"^.*vae.*$|^.*unet.*$"):
        pipe.save_single_file(tmp_path / "model.safetensors")
    assert not any(tmp_path.iterdir())


def test_adapters_are_not_written_silently_with_the_model(tmp_path):
    pipe = SDPipeline(**components_of())
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    for save, name in ((pipe.save_single_file, "model.safetensors"), (pipe.save_pretrained, "folder")):
        with pytest.raises(ValueError, match="`unet` has LoRA adapters"):
            save(tmp_path / name)
    assert not any(tmp_path.iterdir())
