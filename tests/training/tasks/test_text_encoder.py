"""The text encoder's stage: contrastive, joint and pretrained."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest
import torch
from transformers import CLIPModel

from tests.components import tiny_text_encoder, tiny_tokenizer
from tests.training.configurations import some_digits, tiny_train_config
from tests.training.runs import ROOT, environment
from training.data.clip_tokenizer import tokenize
from training.tasks.components import load_text_encoder
from training.tasks.text_encoder import MAX_LOGIT_SCALE, ContrastiveModel, TextEncoderTask


@pytest.fixture
def task():
    return TextEncoderTask(tiny_train_config(), some_digits(40), some_digits(20, "validation"))


def batch_of(task: TextEncoderTask, indices) -> dict[str, torch.Tensor]:
    return task.prepare_batch(task.collate([task.dataset[index] for index in indices]), 0)


def first_of_each_digit(task: TextEncoderTask) -> list[int]:
    captions = [task.dataset.source.captions[index] for index in range(40)]
    return [captions.index(caption) for caption in sorted(set(captions))]


def test_different_captions_give_the_loss_of_clip(task):
    batch = batch_of(task, first_of_each_digit(task))
    loss = task.model(**batch)["loss"]
    assert loss.shape == (10,)
    expected = task.model.clip(**batch, return_loss=True).loss
    torch.testing.assert_close(loss.mean(), expected)


def test_equal_captions_are_positives_of_each_other(task):
    batch = batch_of(task, range(40))
    output = task.model.clip(**batch)
    captions = [task.dataset.source.captions[index] for index in range(40)]
    targets = torch.tensor([[float(one == two) for two in captions] for one in captions])
    targets /= targets.sum(1, keepdim=True)
    per_image = -(targets * output.logits_per_image.log_softmax(1)).sum(1)
    per_text = -(targets * output.logits_per_text.log_softmax(1)).sum(1)
    torch.testing.assert_close(task.model(**batch)["loss"], (per_image + per_text) / 2)


def test_every_parameter_learns(task):
    task.model(**batch_of(task, range(8)))["loss"].mean().backward()
    assert [name for name, parameter in task.model.named_parameters() if parameter.grad is None] == []


def test_the_temperature_is_bounded(task):
    batch = batch_of(task, range(8))
    with torch.no_grad():
        task.model.clip.logit_scale.fill_(torch.tensor(MAX_LOGIT_SCALE).log())
        at_the_bound = task.model(**batch)["loss"]
        task.model.clip.logit_scale.fill_(50.0)
        assert torch.equal(task.model(**batch)["loss"], at_the_bound)


def test_it_learns_which_caption_is_whose():
    task = TextEncoderTask(tiny_train_config(), some_digits(40), some_digits(40))
    optimizer = torch.optim.AdamW(task.parameter_groups(), lr=3e-3)
    batch = batch_of(task, range(40))
    for _ in range(100):
        task.model(**batch)["loss"].mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        assert task.validate(100).metrics["caption_accuracy"] > 0.8


def test_the_same_seed_gives_the_same_start(task):
    torch.manual_seed(99)
    again = TextEncoderTask(tiny_train_config(), some_digits(40), None)
    assert again.tokenizer.get_vocab() == task.tokenizer.get_vocab()
    assert all(torch.equal(again.model.state_dict()[key], value) for key, value in task.model.state_dict().items())
    other = TextEncoderTask(tiny_train_config(seed=1), some_digits(40), None)
    assert not torch.equal(other.model.clip.text_projection.weight, task.model.clip.text_projection.weight)


def test_validation_is_a_fraction_or_absent(task):
    with torch.no_grad():
        assert 0 <= task.validate(0).metrics["caption_accuracy"] <= 1
    assert TextEncoderTask(tiny_train_config(), some_digits(4), None).validate(0).metrics == {}
    assert TextEncoderTask(tiny_train_config(), some_digits(4), some_digits(0)).validate(0).metrics == {}


def hidden_states(model, tokenizer) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(tokenize(tokenizer, ["a handwritten seven", ""]))[0]


def test_what_is_exported_is_what_was_trained(task, tmp_path):
    task.export(tmp_path)
    tokenizer, text_encoder = load_text_encoder(str(tmp_path))
    expected = hidden_states(task.model.clip.text_model, task.tokenizer)
    torch.testing.assert_close(hidden_states(text_encoder, tokenizer), expected, rtol=0, atol=1e-6)
    judge = CLIPModel.from_pretrained(tmp_path / "clip")
    for key, value in task.model.clip.state_dict().items():
        assert torch.equal(judge.state_dict()[key], value)


def test_a_joint_text_encoder_starts_at_random(tmp_path):
    task = TextEncoderTask(tiny_train_config(text_encoder__training="joint"), some_digits(10), None)
    assert task.validate(0).metrics == {}
    task.export(tmp_path)
    tokenizer, text_encoder = load_text_encoder(str(tmp_path))
    assert not (tmp_path / "clip").exists()
    assert torch.equal(hidden_states(text_encoder, tokenizer), hidden_states(task.model, task.tokenizer))


def test_a_pretrained_text_encoder_is_taken_as_it_is(tmp_path):
    tokenizer = tiny_tokenizer()
    expected = tiny_text_encoder(tokenizer)
    tokenizer.save_pretrained(tmp_path / "given" / "tokenizer")
    expected.save_pretrained(tmp_path / "given" / "text_encoder")
    config = tiny_train_config(
        text_encoder__training="frozen", text_encoder__pretrained_model_name_or_path=str(tmp_path / "given")
    )
    TextEncoderTask(config, some_digits(10), None).export(tmp_path / "final")
    loaded_tokenizer, loaded = load_text_encoder(str(tmp_path / "final"))
    torch.testing.assert_close(hidden_states(loaded, loaded_tokenizer), hidden_states(expected, tokenizer))


TWO_PROCESSES = """
import json, os, sys
from accelerate import Accelerator
from tests.training.configurations import some_digits, tiny_train_config
from training.engine.agreement import agree
from training.tasks.text_encoder import TextEncoderTask

accelerator = Accelerator(cpu=True)
rank, processes = accelerator.process_index, accelerator.num_processes
task = TextEncoderTask(tiny_train_config(), some_digits(40), None)
wrapped = accelerator.prepare_model(task.model)
rows = range(40 * rank // processes, 40 * (rank + 1) // processes)
loss = wrapped(**task.collate([task.dataset[index] for index in rows]))["loss"].mean()
accelerator.backward(loss)
gradients = {name: p.grad.double().norm().item() for name, p in task.model.named_parameters()}

before = agree(accelerator, False, False)
after = agree(accelerator, False, rank == processes - 1)
mean = accelerator.reduce(loss.detach(), reduction="mean").item()
report = {"processes": processes, "loss": mean, "gradients": gradients, "before": before, "after": after}
with open(os.path.join(sys.argv[1], f"{rank}.json"), "w") as file:
    json.dump(report, file)
"""


@pytest.mark.slow
def test_two_processes_compare_all_pairs_and_stop_together(tmp_path):
    """Embeddings are gathered with their gradient: two halves of a batch have its loss and its gradient."""
    processes = []
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    for rank in ("0", "1"):
        variables = environment(**rendezvous, RANK=rank, LOCAL_RANK=rank)
        command = [sys.executable, "-W", "ignore", "-c", TWO_PROCESSES, str(tmp_path)]
        processes.append(subprocess.Popen(command, cwd=ROOT, env=variables))
    task = TextEncoderTask(tiny_train_config(), some_digits(40), None)
    loss = task.model(**batch_of(task, range(40)))["loss"].mean()
    loss.backward()
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    reports = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for report in reports:
        assert report["processes"] == 2
        assert report["loss"] == pytest.approx(loss.item(), rel=1e-5)
        for name, parameter in task.model.named_parameters():
            assert report["gradients"][name] == pytest.approx(
                parameter.grad.double().norm().item(), rel=1e-3, abs=1e-7
            )
        assert report["before"] == [False, False]
        assert report["after"] == [False, True]  # whichever of them it is that knows


def test_both_towers_are_the_model_that_is_trained(task):
    assert isinstance(task.model, ContrastiveModel)
    trained = {id(parameter) for group in task.parameter_groups() for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in task.model.parameters()}
