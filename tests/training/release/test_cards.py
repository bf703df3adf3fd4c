"""What cards say: of data, energy, memorisation and results; and that a card never costs a training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from tests.training.configurations import config_of, some_digits, tiny_train_config
from training.config import CardConfig, ConfigError
from training.config_card import HUB_LICENSES
from training.engine.run_folder import RunFolder
from training.release.added_results import check_card, with_results
from training.release.energy import consumption, energy_text, watts
from training.release.intermediate_card import write_intermediate_card
from training.release.memorisation import memorisation_text, nearest, thumbnails
from training.release.training_data import hub_dataset, license_text, training_data_text
from training.stage_card import CardMaker
from training.tasks.autoencoder import AutoencoderTask

CPU = {"processor": "Toaster", "num_cores": 2, "accelerator": None, "num_processes": 1}
GPUS = {"processor": "Toaster", "num_cores": 16, "accelerator": "NVIDIA H100 80GB HBM3", "num_processes": 4}


def test_energy_is_time_times_power():
    assert watts(CPU) == 2 * 12
    assert watts(GPUS) == 16 * 12 + 4 * 700
    spent = consumption([{"seconds": 3600.0, "hardware": CPU}, {"seconds": 1800.0, "hardware": GPUS}])
    assert math.isclose(spent.kilowatt_hours, (0.024 + 0.5 * 2.992) * 1.67)
    assert math.isclose(spent.grams, spent.kilowatt_hours * 475)
    assert "200 W where it is not known" in energy_text([{"seconds": 1800.0, "hardware": GPUS}])


def test_energy_is_not_told_where_the_hardware_is_not_known():
    assert consumption([{"seconds": 3600.0, "hardware": CPU}, {"seconds": 1.0}]) is None
    assert "not estimated" in energy_text([{"seconds": 1.0}])


def test_data_sets_of_the_hub_are_told_from_folders(tmp_path, monkeypatch):
    (tmp_path / "me" / "pictures").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for not_there in ("digits", "shapes", "me/pictures", str(tmp_path), "https://host/{0..9}.tar", "../x"):
        assert hub_dataset(not_there) is None, not_there
    assert hub_dataset("me/data") == "me/data"
    assert hub_dataset("hf://datasets/me/data@main/train/*.parquet") == "me/data"


def text_of(dataset: str, **card: str) -> str:
    return training_data_text({"data": {"dataset": dataset, "resolution": 32}, "card": card}, 1000, 0)


def test_what_is_said_of_data(tmp_path):
    assert "CC BY 4.0" in text_of("digits")
    assert "Apache-2.0" in text_of("shapes")
    unknown = text_of(str(tmp_path))
    assert "unknown to this card" in unknown
    assert "`card.data_license`" in unknown
    assert str(tmp_path.parent) not in unknown
    told = text_of(str(tmp_path), data_license="CC0", data_description="My own drawings.")
    assert "My own drawings." in told
    assert "Licence of the data: CC0." in told


def test_the_licence_is_one_that_the_hub_knows():
    assert {"apache-2.0", "mit", "cc-by-4.0", "creativeml-openrail-m", "openrail++", "other"} <= HUB_LICENSES
    assert "None is stated" in license_text({"card": {"license": None}})
    assert license_text({"card": {"license": "mit"}}) == "The weights are under `mit`, as their author states."
    base = {"diffusion": {"pretrained_model_name_or_path": "/home/me/base"}}
    assert "`base`, from which it was trained on, has a licence of its own" in license_text(base)
    with pytest.raises(ConfigError, match=r"card\.license = 'Apache': must be null, or one of"):
        CardConfig(license="Apache")


def test_the_nearest_image_and_its_distance():
    pictures = [Image.new("RGB", (40, 40), grey) for grey in ("black", "white", "#808080")]
    references = thumbnails(pictures[:2])
    found = nearest(thumbnails(pictures), references)
    assert found.indices.tolist() == [0, 1, 1]
    np.testing.assert_allclose(found.distances, [0, 0, 127 / 255], atol=1e-6)


def test_copies_are_told():
    text = memorisation_text(np.array([0.0, 0.3]), np.array([0.1, 0.2]), 2000, 5000)
    assert "2,000 of the 5,000" in text
    assert "1 of the generated pictures are nearer" in text
    assert "No images were held out" in memorisation_text(np.array([0.1]), None, 5, 5)


CARD = """---
library_name: diffusers
---

# mine

## Results

Nothing has been measured yet.

## Training

Text.
"""


def test_results_take_the_place_of_older_ones():
    digits = {"suite": "digits", "recognised_fraction": 0.5}
    card = with_results(CARD, digits, "half of all", "the command")
    card = with_results(card, {"suite": "shapes-inpaint"}, "other table", "another command")
    card = with_results(card, {**digits, "recognised_fraction": 0.75}, "three quarters", "the command")
    assert "Nothing has been measured" not in card
    assert "half of all" not in card
    assert card.index("other table") < card.index("three quarters") < card.index("## Training\n\nText.")
    (result,) = ModelCard(card).data.eval_results
    assert (result.metric_value, result.dataset_type, result.task_type) == (0.75, "digits", "text-to-image")
    with pytest.raises(ValueError, match="no section Results"):
        check_card("# Another page\n")


def test_bits_are_added_to_what_a_card_says_and_to_the_index_of_the_hub():
    card = CARD.replace("Nothing has been measured yet.", "A table of the release.")
    found = {"mean": 3.25, "standard_error": 0.1}
    bits = {
        "suite": "bits",
        "protocol": {"dataset": "digits", "dataset_split": "validation", "num_images": 5},
        "bits_per_dimension": {"with its caption": found, "PNG": found},
        "terms_in_nats": {"with its caption": {}},
    }
    for _ in range(2):
        card = with_results(card, bits, "the bits", "the command")
    assert card.count("A table of the release.") == card.count("the bits") == 1
    (result,) = ModelCard(card).data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == (
        "bits_per_dimension",
        3.25,
        "validation",
    )


def autoencoder_card(tmp_path, card_is_in_the_way: bool = False):
    config = tiny_train_config(output_dir=str(tmp_path / "run"), data__dataset=str(tmp_path / "pictures"))
    digits = some_digits(16)
    task = AutoencoderTask(config, digits, None, None, torch.device("cpu"))
    folder = tmp_path / "final"
    folder.mkdir()
    if card_is_in_the_way:
        (folder / "README.md").mkdir()
    CardMaker(config, RunFolder(tmp_path / "run"), {"step": 1, "seconds": 2.0}, digits, None).write(folder, task)
    return folder / "README.md"


def test_what_is_missing_is_said(tmp_path):
    card = autoencoder_card(tmp_path).read_text()
    for sentence in (
        "Nothing has been measured: the data have no held-out images",
        "The training curve could not be made",
        "The hardware was not recorded",
        "none were held out",
    ):
        assert sentence in card
    assert "co2_eq_emissions" not in yaml.safe_load(card.split("---\n")[1])
    assert str(tmp_path) not in card


def test_a_card_that_cannot_be_written_fails_nothing(tmp_path, caplog):
    assert autoencoder_card(tmp_path, card_is_in_the_way=True).is_dir()
    assert "no model card could be written" in caplog.text


@pytest.mark.parametrize(
    "diffusion", [{}, {"pretrained_model_name_or_path": "pretrained/shapes-64", "lora": {"rank": 2}}]
)
def test_the_card_of_a_model_on_the_way_says_how_it_is_loaded(tmp_path, diffusion):
    hub = {"push_to_hub": True, "hub_model_id": "somebody/model"}
    config = config_of(
        {
            "data": {"dataset": "digits"},
            "output_dir": "out",
            "stages": ["diffusion"],
            "hub": hub,
            "diffusion": diffusion,
        }
    )
    write_intermediate_card(tmp_path, config, 7)
    card = (tmp_path / "README.md").read_text()
    snippet = card.split("```python\n")[1].split("```")[0]
    compile(snippet, "card", "exec")
    assert snippet.startswith("from sd_pipeline import SDPipeline\n")
    assert '"somebody/model", revision="training"' in snippet
    assert ('SDPipeline.from_pretrained("pretrained/shapes-64")' in snippet) == bool(diffusion)
    assert "after 7 of" in " ".join(card.split())
