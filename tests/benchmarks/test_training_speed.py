"""The trainings that `benchmarks/training_speed.py` times side by side have the same start and the same loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.measurement import Conditions
from benchmarks.stepped_training import FixedPrecision, kept_images, shapes_config
from benchmarks.training_choices import STOCK_LAYERS, TAKEN_BACK, Run, WithStockLayers
from benchmarks.training_pairs import autoencoder_pair, stock_diffusion, text_encoder_pair

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = shapes_config(Path(tmp_path_factory.mktemp("run")), Conditions(1, CPU, is_tiny=True))
    return Run(config, kept_images(config), CPU, precision="no")


def test_both_diffusion_stages_have_the_same_loss(run):
    ours = TAKEN_BACK["captions encoded before training"](run)
    stock = stock_diffusion(ours, run.config, run.images, FixedPrecision("no", CPU))
    task = ours.task
    batch = task.collate([task.dataset[number, number] for number in range(2)])
    inputs = task.prepare_batch(batch, 0)
    tokens = batch["input_ids"][batch["caption_rows"]]
    theirs = stock.loss.error(inputs["latents"], inputs["noise"], inputs["timesteps"], tokens)
    torch.testing.assert_close(task.model(**inputs)["loss"].mean(), theirs, rtol=1e-5, atol=0)


def test_a_stepped_training_goes_on_where_it_stopped(run):
    in_two, at_once = run.trainer(), run.trainer()
    in_two.advance(1)
    in_two.advance(1)
    at_once.advance(2)
    assert in_two.step == at_once.step == 2
    weights = at_once.task.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in in_two.task.model.state_dict().items())


@pytest.mark.parametrize("build", [text_encoder_pair, autoencoder_pair])
def test_other_stages_start_from_the_same_weights(run, build):
    ours, stock = build(run.config, run.images, "no", CPU)
    weights = stock.model.state_dict()
    own = {name.partition(".")[2]: value for name, value in ours.task.model.state_dict().items()}
    assert own.keys() == weights.keys()
    assert all(torch.equal(own[name], value) for name, value in weights.items())
    stock.advance(1)
    ours.advance(1)
    assert ours.step == len(stock.losses) == 1


@pytest.mark.parametrize("choice", ["attention in float32 under autocast", "fused AdamW", "no division by 1.0"])
def test_a_choice_that_is_taken_back_changes_the_result_by_rounding_at_most(run, choice):
    full, without = run.trainer(), TAKEN_BACK[choice](run)
    for trainer in (full, without):
        trainer.advance(1)
    weights = full.task.model.state_dict()
    for name, value in without.task.model.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("choice", STOCK_LAYERS)
def test_layers_are_stock_ones_only_while_they_are_timed(run, choice):
    trainer, (kind, stock) = run.trainer(), STOCK_LAYERS[choice]
    layers = [module for module in trainer.task.model.modules() if type(module) is kind]
    assert layers
    seen = set()
    layers[0].register_forward_pre_hook(lambda layer, inputs: seen.add(type(layer)))
    WithStockLayers(trainer, kind, stock).advance(1)
    assert seen == {stock}
    assert {type(layer) for layer in layers} == {kind}
