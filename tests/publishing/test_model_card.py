from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sd_pipeline.publishing.model_card import model_card, without_local_paths

TEMPLATE = Path(__file__).parents[2] / "model_cards" / "pipeline.md"
FACTS = {
    "name": "digits",
    "repository": "outputs/digits/pipeline",
    "example_prompt": 'a "seven"',
    "recommended_call": {"num_inference_steps": 25, "guidance_scale": 3.0},
}
# What a run fills in besides.
NAMES = ("samples", "size", "memorisation", "training_data", "stages", "cost", "curve", "reproduce", "license")
FIELDS = dict.fromkeys(NAMES, "a text")


def front_matter(card: str) -> dict:
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


def python_blocks(card: str) -> list[str]:
    return [block.split("```")[0] for block in card.split("```python\n")[1:]]


def test_card_of_a_text_to_image_model():
    results = {"PSNR": 25.123456, "recognised": {"all": "191 of 200", "seven": 0.95}}
    card = model_card(
        TEMPLATE,
        **FACTS,
        results=results,
        config={"seed": 0, "data": {"dataset": "digits"}},
        tags=["x"],
        fields=FIELDS,
    )
    assert front_matter(card) == {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["sd_pipeline", "diffusers", "stable-diffusion", "x"],
    }
    assert "\n# digits\n" in card
    assert "| PSNR | 25.12 |" in card
    assert "| recognised, all | 191 of 200 |" in card
    assert yaml.safe_load(card.split("```yaml\n")[1].split("```")[0]) == {"seed": 0, "data": {"dataset": "digits"}}
    here, stock = python_blocks(card)
    assert "$" not in card
    assert 'pipe("a \\"seven\\"", generator=' in here
    assert 'pipe(prompt="a \\"seven\\"", num_inference_steps=25, guidance_scale=3.0' in stock
    for block in (here, stock):
        compile(block, "card", "exec")


def test_what_a_template_and_the_hub_ask_for_beyond(tmp_path):
    template = tmp_path / "card.md"
    template.write_text("---\n$metadata---\n$name: $score")
    card = model_card(template, **FACTS, fields={"score": "99% [98, 100]"}, metadata={"license": "apache-2.0"})
    assert front_matter(card)["license"] == "apache-2.0"
    assert card.endswith("digits: 99% [98, 100]")


def test_no_local_path_is_told():
    config = {"output_dir": "/home/me/run", "list": [{"dataset": "/data/mine"}], "kept": "outputs/digits", "seed": 0}
    card = model_card(TEMPLATE, **{**FACTS, "repository": "/home/me/run/pipeline"}, config=config, fields=FIELDS)
    assert "/home" not in card
    assert 'SDPipeline.from_pretrained("pipeline")' in card
    told = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    assert told == {"output_dir": "run", "list": [{"dataset": "mine"}], "kept": "outputs/digits", "seed": 0}


def test_card_of_a_model_that_needs_this_package():
    facts = {**FACTS, "example_prompt": None, "loads_in_diffusers": False, "recommended_call": None}
    card = model_card(TEMPLATE, **facts, fields=FIELDS)
    assert front_matter(card)["pipeline_tag"] == "unconditional-image-generation"
    (here,) = python_blocks(card)
    assert "pipe(batch_size=1, generator" in here
    assert "This package is needed" in card
    assert "Nothing has been measured yet." in card


def test_card_of_a_model_that_inpaints():
    card = model_card(TEMPLATE.with_name("inpainting.md"), **FACTS, inpaints=True, fields=FIELDS)
    here, stock = python_blocks(card)
    for block in (here, stock):
        compile(block, "card", "exec")
        assert block.count("picture.png") == block.count("mask.png") == block.count("from PIL import Image") == 1
    for argument in ("image=picture", "mask_image=mask", "height=picture.height", "width=picture.width"):
        assert f"\n    {argument},\n" in stock
    assert "AutoPipelineForInpainting" in stock
    assert "num_inference_steps=25, guidance_scale=3.0, image=picture, mask_image=mask)`" in card


@pytest.mark.parametrize(
    ("text", "message"), [("$nothing", "unknown field 'nothing'; there are metadata"), ("costs 5 $", "written")]
)
def test_template_that_asks_for_something_else(tmp_path, text, message):
    template = tmp_path / "card.md"
    template.write_text(text)
    with pytest.raises(ValueError, match=rf"card\.md: .*{message}"):
        model_card(template, **FACTS)


def test_what_is_told_of_addresses():
    assert without_local_paths(
        ["https://me:secret@host/a.tar?signature=1", "~/data", "../x", "file:///home/me/a"]
    ) == [
        "https://host/a.tar",
        "data",
        "x",
        "a",
    ]
