"""Repositories of strangers: every trick is refused in one line, and nothing of it has run by then."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.modeling_utils import ModelMixin
from safetensors.torch import save_file

from sd_pipeline import SDPipeline
from sd_pipeline.publishing.manifest import write_manifest
from sd_pipeline.publishing.repository_files import RepositoryError
from tests.components import tiny_components
from tests.publishing.canary import canary

UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
Trick = Callable[[Path], Any]


@pytest.fixture(scope="module")
def honest(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "honest"
    SDPipeline(**tiny_components()).save_pretrained(folder)
    return folder


@pytest.fixture
def repository(honest, tmp_path) -> Path:
    return Path(shutil.copytree(honest, tmp_path / "repository"))


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    """Loading weights is what the check comes before."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(ModelMixin, "from_pretrained", fail)


def mark_of(repository: Path) -> Path:
    return repository.parent / "canary"


def edit(file: str, **changes: Any) -> Trick:
    def trick(repository: Path) -> None:
        content = json.loads((repository / file).read_text())
        (repository / file).write_text(json.dumps({**content, **changes}))

    return trick


def write(file: str, text: str) -> Trick:
    return lambda repository: (repository / file).write_text(text)


def own(**facts: Any) -> Trick:
    return edit("model_index.json", _sd_pipeline=facts)


def pickled(repository: Path, file: str = UNET, name: str = "diffusion_pytorch_model.bin") -> None:
    (repository / file).with_name(name).write_bytes(canary(mark_of(repository)))
    (repository / file).unlink(missing_ok=True)


def pickle_named_safetensors(repository: Path) -> None:
    (repository / UNET).write_bytes(canary(mark_of(repository)))


def code(file: str, **changes: Any) -> Trick:
    def trick(repository: Path) -> None:
        (repository / file).write_text(f"import os\nos.mkdir({str(mark_of(repository))!r})\nclass Model: pass\n")
        if changes:
            edit("model_index.json", **changes)(repository)

    return trick


def shards(target: str) -> Trick:
    def trick(repository: Path) -> None:
        shutil.move(repository / UNET, repository.parent / "elsewhere.safetensors")
        index = {"metadata": {}, "weight_map": {"conv_in.weight": target}}
        (repository / f"{UNET}.index.json").write_text(json.dumps(index))

    return trick


def flip_a_bit(repository: Path) -> None:
    content = bytearray((repository / UNET).read_bytes())
    content[-4] ^= 1
    (repository / UNET).write_bytes(content)


def header(**entry: Any) -> Trick:
    def trick(repository: Path) -> None:
        text = json.dumps({"conv_in.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **entry}}).encode()
        (repository / UNET).write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))

    return trick


def many_small_weights(repository: Path) -> None:
    save_file({f"weight.{number}": torch.zeros(1) for number in range(400)}, repository / UNET)
    blocks = {"block_out_channels": [8] * 300, "down_block_types": ["DownBlock2D"] * 300}
    edit("unet/config.json", **blocks, up_block_types=["UpBlock2D"] * 300, layers_per_block=300)(repository)


def nested(key: str, depth: int) -> str:
    return f'{{"{key}": ' * depth + "1" + "}" * depth


INDEX = "model_index.json"
TRICKS: dict[str, tuple[Trick, str]] = {
    "pickle": (pickled, "diffusion_pytorch_model.bin is a pickle, .* only safetensors are read"),
    "pickle of transformers": (
        lambda repository: pickled(repository, TEXT, "pytorch_model.bin"),
        "pytorch_model.bin is a pickle",
    ),
    "checkpoint": (lambda repository: pickled(repository, name="model.ckpt"), "model.ckpt is a pickle"),
    "pickle under another name": (pickle_named_safetensors, "safetensors .*(truncated|damaged)"),
    "pickle as a shard": (shards("diffusion_pytorch_model.bin"), "names 'diffusion_pytorch_model.bin'"),
    "weights of another name": (
        edit("text_encoder/config.json", transformers_weights="other.safetensors"),
        "`transformers_weights` puts other weights in the place of these",
    ),
    "shard elsewhere": (shards("../../elsewhere.safetensors"), r"names '\.\./\.\./elsewhere.safetensors'; allowed"),
    "shard at an absolute path": (shards("/tmp/elsewhere.safetensors"), "names '/tmp/elsewhere.safetensors'"),
    "shard of Windows": (shards("..\\elsewhere.safetensors"), "allowed: a .safetensors file in the same folder"),
    "no map of shards": (
        lambda repository: (shards("x")(repository), edit(f"{UNET}.index.json", weight_map=[])(repository)),
        "`weight_map` does not say",
    ),
    "shards beside a whole file": (
        lambda repository: (
            shutil.copy(repository / UNET, repository / "unet/x.safetensors"),
            write(f"{UNET}.index.json", '{"weight_map": {"a": "x.safetensors"}}')(repository),
        ),
        "are both there",
    ),
    "module": (edit(INDEX, unet=["os", "system"]), r"`unet` is \['os', 'system'\]; allowed: UNet2DConditionModel"),
    "module of the scheduler": (edit(INDEX, scheduler=["os", "system"]), "`scheduler` is .*allowed: a scheduler"),
    "another class": (edit(INDEX, tokenizer=["transformers", "AutoModel"]), "`tokenizer` is .*allowed: CLIPTokenizer"),
    "no scheduler": (
        edit(INDEX, scheduler=["diffusers", "UNet2DConditionModel"]),
        "allowed: a scheduler of diffusers",
    ),
    "module of diffusers": (edit(INDEX, scheduler=["diffusers", "scheduling_ddpm"]), "allowed: a scheduler"),
    "module in our facts": (own(components={"vae": ["os", "system"]}), "which this package does not write"),
    "model as a scheduler": (
        own(components={"scheduler": ["sd_pipeline", "SDAutoencoderKL"]}),
        "which this package does not write",
    ),
    "path in our facts": (own(components={"../vae": ["sd_pipeline", "SDAutoencoderKL"]}), "does not write"),
    "facts of another kind": (edit(INDEX, _sd_pipeline=["x"]), "which this package does not write"),
    "unknown component": (edit(INDEX, helper=["diffusers", "AutoencoderKL"]), "with a `helper` cannot be used here"),
    "path as a component": (edit(INDEX, **{"../vae": ["diffusers", "AutoencoderKL"]}), r"with a `\.\./vae` cannot be"),
    "absolute path": (edit(INDEX, **{"/etc": ["diffusers", "AutoencoderKL"]}), "with a `/etc` cannot be used here"),
    "line breaks": (edit(INDEX, **{"a\nb\x1b[2J": ["os", "system"]}), "with a `a b .2J` cannot be used here"),
    "endless name": (edit(INDEX, **{"a" * 10**6: ["os", "system"]}), r"aaa\.\.\.$"),
    "entry of one": (edit(INDEX, unet=["diffusers"]), "`unet` is .*allowed: a library and a class"),
    "entry of numbers": (edit(INDEX, unet=[1, 2]), "`unet` is .*allowed: a library and a class"),
    "entry that is text": (edit(INDEX, unet="diffusers"), "`unet` is 'diffusers'; allowed: a library and a class"),
    "no network": (edit(INDEX, unet=[None, None]), "names no `unet`"),
    "class of the pipeline": (
        code("pipeline.py", _class_name=["pipeline", "Model"]),
        "its pipeline is the code .*trust_remote_code=True",
    ),
    "class of the repository": (code("unet/model.py", unet=["model", "Model"]), "`unet` is .*trust_remote_code=True"),
    "code under a known name": (code("unet/diffusers.py"), "diffusers.py is code"),
    "code of ours": (code("vae/sd_pipeline.py"), "sd_pipeline.py is code"),
    "auto_map": (
        edit("text_encoder/config.json", auto_map={"AutoModel": "m.Model"}),
        r"asks for code \(`auto_map`\), which runs only if you pass `trust_remote_code=True`",
    ),
    "auto_map of the tokenizer": (edit("tokenizer/tokenizer_config.json", auto_map={"a": "b"}), "asks for code"),
    "trust_remote_code": (edit("unet/config.json", trust_remote_code=True), r"asks for code \(`trust_remote_code`\)"),
    "attention from the Hub": (
        edit("text_encoder/config.json", _attn_implementation="stranger/kernel"),
        "is 'stranger/kernel', which may be code",
    ),
    "another model in its place": (
        write("text_encoder/adapter_config.json", '{"base_model_name_or_path": "stranger/model"}'),
        "adapter_config.json puts another model in the place of this one",
    ),
    "bit": (flip_a_bit, "diffusion_pytorch_model.safetensors is damaged or was exchanged: its SHA-256 is not"),
    "manifest of another kind": (own(sha256=["x"]), "`_sd_pipeline.sha256` is .*allowed: digests by file"),
    "manifest of no digests": (own(sha256={UNET: "x"}), "allowed: 64 hexadecimal digits"),
    "million channels": (
        edit("unet/config.json", block_out_channels=[10**6, 10**6]),
        r"`block_out_channels` is \[1000000, 1000000\], but beside it are",
    ),
    "million layers": (edit("unet/config.json", layers_per_block=10**6), "`layers_per_block` is 1000000, but"),
    "thousands of layers": (edit("unet/config.json", layers_per_block=9999), "asks for 19998 layers, but there are"),
    "layers by blocks": (many_small_weights, "asks for 90000 layers, but there are 400 weights"),
    "layers of the text encoder": (edit("text_encoder/config.json", num_hidden_layers=5000), "`num_hidden_layers` is"),
    "endless number": (edit("unet/config.json", in_channels=10**4000), "`in_channels` is 1000"),
    "size of pictures": (edit("unet/config.json", sample_size=10**6), "`sample_size` is 1000000; allowed: at most"),
    "timesteps": (
        edit("scheduler/scheduler_config.json", num_train_timesteps=10**12),
        "`num_train_timesteps` is 1000000000000; allowed: at most 1000000",
    ),
    "text for a number": (edit("unet/config.json", in_channels="four"), "unet/config.json: "),
    "text for a number of transformers": (
        edit("text_encoder/config.json", hidden_size="x"),
        "text_encoder/config.json",
    ),
    "text for a number of the scheduler": (
        edit("scheduler/scheduler_config.json", beta_start="x"),
        "scheduler_config",
    ),
    "list for an object": (write("unet/config.json", "[]"), "config.json holds no JSON object"),
    "list for the index": (write(INDEX, "[1]"), "model_index.json holds no JSON object"),
    "no number": (write("unet/config.json", '{"in_channels": NaN}'), "is not valid JSON .*NaN"),
    "deep": (write("unet/config.json", nested("a", 100)), "is nested more than 32 deep"),
    "deeper": (write("unet/config.json", nested("a", 10**5)), "nested too deeply"),
    "text for a shape": (header(shape=["x"]), "is not a safetensors file"),
    "negative shape": (header(shape=[-1]), "is not a safetensors file"),
    "shape beyond the file": (header(shape=[10**12]), "is not a safetensors file"),
    "type of no text": (header(dtype=[1]), "is not a safetensors file"),
    "missing key": (header(), "diffusion_pytorch_model.safetensors lacks the weight|config.json asks for"),
    "folder for a file": (
        lambda repository: ((repository / INDEX).unlink(), (repository / INDEX).mkdir()),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("name", TRICKS)
def test_tricks_are_refused_in_one_line(name, repository, nothing_is_loaded):
    trick, message = TRICKS[name]
    trick(repository)
    began = time.monotonic()
    with pytest.raises(RepositoryError, match=message) as raised:
        SDPipeline.from_pretrained(repository)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 600
    assert not mark_of(repository).exists()
    assert time.monotonic() - began < 30


def test_the_honest_one_is_loaded(honest):
    assert SDPipeline.from_pretrained(honest).config["recommended_call"] == {}


def test_pickles_are_read_if_the_caller_says_so(repository):
    unet = SDPipeline.from_pretrained(repository).unet
    (repository / UNET).unlink()
    pipe = SDPipeline(**tiny_components())
    for name in ("unet", "vae", "text_encoder"):
        stem = "pytorch_model" if name == "text_encoder" else "diffusion_pytorch_model"
        torch.save(getattr(pipe, name).state_dict(), repository / name / f"{stem}.bin")
    with pytest.raises(RepositoryError, match="is a pickle"):
        SDPipeline.from_pretrained(repository)
    again = SDPipeline.from_pretrained(repository, use_safetensors=False)
    assert all(torch.equal(value, unet.state_dict()[key]) for key, value in again.unet.state_dict().items())


def test_a_repository_without_a_manifest_is_not_compared(repository):
    own()(repository)
    flip_a_bit(repository)
    SDPipeline.from_pretrained(repository)


def test_the_manifest_can_be_written_anew(repository):
    flip_a_bit(repository)
    write_manifest(repository)
    SDPipeline.from_pretrained(repository)


def test_components_of_the_caller_are_not_looked_at(repository):
    code("vae/diffusers.py")(repository)
    assert SDPipeline.from_pretrained(repository, vae=tiny_components()["vae"]).vae is not None


def cached(repository: Path, cache: Path) -> dict[str, Any]:
    """Put a repository where it would be after its download, as links, and say how it is loaded from there."""
    place, revision = cache / "models--stranger--model", "0" * 40
    shutil.copytree(repository, place / "blobs")
    for path in (place / "blobs").rglob("*.*"):
        link = place / "snapshots" / revision / path.relative_to(place / "blobs")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(path, link.parent))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(revision)
    return {"cache_dir": cache, "local_files_only": True}


def test_names_on_the_hub_are_refused_by_their_index_alone(repository, tmp_path):
    for path in repository.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    edit(INDEX, unet=["os", "system"])(repository)
    with pytest.raises(RepositoryError, match=r"^stranger/model/model_index.json: `unet` is \['os', 'system'\]"):
        SDPipeline.from_pretrained("stranger/model", **cached(repository, tmp_path / "cache"))


def test_links_of_the_cache_are_followed(repository, tmp_path):
    pipe = SDPipeline.from_pretrained("stranger/model", **cached(repository, tmp_path / "cache"))
    assert pipe.name_or_path == "stranger/model"
