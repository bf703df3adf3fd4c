"""Segmentation of whatever people have as an image, round trips of the model, and errors in one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sd_pipeline import SegmentationPipeline, SegmentationUNet
from sd_pipeline.pipelines.segmentation_inputs import read_images, standardise
from sd_pipeline.pipelines.segmentation_maps import connected_components, most_probable
from sd_pipeline.pipelines.segmentation_overlay import COLORS, outlines, overlay
from tests.pictures import levels, picture
from tests.pipelines.conftest import quiet
from tests.publishing.canary import canary
from tests.publishing.hub_pushes import hub
from tests.source_files import ROOT

__all__ = ["hub"]

HEIGHT, WIDTH = 45, 67

SEGMENT = """
import sys
import numpy as np
from sd_pipeline import SegmentationPipeline
pipe = SegmentationPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
output = pipe(np.load(sys.argv[2]), tile_size=36)
assert "training" not in sys.modules and not pipe.unet.training
np.savez(sys.argv[3], labels=output.labels[0], probabilities=output.probabilities[0], instances=output.instances[0])
print(type(pipe).__name__, type(pipe.unet).__name__, pipe.config["class_names"])
"""


def pipeline(in_channels: int = 1, num_classes: int = 3, **config) -> SegmentationPipeline:
    torch.manual_seed(0)
    unet_config = {key: config.pop(key) for key in ("is_padded", "norm_type") if key in config}
    unet = SegmentationUNet(in_channels, num_classes, (4, 6), **unet_config)
    return quiet(SegmentationPipeline(unet=unet, **config))


def grey(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    return levels(width, height, 1, seed)[..., 0]


def wide(seed: int = 0) -> np.ndarray:
    return np.asarray(picture(WIDTH, HEIGHT, "I;16", seed))


@pytest.fixture(scope="module")
def pipe() -> SegmentationPipeline:
    return pipeline()


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("segmentation") / "model"
    pipeline(class_names=["background", "cell", "border"], image_mean=0.5, image_std=0.25).save_pretrained(folder)
    return folder


@pytest.fixture
def copy(repository, tmp_path) -> Path:
    return Path(shutil.copytree(repository, tmp_path / "copy"))


def test_what_is_returned(pipe):
    output = pipe([grey(), grey(1, 1), grey(3, 90)])
    assert [len(results) for results in (output.labels, output.probabilities, output.instances)] == [3, 3, 3]
    for image, size in enumerate([(HEIGHT, WIDTH), (1, 1), (3, 90)]):
        labels, probabilities, instances = (results[image] for results in output.to_tuple())
        assert labels.shape == instances.shape == size
        assert (labels.dtype, probabilities.dtype, instances.dtype) == (np.uint8, np.float32, np.int32)
        assert probabilities.shape == (3, *size)
        np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)
        np.testing.assert_array_equal(labels, probabilities.argmax(0))
        np.testing.assert_array_equal(instances == 0, labels == 0)
    assert set(np.unique(output.labels[0])) == {0, 1, 2}


def test_tensors_and_tuples(pipe):
    arrays = pipe(grey(), return_dict=False)
    tensors = pipe(grey(), output_type="pt")
    for array, tensor in zip(arrays, (tensors.labels, tensors.probabilities, tensors.instances), strict=True):
        np.testing.assert_array_equal(tensor[0].numpy(), array[0])


@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize("norm_type", [None, "batch"])
def test_tiles_and_batches_change_nothing(is_padded, norm_type):
    pipe = pipeline(is_padded=is_padded, norm_type=norm_type)
    images = [grey(), grey(20, 31, seed=1)]
    expected = pipe(images)
    for tile_size, batch_size in [(36, 1), (36, 5), (68, 3)]:
        found = pipe(images, tile_size=tile_size, batch_size=batch_size)
        for one, other in zip(found.probabilities, expected.probabilities, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    assert pipe.unet.training, "the mode of the network is as before"
    np.testing.assert_array_equal(pipe(images).probabilities[0], expected.probabilities[0])


def test_the_bar_counts_all_tiles(pipe, monkeypatch, capsys):
    monkeypatch.setattr(pipe, "_progress_bar_config", {})
    pipe([grey(), grey(10, 10)], tile_size=36, batch_size=4)
    num_tiles = len(pipe.tiling(HEIGHT, WIDTH, 36).origins(HEIGHT, WIDTH)) + 1
    assert f"{num_tiles}/{num_tiles}" in capsys.readouterr().err


def test_the_network_never_sees_more_than_a_batch_of_tiles(pipe, monkeypatch):
    shapes = []
    predict = pipe.predict_tiles
    monkeypatch.setattr(pipe, "predict_tiles", lambda tiles: shapes.append(tuple(tiles.shape)) or predict(tiles))
    assert pipe(np.zeros((1500, 1300), np.uint8), tile_size=212, batch_size=2).labels[0].shape == (1500, 1300)
    assert set(shapes) == {(2, 1, 212, 212)}


def test_kinds_of_images(pipe, tmp_path):
    values = grey()
    Image.fromarray(values).save(tmp_path / "cells.png")
    Image.fromarray(values).save(tmp_path / "cells.tif")
    kinds = {
        "array": values,
        "array with a channel": values[..., None],
        "picture": Image.fromarray(values),
        "path": tmp_path / "cells.png",
        "name": str(tmp_path / "cells.tif"),
        "rgb": np.repeat(values[..., None], 3, axis=2),
        "rgb picture": Image.fromarray(values).convert("RGB"),
        "opaque": np.dstack([values, values, values, np.full_like(values, 255)]),
        "float": values / 255,
        "half precision": (values / 255).astype(np.float16),
        "float of bytes": values.astype(np.float32),
        "float of 16 bits": values * 257.0,
        "16 bits": values.astype(np.uint16) * 257,
        "big-endian": (values.astype(np.uint16) * 257).astype(">u2"),
    }
    expected = pipe(values)
    for kind, image in kinds.items():
        output = pipe(image)
        atol = 1e-2 if kind == "half precision" else 1e-4
        np.testing.assert_allclose(output.probabilities[0], expected.probabilities[0], atol=atol, err_msg=kind)
        if kind != "half precision":
            np.testing.assert_array_equal(output.labels[0], expected.labels[0], err_msg=kind)
    together = pipe(list(kinds.values()))
    assert len(together.labels) == len(kinds)
    np.testing.assert_array_equal(together.labels[0], expected.labels[0])


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bits_keep_their_range(file_format, tmp_path):
    Image.fromarray(wide()).save(tmp_path / "wide", file_format)
    for image in (wide(), tmp_path / "wide", Image.open(tmp_path / "wide")):
        (values,) = read_images(image, in_channels=1)
        np.testing.assert_array_equal(values[0], wide().astype(np.float32) / 65535)
    assert len(np.unique(values)) > 256
    (dim,) = read_images(wide() // 16, in_channels=1)
    assert dim.max() < 1 / 15, "12 bits in 16 are not stretched"


def test_wide_pictures_are_turned_and_their_transparency_is_white(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(wide()).save(tmp_path / "turned.png", exif=exif)
    (turned,) = read_images(tmp_path / "turned.png", in_channels=1)
    np.testing.assert_allclose(turned[0], np.rot90(wide(), -1) / 65535, atol=1e-6)
    flat = Image.fromarray(np.full((2, 3), 7, np.uint16))
    flat.info["transparency"] = 7
    assert read_images(flat, in_channels=1)[0].eq(1).all()
    integers = Image.fromarray(wide().astype(np.int32))
    np.testing.assert_allclose(read_images(integers, in_channels=1)[0][0], wide() / 65535, atol=1e-6)
    floats = Image.fromarray(wide().astype(np.float32))
    np.testing.assert_allclose(read_images(floats, in_channels=1)[0][0], wide() / 65535, atol=1e-6)


@pytest.mark.parametrize("in_channels", [1, 3])
def test_colours_grey_and_transparency(in_channels):
    colors = levels(WIDTH, HEIGHT, 4)
    luma = np.array([0.299, 0.587, 0.114])
    alpha = colors[..., 3:] / 255
    on_white = colors[..., :3] / 255 * alpha + 1 - alpha
    for image in (colors, Image.fromarray(colors)):
        (values,) = read_images(image, in_channels)
        expected = on_white if in_channels == 3 else (on_white @ luma)[..., None]
        np.testing.assert_allclose(values.permute(1, 2, 0), expected, atol=0.003)
    (values,) = read_images(grey(), in_channels)
    assert values.shape == (in_channels, HEIGHT, WIDTH)
    np.testing.assert_allclose(values, np.stack([grey() / 255] * in_channels), atol=1e-6)
    with_alpha = picture(WIDTH, HEIGHT, "LA")
    assert read_images(with_alpha, in_channels)[0].shape == (in_channels, HEIGHT, WIDTH)


def test_networks_of_other_channels_take_arrays_of_as_many():
    colors = levels(WIDTH, HEIGHT, 4)
    (values,) = read_images(colors, in_channels=4)
    np.testing.assert_allclose(values.permute(1, 2, 0), colors / 255, atol=1e-6)
    assert pipeline(in_channels=5)(np.zeros((9, 9, 5), np.uint8)).labels[0].shape == (9, 9)
    with pytest.raises(ValueError, match=r"`images` is 'of 3 channels'; it must be of 5 channels"):
        read_images(colors[..., :3], in_channels=5)


def test_images_are_standardised():
    values = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.4
    by_itself = standardise(values, None, None)
    assert abs(by_itself.mean()) < 1e-5
    assert abs(by_itself.std(correction=0) - 1) < 1e-5
    torch.testing.assert_close(standardise(values, 0.5, 0.25), (values - 0.5) / 0.25)
    assert standardise(torch.full((1, 5, 7), 0.1), None, None).eq(0).all()


def test_contrast_and_brightness_matter_only_with_fixed_statistics(pipe):
    darker = (grey() // 2).astype(np.float32) / 255
    np.testing.assert_allclose(pipe(darker).probabilities[0], pipe(darker / 2 + 0.3).probabilities[0], atol=1e-4)
    fixed = pipeline(image_mean=0.5, image_std=0.25)
    assert np.abs(fixed(darker).probabilities[0] - fixed(darker / 2 + 0.3).probabilities[0]).max() > 0.01


def test_instances_are_numbered_through_the_classes():
    labels = np.array([[1, 0, 2, 2], [0, 1, 0, 0], [2, 0, 1, 1]], dtype=np.uint8)
    instances = connected_components(labels)
    assert instances.tolist() == [[1, 0, 4, 4], [0, 2, 0, 0], [5, 0, 3, 3]]
    assert connected_components(np.zeros((2, 2), np.uint8)).tolist() == [[0, 0], [0, 0]]


def test_many_classes_need_wider_labels():
    probabilities = np.zeros((300, 2, 3), np.float32)
    probabilities[299] = 1
    assert most_probable(probabilities).dtype == np.uint16
    assert (most_probable(probabilities) == 299).all()
    assert most_probable(probabilities[:256]).dtype == np.uint8


@pytest.mark.parametrize("class_names", [None, ["background", "cell"]])
@pytest.mark.parametrize("norm_type", [None, "batch"])
def test_round_trips_keep_everything(class_names, norm_type, tmp_path):
    pipe = pipeline(num_classes=2, class_names=class_names, norm_type=norm_type)
    expected = pipe(grey()).probabilities[0]
    pipe.save_pretrained(tmp_path / "first")
    SegmentationPipeline.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    again = quiet(SegmentationPipeline.from_pretrained(tmp_path / "second"))
    assert again.config["class_names"] == class_names
    assert (again.config["image_mean"], again.config["image_std"]) == (None, None)
    np.testing.assert_allclose(again(grey()).probabilities[0], expected, atol=1e-6)
    for file in ("model_index.json", "unet/config.json"):
        contents = [json.loads((tmp_path / which / file).read_text()) for which in ("first", "second")]
        assert contents[0] == contents[1]
        assert str(tmp_path) not in json.dumps(contents)
    files = {path.relative_to(tmp_path / "second").as_posix() for path in (tmp_path / "second").rglob("*.*")}
    assert files == {"model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"}
    index = contents[0] = json.loads((tmp_path / "second/model_index.json").read_text())
    assert index["_class_name"] == "SegmentationPipeline"
    assert index["unet"] == ["sd_pipeline", "SegmentationUNet"]
    assert list(index["_sd_pipeline"]["sha256"]) == ["unet/diffusion_pytorch_model.safetensors"]


def segment_elsewhere(name: str, place: Path, **environment: str) -> dict[str, np.ndarray]:
    """Load a model in a new process and segment."""
    np.save(place / "image.npy", grey())
    command = [sys.executable, "-c", SEGMENT, name, str(place / "image.npy"), str(place / "output.npz")]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=place, env=variables, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "SegmentationPipeline SegmentationUNet ['background', 'cell', 'border']"
    with np.load(place / "output.npz") as stored:
        return {what: stored[what] for what in stored.files}


def assert_same(found: dict[str, np.ndarray], repository: Path) -> None:
    expected = quiet(SegmentationPipeline.from_pretrained(repository))(grey(), tile_size=36)
    np.testing.assert_allclose(found["probabilities"], expected.probabilities[0], atol=1e-6)
    np.testing.assert_array_equal(found["labels"], expected.labels[0])
    np.testing.assert_array_equal(found["instances"], expected.instances[0])


def test_a_new_process_gives_the_same(repository, tmp_path):
    assert_same(segment_elsewhere(str(repository), tmp_path), repository)


@pytest.mark.hub
def test_a_model_on_the_hub_loads_by_its_name(hub, repository, copy, tmp_path):
    from huggingface_hub import HfApi

    (copy / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    (copy / "unet" / "sd_pipeline.py").write_text("raise RuntimeError('foreign code has run')")
    api = HfApi(endpoint=hub.address)
    api.create_repo("somebody/cells")
    api.upload_folder(repo_id="somebody/cells", folder_path=copy)
    environment = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    assert_same(segment_elsewhere("somebody/cells", tmp_path, HF_HUB_OFFLINE="0", **environment), repository)
    downloaded = {path.name for path in (tmp_path / "hf").rglob("snapshots/*/**/*") if path.is_file()}
    assert downloaded == {"model_index.json", "config.json", "diffusion_pytorch_model.safetensors"}
    # What was downloaded once is found without a Hub.
    assert_same(segment_elsewhere("somebody/cells", tmp_path, HF_HUB_OFFLINE="1", **environment), repository)


def test_variants_and_types(repository, tmp_path):
    pipe = SegmentationPipeline.from_pretrained(repository, dtype=torch.float64)
    assert pipe.unet.dtype == torch.float64
    expected = quiet(pipe)(grey()).probabilities[0]
    assert expected.dtype == np.float32
    pipe.to(torch.float32).save_pretrained(tmp_path, variant="small")
    again = quiet(SegmentationPipeline.from_pretrained(tmp_path, variant="small"))
    np.testing.assert_allclose(again(grey()).probabilities[0], expected, atol=1e-4)


def edit_index(folder: Path, **values) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, **values}))


def edit_config(folder: Path, **values) -> None:
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps({**config, **values}))


def move_weights(folder: Path) -> None:
    """Have an index of shards name a file elsewhere."""
    shutil.move(folder / WEIGHTS, folder.parent / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": {"conv_out.bias": "../../elsewhere.safetensors"}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def flip(path: Path) -> None:
    weights = load_file(path)
    weights["conv_out.bias"] += 1
    save_file(weights, path, metadata={"format": "pt"})


def pickle_weights(path: Path) -> None:
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), "model_index.json is missing"),
        (lambda folder: edit_index(folder, _class_name="DDPMPipeline"), "`_class_name` is 'DDPMPipeline'"),
        (lambda folder: edit_index(folder, _class_name=["code", "Pipe"]), "allowed: 'SegmentationPipeline'"),
        (lambda folder: edit_index(folder, unet=["os", "system"]), r"`unet` is \['os', 'system'\]; allowed"),
        (lambda folder: edit_index(folder, unet=["sd_pipeline", "SDUNet2DConditionModel"]), "`unet` is .*allowed"),
        (lambda folder: edit_index(folder, unet=["diffusers", "SegmentationUNet"]), "`unet` is .*; allowed"),
        (lambda folder: edit_index(folder, helper=["os", "system"]), "with a `helper` cannot be used here"),
        (lambda folder: edit_index(folder, **{"../unet": ["os", "system"]}), r"with a `\.\./unet` cannot be used"),
        (lambda folder: edit_index(folder, _sd_pipeline=["x"]), "`_sd_pipeline` is .*does not write"),
        (lambda folder: edit_index(folder, _sd_pipeline={"sha256": ["x"]}), "allowed: digests by file"),
        (lambda folder: edit_index(folder, class_names=["one"]), "`class_names` is .* a list of 3 names"),
        (lambda folder: edit_index(folder, image_std=0), "`image_std` is 0; it must be a positive number"),
        (lambda folder: (folder / "unet/code.py").write_text(""), "code.py is code"),
        (lambda folder: (folder / "unet/config.json").write_text('{"auto_map": {"a": "b"}}'), "asks for code"),
        (lambda folder: edit_config(folder, block_out_channels=[10**6, 10**6]), "block_out_channels` is"),
        (lambda folder: edit_config(folder, block_out_channels=[4] * 500), "asks for 500 layers"),
        (lambda folder: edit_config(folder, num_classes=10**12), "`num_classes` is 1000000000000"),
        (lambda folder: edit_config(folder, in_channels="one"), "unet/config.json"),
        (lambda folder: edit_config(folder, norm_type="os.system"), "norm_type must be one of"),
        (lambda folder: move_weights(folder), "names '../../elsewhere.safetensors'; allowed"),
        (lambda folder: (folder / WEIGHTS).unlink(), "diffusion_pytorch_model.safetensors is missing"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"no weights"), "not a safetensors file|truncated"),
        (lambda folder: flip(folder / WEIGHTS), "is damaged or was exchanged"),
        (lambda folder: pickle_weights(folder / WEIGHTS), "is a pickle"),
    ],
)
def test_damaged_and_hostile_repositories_are_refused_in_one_line(damage, message, copy):
    damage(copy)
    with pytest.raises(ValueError, match=message) as raised:
        SegmentationPipeline.from_pretrained(copy)
    assert "\n" not in str(raised.value)


def test_a_pickle_beside_the_weights_is_not_read(copy, tmp_path):
    for name in ("diffusion_pytorch_model.bin", "pytorch_model.bin", "model.ckpt"):
        (copy / "unet" / name).write_bytes(canary(tmp_path / "mark"))
    pipe = SegmentationPipeline.from_pretrained(copy)
    assert not (tmp_path / "mark").exists()
    assert torch.equal(pipe.unet.conv_out.bias, load_file(copy / WEIGHTS)["conv_out.bias"])


def test_pickles_are_never_read(copy):
    pickle_weights(copy / WEIGHTS)
    with pytest.raises(ValueError, match="`use_safetensors` is False; it must be left out; load pickles with"):
        SegmentationPipeline.from_pretrained(copy, use_safetensors=False)
    unet = SegmentationUNet.from_pretrained(copy, subfolder="unet", use_safetensors=False)
    assert SegmentationPipeline.from_pretrained(copy, unet=unet).unet is unet


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"class_names": ["a", "b"]}, "must be a list of 3 names"),
        ({"class_names": "abc"}, "must be a list of 3 names"),
        ({"image_mean": 0.5}, "`image_std` is None; it must be a positive number"),
        ({"image_std": 0.5}, "`image_mean` is None; it must be a finite number"),
        ({"image_mean": float("nan"), "image_std": 1.0}, "`image_mean` is nan"),
        ({"image_mean": 0.5, "image_std": -1.0}, "`image_std` is -1.0"),
    ],
)
def test_impossible_pipelines(config, message):
    with pytest.raises(ValueError, match=message):
        pipeline(**config)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], r"`images` is \[\]; it must be a PIL image, an array .* not empty"),
        (None, "`images` is 'of type NoneType'; it must be a PIL image"),
        ([np.zeros((4, 4), np.uint8), 3], r"`images\[1\]` is 'of type int'; it must be"),
        (np.zeros((4, 4), bool), "`images` is 'made of bool'; it must be uint8, uint16 .* or floating point"),
        (np.zeros((4, 4), np.int64), "`images` is 'made of int64'; it must be uint8"),
        (np.zeros((4, 4), np.complex64), "'made of complex64'"),
        (np.array([["a"]]), "'made of <U1'"),
        (np.zeros((4, 0), np.uint8), r"'of shape \(4, 0\)'; it must be .* with at least one pixel"),
        (np.zeros(4, np.uint8), r"'of shape \(4,\)'"),
        (np.zeros((2, 4, 4, 1), np.uint8), r"'of shape \(2, 4, 4, 1\)'"),
        (np.zeros((4, 4, 2), np.uint8), "'of 2 channels'; it must be of 1 or 3 or 4 channels"),
        (np.array([[0.5, np.nan]]), "not finite"),
        (np.array([[0.5, np.inf]]), "not finite"),
        (np.array([[-1.0, 1.0]]), r"'from -1 to 1'; it must be in \[0, 65535\]"),
        (np.array([[0.0, 1e6]]), r"'from 0 to 1e\+06'"),
        (Image.new("L", (0, 3)), "'of 0x3 pixels'; it must be of at least 1x1"),
        ("no/such/cells.tif", "`images`: there is no file no/such/cells.tif"),
        (["no/such/cells.tif"], r"`images\[0\]`: there is no file"),
    ],
)
def test_images_that_cannot_be_used(pipe, images, message):
    with pytest.raises(ValueError, match=message) as raised:
        pipe(images)
    assert "\n" not in str(raised.value)


def test_files_that_cannot_be_used(pipe, tmp_path):
    Image.fromarray(wide()).save(tmp_path / "cells.tif")
    content = (tmp_path / "cells.tif").read_bytes()
    Image.fromarray(grey()).save(tmp_path / "stack.tif", save_all=True, append_images=[Image.fromarray(grey())])
    (tmp_path / "text.tif").write_text("no image")
    (tmp_path / "short.tif").write_bytes(content[: len(content) // 2])
    (tmp_path / "shorter.tif").write_bytes(content[:20])
    Image.fromarray(grey()).save(tmp_path / "cells.png")
    (tmp_path / "short.png").write_bytes((tmp_path / "cells.png").read_bytes()[:200])
    for name, message in {
        "text.tif": "is not an image, or damaged",
        "short.tif": "cannot be read|damaged",
        "shorter.tif": "cannot be read|damaged",
        "short.png": "short.png` cannot be read",
        "stack.tif": "has 2 pages; allowed: one",
        "": "there is no file",
    }.items():
        with pytest.raises(ValueError, match=message) as raised:
            pipe([grey(), tmp_path / name])
        assert "\n" not in str(raised.value)
        assert name in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tile_size": 37}, "a side of 37 pixels does not fit 2 levels; allowed: 18, 20, 22, ...; the next one is 38"),
        ({"tile_size": 16}, "a side of 16 pixels does not fit"),
        ({"tile_size": 36.0}, "`tile_size` is 36.0"),
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"output_type": "pil"}, "`output_type` is 'pil'; it must be one of np, pt"),
    ],
)
def test_impossible_calls(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe("is not even looked at", **arguments)


def test_weights_that_are_not_finite_are_no_segmentation():
    pipe = pipeline()
    pipe.unet.conv_out.bias.data[0] = float("nan")
    with pytest.raises(ValueError, match="`unet` gives logits that are NaN or infinite"):
        pipe(grey())
    assert pipe.unet.training


def test_the_overlay_colours_instances_half_and_their_outlines_whole():
    image = np.full((7, 9), 100, np.uint8)
    instances = np.zeros((7, 9), np.int32)
    instances[1:6, 2:7] = 1
    shown = np.asarray(overlay(image, instances)).astype(int)
    assert shown.shape == (7, 9, 3)
    assert (shown[instances == 0] == 100).all()
    color = COLORS[0].astype(int)
    np.testing.assert_array_equal(shown[1, 2], color)
    np.testing.assert_allclose(shown[3, 4], (100 + color) / 2, atol=1)
    assert outlines(instances).sum() == 16
    np.testing.assert_array_equal(overlay(image, np.zeros_like(instances)), np.full((7, 9, 3), 100))
    assert overlay(Image.fromarray(image), np.ones((7, 9), np.uint8)).mode == "RGB"


def test_neighbours_have_colours_of_their_own():
    """Cells of 3x3 pixels with gaps of one, numbered as they are found: number 1 and 8 would have one colour."""
    instances = np.zeros((28, 28), np.int32)
    numbers = np.arange(1, 50).reshape(7, 7)
    for row, column in np.ndindex(7, 7):
        instances[4 * row : 4 * row + 3, 4 * column : 4 * column + 3] = numbers[row, column]
    shown = np.asarray(overlay(np.zeros((28, 28), np.uint8), instances))
    colors = shown[::4, ::4].astype(int)
    assert (colors[1:] != colors[:-1]).any(-1).all()
    assert (colors[:, 1:] != colors[:, :-1]).any(-1).all()
    np.testing.assert_array_equal(shown, overlay(np.zeros((28, 28), np.uint8), instances))


@pytest.mark.parametrize(
    ("instances", "message"),
    [
        (np.zeros((3, 3), np.int32), r"`instances` is 'int32 of shape \(3, 3\)'; it must be .* \(4, 4\)"),
        (np.zeros((4, 4)), "`instances` is 'float64 of shape"),
        (np.full((4, 4), -1), "'negative somewhere'"),
        (None, "`instances` is 'NoneType of shape None'"),
    ],
)
def test_overlays_that_cannot_be_made(instances, message):
    with pytest.raises(ValueError, match=message):
        overlay(np.zeros((4, 4), np.uint8), instances)
    with pytest.raises(ValueError, match="`image` is 'a list'; it must be one image"):
        overlay([np.zeros((4, 4), np.uint8)], np.zeros((4, 4), np.int32))


def test_a_tiff_that_lies_on_its_side_is_read_upright(tmp_path):
    """Pillow maps uncompressed TIFFs into memory when it is given a path, in the shape that they have when upright."""
    image = np.random.default_rng(0).integers(0, 256, (7, 12), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned by 90 degrees clockwise.
    Image.fromarray(image).save(tmp_path / "turned.tif", exif=exif)
    read = read_images(tmp_path / "turned.tif", 1)[0][0].numpy() * 255
    np.testing.assert_allclose(read, np.rot90(image, -1), atol=1e-4)
