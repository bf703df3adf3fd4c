"""Training to inpaint: what the U-Net sees, and that it depends on the sample alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sd_pipeline import SDInpaintPipeline
from tests.components import tiny_text_encoder, tiny_tokenizer, tiny_vae
from tests.training.configurations import WITHOUT_TEXT, some_digits, tiny_train_config
from tests.training.data.image_folders import write_shapes
from training.data.captioned_images import CaptionedImages
from training.data.image_folder import ImageFolderSource
from training.tasks.components import FrozenModels
from training.tasks.diffusion import DiffusionTask
from training.tasks.inpainting import added_channels, draw_masks, holed_pictures


def task_of(with_vae: bool = True, **settings) -> DiffusionTask:
    unet = {} if with_vae else {"diffusion__unet": WITHOUT_TEXT}
    config = tiny_train_config(diffusion__inpainting=True, diffusion__cache_latents=False, **unet, **settings)
    tokenizer = tiny_tokenizer()
    frozen = FrozenModels(tokenizer, tiny_text_encoder(tokenizer), tiny_vae()) if with_vae else FrozenModels()
    return DiffusionTask(config, some_digits(6), frozen)


def test_masks_belong_to_the_sample():
    together = draw_masks(3, range(6), 32, 48)
    assert (together.shape, together.dtype) == ((6, 1, 32, 48), torch.float32)
    assert set(together.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(torch.cat([draw_masks(3, [number], 32, 48) for number in range(6)]), together)
    assert not torch.equal(draw_masks(4, range(6), 32, 48), together)


def test_the_channels_are_the_mask_and_the_masked_image():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 0, 5] = 1
    masked = torch.randn(1, 4, 2, 2)
    channels = added_channels(mask, masked, 4)
    assert channels[0, 0].tolist() == [[0.0, 1.0], [0.0, 0.0]]
    assert torch.equal(channels[:, 1:], masked)


@pytest.mark.parametrize("sample_posterior", [True, False])
def test_the_network_sees_what_is_kept_and_nothing_of_the_hole(sample_posterior):
    task = task_of(diffusion__sample_posterior=sample_posterior)
    assert task.unet.config["in_channels"] == 9
    batch = task.collate([task.dataset[(number, number)] for number in range(4)])
    seen = task.prepare_batch(batch, 0)["added_channels"]
    hidden = {**batch, "pixel_values": torch.where(batch["mask"] == 1, 0.7, batch["pixel_values"])}
    assert torch.equal(task.prepare_batch(hidden, 0)["added_channels"], seen)
    shown = {**batch, "pixel_values": torch.where(batch["mask"] == 0, 0.7, batch["pixel_values"])}
    assert not torch.equal(task.prepare_batch(shown, 0)["added_channels"], seen)
    loss = task.model(**task.prepare_batch(batch, 0))["loss"]
    loss.mean().backward()
    assert task.unet.conv_in.weight.grad[:, 4:].abs().max() > 0


def test_a_batch_is_the_same_however_it_is_split():
    task = task_of()
    samples = [task.dataset[(number, number)] for number in range(4)]
    whole = task.prepare_batch(task.collate(samples), 0)["added_channels"]
    parts = [task.prepare_batch(task.collate(samples[i : i + 1]), 0)["added_channels"] for i in range(4)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-5)


def test_pixels_and_no_text():
    task = task_of(with_vae=False)
    assert task.unet.config["in_channels"] == 7
    batch = task.prepare_batch(task.collate([task.dataset[(0, 0)]]), 0)
    assert batch["added_channels"].shape == (1, 4, 32, 32)
    assert torch.isfinite(task.model(**batch)["loss"]).all()


def test_validation_paints_holes_and_shows_them():
    task = task_of()
    task.model.eval()
    assert isinstance(task.pipeline(), SDInpaintPipeline)
    validation = task.validate(1)
    again = task.validate(1)
    assert np.array_equal(*(np.asarray(v.images["samples"]) for v in (validation, again)))
    assert validation.images["samples"].size == (6 * 32, 2 * 32)
    holed = holed_pictures(some_digits(6), 8, 0)
    assert len(holed.pictures) == len(holed.masks) == len(holed.captions) == 6
    assert all(0 < np.asarray(mask).mean() < 255 for mask in holed.masks)


def test_the_masked_image_does_not_tell_the_noise_of_the_latents():
    """Where nothing is masked, both posteriors are the same, and their samples are not."""
    task = task_of()
    batch = task.collate([task.dataset[(number, number)] for number in range(4)])
    arguments = task.prepare_batch({**batch, "mask": torch.zeros_like(batch["mask"])}, 0)
    latents, masked = arguments["latents"], arguments["added_channels"][:, 1:]
    mode = task.frozen.vae.encode(batch["pixel_values"]).latent_dist.mean * task.frozen.vae.config.scaling_factor
    noises = torch.stack([(latents - mode).flatten(), (masked - mode).flatten()])
    assert noises.abs().mean(1).min() > 0
    assert torch.corrcoef(noises)[0, 1].abs() < 0.2


def test_pictures_of_several_shapes(tmp_path):
    """Masks and noise have the shape of the batch; validation draws squares."""
    folder = write_shapes(tmp_path, [(60, 30), (40, 40), (30, 60)])
    images = CaptionedImages(ImageFolderSource(folder), 32, aspect_ratio_bucket_step=8)
    config = tiny_train_config(diffusion__inpainting=True, diffusion__cache_latents=False, diffusion__noise_offset=0.1)
    tokenizer = tiny_tokenizer()
    task = DiffusionTask(config, images, FrozenModels(tokenizer, tiny_text_encoder(tokenizer), tiny_vae()))
    for index, (height, width) in enumerate([(24, 40), (32, 32), (40, 24)]):
        batch = task.collate([images[(number, index)] for number in (index, 7)])
        assert batch["mask"].shape == (2, 1, height, width)
        arguments = task.prepare_batch(batch, 0)
        assert arguments["added_channels"].shape == (2, 5, height // 4, width // 4)
        assert torch.isfinite(task.model(**arguments)["loss"]).all()
    task.model.eval()
    assert task.validate(1).images["samples"].size == (3 * 32, 2 * 32)
