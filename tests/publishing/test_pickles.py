"""Single models and adapters that are pickles: nothing reads them unless the caller says so."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from sd_pipeline import SDAutoencoderKL, SDPipeline, SDUNet2DConditionModel
from sd_pipeline.publishing.repository_files import PickleError, RepositoryError
from tests.components import tiny_components, tiny_text_encoder, tiny_tokenizer, tiny_unet, tiny_vae
from tests.publishing.canary import canary
from training.evaluation.clip_judge import load_clip_judge
from training.tasks.components import load_text_encoder
from training.tasks.perceptual_distance import load_perceptual_distance

DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"


def clip(folder: Path) -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    text, vision = {**sizes, "vocab_size": 99}, {**sizes, "image_size": 8, "patch_size": 4}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision)).save_pretrained(folder)


def text_encoder(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    tiny_text_encoder(tokenizer).save_pretrained(folder)


def text_encoder_of_a_pipeline(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    tiny_text_encoder(tokenizer).save_pretrained(folder / "text_encoder")


# Writes a model, where in the folder its weights are, and loads it.
READERS: dict[str, tuple[Callable[[Path], Any], str, Callable[[str], Any]]] = {
    "autoencoder": (tiny_vae().save_pretrained, DIFFUSERS, SDAutoencoderKL.from_pretrained),
    "unet": (tiny_unet().save_pretrained, DIFFUSERS, SDUNet2DConditionModel.from_pretrained),
    "text encoder": (text_encoder, TRANSFORMERS, load_text_encoder),
    "text encoder of a pipeline": (text_encoder_of_a_pipeline, f"text_encoder/{TRANSFORMERS}", load_text_encoder),
    "judge": (clip, TRANSFORMERS, lambda folder: load_clip_judge(None, folder)),
    "perceptual distance": (clip, TRANSFORMERS, load_perceptual_distance),
}


@pytest.fixture
def mark(tmp_path) -> Path:
    return tmp_path / "mark"


def pickled(file: Path, mark: Path) -> None:
    """Put a pickle in the place of a safetensors file, under the name that the libraries look for."""
    name = "pytorch_model" if file.name == TRANSFORMERS else file.name
    file.with_name(f"{file.name}.safetensors").unlink()
    file.with_name(f"{name}.bin").write_bytes(canary(mark))


def with_a_pickle(name: str, folder: Path, mark: Path) -> tuple[Path, str, Callable[[str], Any]]:
    """Write a model whose weights are a pickle; return its folder, where in it they are, and what reads it."""
    write, weights, load = READERS[name]
    write(folder)
    pickled(folder / weights, mark)
    return folder, weights, load


def test_the_mark_is_left_by_whoever_unpickles(mark):
    pickle.loads(canary(mark))
    assert mark.exists()


@pytest.mark.parametrize("name", READERS)
def test_pickles_are_refused_in_one_line(name, mark, tmp_path):
    folder, _, load = with_a_pickle(name, tmp_path / "model", mark)
    with pytest.raises(ValueError, match=r"\.bin is a pickle, .* only safetensors are read, unless") as raised:
        load(str(folder))
    assert len(str(raised.value).splitlines()) == 1
    assert not mark.exists()


@pytest.mark.parametrize("name", READERS)
def test_shards_that_are_pickles_are_refused(name, mark, tmp_path):
    folder, weights, load = with_a_pickle(name, tmp_path / "model", mark)
    shard = next(folder.rglob("*.bin")).name
    index = {"metadata": {}, "weight_map": {"weight": shard}}
    (folder / f"{weights}.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=rf"names '{shard}'; allowed: a .safetensors file"):
        load(str(folder))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["text encoder", "judge", "perceptual distance"])
def test_weights_that_a_configuration_names(name, mark, tmp_path):
    write, _, load = READERS[name]
    folder = tmp_path / "model"
    write(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": "adapter_model.bin"}))
    (folder / "adapter_model.bin").write_bytes(canary(mark))
    with pytest.raises(ValueError, match="`transformers_weights` puts other weights in the place of these"):
        load(str(folder))
    assert not mark.exists()


@pytest.mark.parametrize("model", [tiny_vae(), tiny_unet()], ids=["autoencoder", "unet"])
def test_pickles_are_read_if_the_caller_says_so(model, tmp_path):
    model.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(PickleError):
        type(model).from_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, use_safetensors=False)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())


def cached(folder: Path, cache: Path) -> dict[str, Any]:
    """Put a model where it would be after its download, and say how it is loaded from there."""
    place, revision = cache / "models--stranger--model", "0" * 40
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(revision)
    (place / "snapshots").mkdir()
    folder.rename(place / "snapshots" / revision)
    return {"cache_dir": cache, "local_files_only": True}


def test_models_of_the_hub(mark, tmp_path):
    tiny_vae().save_pretrained(tmp_path / "model" / "vae")
    hub = cached(tmp_path / "model", tmp_path / "cache")
    model = SDAutoencoderKL.from_pretrained("stranger/model", subfolder="vae", **hub)
    assert torch.equal(model.quant_conv.weight, tiny_vae().quant_conv.weight)
    (weights,) = (tmp_path / "cache").rglob("*.safetensors")
    pickled(weights.with_suffix(""), mark)
    with pytest.raises(PickleError, match=r"^stranger/model/vae has no safetensors, only other weights, which"):
        SDAutoencoderKL.from_pretrained("stranger/model", subfolder="vae", **hub)
    with pytest.raises(OSError, match=r"'a/b/c' is neither a folder nor the name of a repository on the Hub"):
        SDAutoencoderKL.from_pretrained("a/b/c")
    assert not mark.exists()


def test_the_shipped_model_is_no_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert SDAutoencoderKL.from_pretrained("pretrained/shapes-64", subfolder="vae").config["sample_size"] == 64
    tokenizer, _ = load_text_encoder("pretrained/shapes-64")
    assert len(tokenizer) > 2


def test_adapters(mark, tmp_path):
    pytest.importorskip("peft")
    pipe = SDPipeline(**tiny_components())
    file = tmp_path / "pytorch_lora_weights.bin"
    file.write_bytes(canary(mark))
    renamed = tmp_path / "other" / "pytorch_lora_weights.safetensors"
    renamed.parent.mkdir()
    renamed.write_bytes(file.read_bytes())
    for place, chosen in ((tmp_path, {}), (file, {}), (tmp_path, {"weight_name": file.name})):
        with pytest.raises(PickleError, match=r"pytorch_lora_weights.bin is .*a pickle, .* only safetensors are read"):
            pipe.load_lora_weights(place, **chosen)
    with pytest.raises(Exception, match="header"):
        pipe.load_lora_weights(renamed.parent)
    assert not mark.exists()


@pytest.mark.parametrize("load", ["load_attn_procs", "load_lora_adapter"])
def test_adapters_of_a_unet(load, mark, tmp_path):
    pytest.importorskip("peft")
    file = tmp_path / "pytorch_lora_weights.bin"
    file.write_bytes(canary(mark))
    for place, chosen in ((tmp_path, {}), (file, {}), (tmp_path, {"weight_name": file.name})):
        with pytest.raises(PickleError, match=r"pytorch_lora_weights.bin is .*a pickle, .* only safetensors are read"):
            getattr(tiny_unet(), load)(place, **chosen)
    assert not mark.exists()


def test_adapters_of_a_unet_from_safetensors(tmp_path):
    peft = pytest.importorskip("peft")
    unet, other = tiny_unet(), tiny_unet()
    unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    unet.save_lora_adapter(tmp_path)
    other.load_lora_adapter(tmp_path, prefix=None)
    ours = peft.get_peft_model_state_dict(unet, adapter_name="default")
    theirs = peft.get_peft_model_state_dict(other, adapter_name=next(iter(other.peft_config)))
    assert ours
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_a_unet_of_a_checkpoint_of_one_file(mark, tmp_path):
    for name in ("model.ckpt", "model.bin"):
        (tmp_path / name).write_bytes(canary(mark))
        with pytest.raises(PickleError, match=rf"{name} is no safetensors file but a pickle, .* are read"):
            SDUNet2DConditionModel.from_single_file(tmp_path / name)
    assert not mark.exists()


def test_damaged_files_are_named(tmp_path):
    tiny_vae().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RepositoryError, match=r"config.json is not valid JSON"):
        SDAutoencoderKL.from_pretrained(tmp_path)
