"""The thumbnail that a text encoder learns to draw beside the contrast."""

from __future__ import annotations

import pytest
import torch

from tests.components import tiny_text_encoder, tiny_tokenizer
from tests.training.configurations import some_digits, tiny_train_config
from training.data.clip_tokenizer import tokenize
from training.tasks.text_encoder import ContrastiveModel, TextEncoderTask
from training.tasks.thumbnail import THUMBNAIL_SIZE, ThumbnailDecoder, thumbnail_error

RED, BLUE = torch.tensor([1.0, -1.0, -1.0]), torch.tensor([-1.0, -1.0, 1.0])


@pytest.fixture
def task():
    return TextEncoderTask(tiny_train_config(text_encoder__thumbnail_weight=3.0), some_digits(8), some_digits(8))


def halves(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """A picture of 32x32 pixels of one colour on the left and one on the right."""
    return torch.cat([left.view(3, 1, 1).expand(3, 32, 16), right.view(3, 1, 1).expand(3, 32, 16)], dim=2)


def test_the_error_is_the_mean_square_of_the_difference_from_the_averages():
    pixel_values = torch.rand(2, 3, 32, 32) * 2 - 1
    cells = pixel_values.unflatten(3, (THUMBNAIL_SIZE, 4)).unflatten(2, (THUMBNAIL_SIZE, 4)).mean((3, 5))
    torch.testing.assert_close(thumbnail_error(cells, pixel_values), torch.zeros(2))
    torch.testing.assert_close(thumbnail_error(cells + 0.5, pixel_values), torch.full((2,), 0.25))


def test_a_picture_may_be_smaller_than_a_multiple_of_the_thumbnail():
    assert thumbnail_error(torch.zeros(1, 3, THUMBNAIL_SIZE, THUMBNAIL_SIZE), torch.ones(1, 3, 20, 12)).item() == 1


def test_the_loss_is_contrast_and_weighted_error(task):
    batch = task.prepare_batch(task.collate([task.dataset[index] for index in range(8)]), 0)
    alone = ContrastiveModel(task.model.clip)
    assert alone.thumbnail_decoder is None
    states = task.model.clip.text_model(input_ids=batch["input_ids"]).last_hidden_state
    error = thumbnail_error(task.model.thumbnail_decoder(states), batch["pixel_values"])
    torch.testing.assert_close(task.model(**batch)["loss"], alone(**batch)["loss"] + 3 * error)


def test_every_parameter_learns(task):
    batch = task.prepare_batch(task.collate([task.dataset[index] for index in range(8)]), 0)
    task.model(**batch)["loss"].mean().backward()
    assert [name for name, parameter in task.model.named_parameters() if parameter.grad is None] == []


def test_validation_tells_the_error(task):
    with torch.no_grad():
        assert task.validate(0).metrics["thumbnail_error"] > 0


def test_the_decoder_is_no_part_of_what_is_exported(task, tmp_path):
    task.export(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "text_encoder", "tokenizer"]


def test_the_states_learn_the_order_of_the_same_words():
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    text_encoder = tiny_text_encoder(tokenizer).train()
    decoder = ThumbnailDecoder(text_encoder.config.hidden_size, num_attention_heads=4)
    input_ids = tokenize(tokenizer, ["red left of blue", "blue left of red", "red right of blue", "blue right of red"])
    pixel_values = torch.stack([halves(RED, BLUE), halves(BLUE, RED), halves(BLUE, RED), halves(RED, BLUE)])
    optimizer = torch.optim.AdamW([*text_encoder.parameters(), *decoder.parameters()], lr=3e-3)
    for _ in range(150):
        thumbnail_error(decoder(text_encoder(input_ids)[0]), pixel_values).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        error = thumbnail_error(decoder(text_encoder(input_ids)[0]), pixel_values)
    # A text encoder that knows only which words there are draws the mean of both pictures: an error of 2/3.
    assert error.max() < 0.1
