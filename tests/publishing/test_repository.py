"""What is on disk after an export, and what is not written at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors import safe_open
from safetensors.torch import load_file

from sd_pipeline import SDPipeline
from sd_pipeline.publishing.repository import export_pipeline
from sd_pipeline.publishing.stock_layout import index_from_stock, index_to_stock
from tests.components import tiny_components, tiny_unconditional_unet, tiny_unet, tiny_vae

PROMPT = "a red circle"


@pytest.fixture
def exported(tmp_path) -> Path:
    folder = tmp_path / "run" / "pipeline"
    export_pipeline(
        folder,
        **tiny_components(),
        recommended_call={"num_inference_steps": 2, "guidance_scale": 3.0},
        card="# Card\n",
    )
    return folder


def image_of(pipe: SDPipeline) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    return pipe(PROMPT, generator=torch.Generator().manual_seed(0), output_type="pt").images


def test_files_are_those_of_a_stock_repository_and_nothing_else(exported):
    files = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    }
    assert [path.name for path in exported.parent.iterdir()] == ["pipeline"], "nothing is left beside it"
    assert len({path.stat().st_mode for path in exported.rglob("*") if path.is_file()}) == 1


def test_names_in_the_files_are_those_of_diffusers(exported):
    index = json.loads((exported / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]
    assert index["vae"] == ["diffusers", "AutoencoderKL"]
    assert index["scheduler"] == ["diffusers", "DDPMScheduler"]
    assert index["text_encoder"] == ["transformers", "CLIPTextModel"]
    assert index["tokenizer"] == ["transformers", "CLIPTokenizer"]
    assert len(index["_sd_pipeline"].pop("sha256")) == 3
    assert index["_sd_pipeline"] == {"num_inference_steps": 2, "guidance_scale": 3.0}
    classes = {
        path.parent.name: json.loads(path.read_text()).get("_class_name") for path in exported.glob("*/*config.json")
    }
    assert classes == {
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
        "scheduler": "DDPMScheduler",
        "text_encoder": None,
        "tokenizer": None,
    }
    assert "posterior" not in json.loads((exported / "vae" / "config.json").read_text())


def test_no_local_path_is_published(exported, tmp_path):
    again = tmp_path / "again"
    SDPipeline.from_pretrained(exported).save_pretrained(again)
    for folder in (exported, again):
        for path in folder.rglob("*"):
            if path.suffix in (".json", ".txt", ".md"):
                assert str(tmp_path) not in path.read_text()
                assert "name_or_path" not in path.read_text()


def test_text_encoder_is_written_for_every_version_of_transformers(exported):
    weights = load_file(exported / "text_encoder" / "model.safetensors")
    assert {name.split(".")[0] for name in weights} == {"text_model"}
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    with safe_open(exported / "text_encoder" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    vocabulary = json.loads((exported / "tokenizer" / "vocab.json").read_text())
    assert vocabulary == tiny_components()["tokenizer"].get_vocab()
    merges = (exported / "tokenizer" / "merges.txt").read_text().splitlines()
    assert merges[0].startswith("#version")
    assert len(merges) > 10


def test_half_precision_stays_but_for_the_text_encoder(tmp_path):
    components = {
        name: part.half() if isinstance(part, torch.nn.Module) else part for name, part in tiny_components().items()
    }
    export_pipeline(tmp_path / "half", **components)
    for file, dtype in {
        "unet/diffusion_pytorch_model": torch.float16,
        "vae/diffusion_pytorch_model": torch.float16,
        "text_encoder/model": torch.float32,
    }.items():
        assert {tensor.dtype for tensor in load_file(tmp_path / "half" / f"{file}.safetensors").values()} == {dtype}
    assert json.loads((tmp_path / "half" / "text_encoder" / "config.json").read_text())["dtype"] == "float32"


def test_older_repository_is_replaced_as_a_whole(exported):
    components = {**tiny_components(), "unet": tiny_unet(seed=9), "scheduler": DDIMScheduler()}
    before = image_of(SDPipeline.from_pretrained(exported))
    (exported / "picture.png").write_bytes(b"")
    export_pipeline(exported, **components, recommended_call={"num_inference_steps": 2})
    after = SDPipeline.from_pretrained(exported)
    assert isinstance(after.scheduler, DDIMScheduler)
    assert (image_of(after) - before).abs().max() > 0.01
    assert not (exported / "picture.png").exists()
    assert not (exported / "README.md").exists()
    assert [path.name for path in exported.parent.iterdir()] == ["pipeline"]


def test_remains_of_a_crash_do_not_matter(exported):
    (exported.parent / ".pipeline.new" / "unet").mkdir(parents=True)
    (exported.parent / ".pipeline.old" / "unet").mkdir(parents=True)
    export_pipeline(exported, **tiny_components())
    assert [path.name for path in exported.parent.iterdir()] == ["pipeline"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder"])
def test_weights_that_are_not_finite_are_refused(exported, name, value):
    components = tiny_components()
    with torch.no_grad():
        next(iter(components[name].parameters())).flatten()[0] = value
    before = (exported / "model_index.json").stat().st_mtime_ns
    with pytest.raises(ValueError, match=f"{name}: the weight .* is not finite"):
        export_pipeline(exported, **components)
    assert (exported / "model_index.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.write_text("text")])
def test_what_is_no_repository_is_not_replaced(tmp_path, make):
    target = tmp_path / "thesis"
    make(target)
    if target.is_dir():
        (target / "chapter.txt").write_text("text")
    with pytest.raises(ValueError, match="thesis exists and is not the repository of a pipeline"):
        export_pipeline(target, **tiny_components())
    assert (target / "chapter.txt").read_text() == "text" if target.is_dir() else target.read_text() == "text"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / "empty").mkdir()
    export_pipeline(tmp_path / "empty", **tiny_components())
    assert (tmp_path / "empty" / "model_index.json").is_file()


def test_failed_export_leaves_the_old_repository(exported):
    with pytest.raises(ValueError, match="`num_inference_steps` is 0"):
        export_pipeline(exported, **tiny_components(), recommended_call={"num_inference_steps": 0})
    assert (exported / "README.md").read_text() == "# Card\n"
    image_of(SDPipeline.from_pretrained(exported))


def test_further_files(exported):
    export_pipeline(exported, **tiny_components(), files={"samples.png": b"picture"}, max_megabytes=5)
    assert (exported / "samples.png").read_bytes() == b"picture"


def test_too_large_a_repository_replaces_nothing(exported):
    size = sum(path.stat().st_size for path in exported.rglob("*") if path.is_file()) / 1e6
    with pytest.raises(ValueError, match=rf"pipeline would take {size + 1:.1f} MB; allowed: at most 0.5 MB"):
        export_pipeline(
            exported, **tiny_components(), card="# Card\n", files={"samples.png": bytes(1_000_000)}, max_megabytes=0.5
        )
    assert not (exported / "samples.png").exists()
    assert [path.name for path in exported.parent.iterdir()] == ["pipeline"]


def test_model_of_pixels(tmp_path):
    unet = tiny_unconditional_unet(in_channels=3, out_channels=3)
    scheduler = tiny_components()["scheduler"]
    export_pipeline(tmp_path / "pixels", unet=unet, scheduler=scheduler)
    assert {path.name for path in (tmp_path / "pixels").iterdir() if path.is_dir()} == {"unet", "scheduler"}
    assert SDPipeline.from_pretrained(tmp_path / "pixels")(num_inference_steps=1).images[0].size == (8, 8)


def test_index_goes_to_stock_and_back():
    pipe = SDPipeline(**tiny_components(), recommended_call={"eta": 0.5})
    pipe.to_json_string()
    stock = index_to_stock(pipe.config, {}, is_inpainting_model=False)
    again = index_from_stock(stock)
    assert all(list(again[name]) == list(pipe.config[name]) for name in pipe.components)
    assert again["recommended_call"] == {"eta": 0.5}
    assert index_from_stock({"vae": ["diffusers", "AutoencoderTiny"]})["vae"] == ["diffusers", "AutoencoderTiny"]


@pytest.mark.parametrize("facts", [[], "x", {"components": []}, {"components": {"vae": ["os", "system"]}}])
def test_facts_that_this_package_does_not_write(facts):
    with pytest.raises(ValueError, match="`_sd_pipeline` is"):
        index_from_stock({"_sd_pipeline": facts})


def test_isotropic_autoencoder_keeps_its_key(tmp_path):
    export_pipeline(tmp_path / "model", **{**tiny_components(), "vae": tiny_vae(posterior="isotropic")})
    assert json.loads((tmp_path / "model" / "vae" / "config.json").read_text())["posterior"] == "isotropic"
