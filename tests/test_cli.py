from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sd_pipeline import SDImg2ImgPipeline, SDInpaintPipeline, SDOutpaintPipeline, SDPipeline, cli
from sd_pipeline.samplers import SCHEDULERS
from tests.components import tiny_components, tiny_scheduler, tiny_unconditional_unet, tiny_vae

PROMPT = "a red circle"

pytestmark = pytest.mark.usefixtures("quiet_libraries")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pipe = SDPipeline(**tiny_components(), recommended_call={"num_inference_steps": 2, "guidance_scale": 3.0})
    pipe.save_pretrained(folder)
    return str(folder)


def generate(model: str, output: Path, *arguments: str) -> int:
    return cli.main(["generate", "--model", model, "--output", str(output), "--device", "cpu", *arguments])


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_picture_is_the_one_of_the_python_call(model, tmp_path, capsys):
    output = tmp_path / "new" / "out.png"
    assert generate(model, output, "--prompt", PROMPT, "--seed", "3", "--negative-prompt", "a blue square") == 0
    expected = SDPipeline.from_pretrained(model)(
        PROMPT, negative_prompt="a blue square", generator=torch.Generator().manual_seed(3)
    ).images[0]
    np.testing.assert_allclose(pixels(output), np.asarray(expected).astype(int), atol=1)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == str(output)
    assert printed[1].startswith("seed 3, ")


def test_options_of_the_call(model, tmp_path):
    options = ["--num-inference-steps", "3", "--guidance-scale", "1", "--height", "16", "--width", "48"]
    assert generate(model, tmp_path / "a.png", "--prompt", PROMPT, "--seed", "0", "--scheduler", "ddim", *options) == 0
    assert pixels(tmp_path / "a.png").shape == (16, 48, 3)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_schedulers(model, tmp_path, scheduler):
    # diffusers' PNDM cannot take fewer steps than 4.
    options = ["--prompt", PROMPT, "--num-inference-steps", "4", "--scheduler", scheduler]
    assert generate(model, tmp_path / "a.webp", *options) == 0


def test_several_pictures_are_numbered_and_do_not_depend_on_each_other(model, tmp_path):
    three = ["--prompt", PROMPT, "--num-images-per-prompt", "3", "--seed", "7"]
    assert generate(model, tmp_path / "out.png", *three) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-0.png", "out-1.png", "out-2.png"]
    assert generate(model, tmp_path / "one.png", "--prompt", PROMPT, "--seed", "9") == 0
    np.testing.assert_allclose(pixels(tmp_path / "one.png"), pixels(tmp_path / "out-2.png"), atol=1)
    assert generate(model, tmp_path / "grid.png", *three, "--grid") == 0
    together = np.concatenate([pixels(tmp_path / f"out-{i}.png") for i in range(3)], axis=1)
    np.testing.assert_array_equal(pixels(tmp_path / "grid.png"), together)


def test_another_seed_each_time_unless_one_is_given(model, tmp_path, capsys):
    for name in ("a.png", "b.png"):
        assert generate(model, tmp_path / name, "--prompt", PROMPT) == 0
    assert (pixels(tmp_path / "a.png") != pixels(tmp_path / "b.png")).any()
    seed = capsys.readouterr().out.splitlines()[1].split()[1].rstrip(",")
    assert generate(model, tmp_path / "c.png", "--prompt", PROMPT, "--seed", seed) == 0
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "c.png"))


def test_unconditional_model(tmp_path):
    pipe = SDPipeline(unet=tiny_unconditional_unet(), vae=tiny_vae(), scheduler=tiny_scheduler())
    pipe.save_pretrained(tmp_path / "model")
    options = ["--num-images-per-prompt", "2", "--num-inference-steps", "1"]
    assert generate(str(tmp_path / "model"), tmp_path / "out.png", *options) == 0
    assert (tmp_path / "out-1.png").is_file()


@pytest.fixture(scope="module")
def picture_and_mask(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("pictures")
    picture, mask = Image.new("RGB", (30, 33), (40, 60, 200)), Image.new("L", (30, 33), "black")
    picture.paste((250, 200, 20), (5, 5, 20, 20))
    mask.paste("white", (10, 10, 26, 30))
    picture.save(folder / "picture.png")
    mask.save(folder / "mask.png")
    return str(folder / "picture.png"), str(folder / "mask.png")


def run(command: str, model: str, output: Path, *arguments: str) -> int:
    fixed = ["--model", model, "--output", str(output), "--device", "cpu", "--prompt", PROMPT, "--seed", "3"]
    return cli.main([command, *fixed, *arguments])


def test_pictures_from_pictures_are_those_of_the_python_calls(model, tmp_path, picture_and_mask):
    picture, mask = picture_and_mask
    calls = {
        "img2img": (SDImg2ImgPipeline, ["--strength", "0.5"], {"strength": 0.5}),
        "inpaint": (SDInpaintPipeline, ["--mask-image", mask], {"mask_image": Image.open(mask)}),
        "outpaint": (SDOutpaintPipeline, ["--padding", "3", "0", "9", "1"], {"padding": (3, 0, 9, 1)}),
    }
    for command, (pipeline, options, arguments) in calls.items():
        output = tmp_path / f"{command}.png"
        assert run(command, model, output, "--image", picture, *options) == 0
        pipe = pipeline.from_pretrained(model)
        generator = torch.Generator().manual_seed(3)
        expected = pipe(PROMPT, image=Image.open(picture), generator=generator, **arguments).images[0]
        np.testing.assert_allclose(pixels(output), np.asarray(expected).astype(int), atol=1)
    assert pixels(tmp_path / "outpaint.png").shape == (34, 42, 3)


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("img2img", [], "the following arguments are required: --image"),
        ("img2img", ["--image", "PICTURE", "--strength", "2"], "`strength` is 2.0"),
        ("img2img", ["--image", "no.png"], "no.png"),
        ("img2img", ["--image", __file__], "cannot identify image file"),
        ("img2img", ["--image", "PICTURE", "--lora", "no/such/adapters"], "no/such/adapters"),
        ("inpaint", ["--image", "PICTURE"], "--mask-image"),
        ("inpaint", ["--image", "PICTURE", "--mask-image", "OTHER"], "`mask_image` is 'of 64x64 pixels"),
        ("outpaint", ["--image", "PICTURE"], "--padding"),
        ("outpaint", ["--image", "PICTURE", "--padding", "0", "0", "0", "0"], "`padding` is"),
        ("outpaint", ["--image", "PICTURE", "--padding", "1", "2"], "--padding"),
    ],
)
def test_wrong_options_of_the_other_commands_are_one_line(
    model, tmp_path, capsys, picture_and_mask, command, arguments, message
):
    Image.new("L", (64, 64), "white").save(tmp_path / "other.png")
    files = {"PICTURE": picture_and_mask[0], "OTHER": str(tmp_path / "other.png")}
    arguments = [files.get(word, word) for word in arguments]
    assert run(command, model, tmp_path / "out.png", *arguments) == cli.BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "`prompt`"),
        (["--prompt", PROMPT, "--num-inference-steps", "0"], "`num_inference_steps` is 0"),
        (["--prompt", PROMPT, "--num-inference-steps", "many"], "--num-inference-steps: invalid int value: 'many'"),
        (["--prompt", PROMPT, "--num-images-per-prompt", "0"], "--num-images-per-prompt is 0"),
        (["--prompt", PROMPT, "--height", "30"], "`height` is 30"),
        (["--prompt", PROMPT, "--scheduler", "best"], "--scheduler: invalid choice: 'best'"),
        (["--prompt", PROMPT, "--device", "abacus"], "--device abacus: "),
        (["--prompt", PROMPT, "--steps", "3"], "unrecognized arguments: --steps 3"),
        (["--prompt", PROMPT, "--output", "picture"], "--output is 'picture'; it must end with one of .png"),
        (["--prompt", PROMPT, "--model", "no/such/model"], "'no/such/model' is neither a folder nor"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_wrong_options_are_one_line(model, tmp_path, capsys, arguments, message):
    assert generate(model, tmp_path / "out.png", *arguments) == cli.BAD_INPUT
    _one_line(capsys, message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["paint"], "invalid choice: 'paint'"),
        (["generate", "--prompt", "x"], "required: --output"),
    ],
    ids=str,
)
def test_wrong_commands_are_one_line(capsys, arguments, message):
    assert cli.main(arguments) == cli.BAD_INPUT
    _one_line(capsys, message)


def _one_line(capsys, message: str) -> None:
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sd-pipeline: ")
    assert message in line


def test_pictures_are_not_overwritten_unless_asked(model, tmp_path, capsys):
    for name in ("out.png", "out-1.png"):
        (tmp_path / name).write_text("precious")
    assert generate(model, tmp_path / "out.png", "--prompt", PROMPT) == cli.BAD_INPUT
    _one_line(capsys, "out.png exists; --overwrite replaces it")
    assert generate(model, tmp_path / "out.png", "--prompt", PROMPT, "--num-images-per-prompt", "2") == cli.BAD_INPUT
    _one_line(capsys, "out-1.png exists")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-1.png", "out.png"]
    assert {path.read_text() for path in tmp_path.iterdir()} == {"precious"}
    assert generate(model, tmp_path / "out.png", "--prompt", PROMPT, "--overwrite") == 0
    assert pixels(tmp_path / "out.png").shape == (32, 32, 3)


def test_damaged_model_in_a_process_of_its_own(model, tmp_path):
    damaged = Path(shutil.copytree(model, tmp_path / "damaged"))
    weights = damaged / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    command = ["-m", "sd_pipeline.cli", "generate", "--model", str(damaged), "--output", str(tmp_path / "out.png")]
    result = subprocess.run(
        [sys.executable, *command, "--prompt", PROMPT], capture_output=True, text=True, check=False
    )
    assert result.returncode == cli.BAD_INPUT
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert str(weights) in line
    assert "is truncated" in line
    assert not (tmp_path / "out.png").exists()


def test_help_comes_at_once():
    start = time.perf_counter()
    command = [sys.executable, "-X", "importtime", "-m", "sd_pipeline.cli", "generate", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert "--num-inference-steps" in result.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert not imported & {"torch", "numpy", "diffusers", "transformers", "PIL"}
    assert time.perf_counter() - start < 5, "about 0.1 s on an idle machine"
