"""The perceptual distance: zero between equal images, with a gradient, from networks of several kinds."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, ResNetConfig, ResNetModel, ViTConfig, ViTModel

from training.config import ConfigError
from training.tasks.perceptual_distance import PerceptualDistance, load_perceptual_distance

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def small_networks() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    text, vision = {**SMALL, "vocab_size": 10}, {**SMALL, "image_size": 32, "patch_size": 8}
    return {
        "clip": CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)),
        "vit": ViTModel(ViTConfig(**SMALL, image_size=24, patch_size=8)),
        "resnet": ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")),
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {}
    for name, network in small_networks().items():
        found[name] = tmp_path_factory.mktemp(name)
        network.save_pretrained(found[name])
    return found


def images(seed: int, side: int = 32) -> torch.Tensor:
    return torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("name", ["clip", "vit", "resnet"])
@pytest.mark.parametrize("side", [32, 48])
def test_it_is_a_distance_with_a_gradient(folders, name, side):
    distance = load_perceptual_distance(folders[name])
    one, other = images(0, side), images(1, side).requires_grad_()
    torch.testing.assert_close(distance(one, one), torch.zeros(3))
    apart = distance(one, other)
    assert apart.shape == (3,)
    assert ((apart > 0) & (apart <= 4)).all()
    torch.testing.assert_close(distance(other, one), apart)
    apart.sum().backward()
    assert (other.grad.flatten(1).norm(dim=1) > 0).all()
    assert all(not parameter.requires_grad for parameter in distance.parameters())


def test_following_its_gradient_brings_an_image_nearer(folders):
    distance = load_perceptual_distance(folders["clip"])
    one, other = images(0), images(1).requires_grad_()
    optimizer = torch.optim.Adam([other], lr=0.03)
    before = distance(one, other).mean().item()
    for _ in range(30):
        optimizer.zero_grad()
        distance(one, other).mean().backward()
        optimizer.step()
    assert distance(one, other).mean().item() < before / 2


def test_it_is_the_formula_by_hand(folders):
    """Mean over layers and positions of the squared distance of unit vectors."""
    distance = load_perceptual_distance(folders["resnet"])
    one, other = images(0), images(1)
    total = 0
    layers = [distance.network(pixel_values=x, output_hidden_states=True).hidden_states[1:] for x in (one, other)]
    for x, y in zip(*layers, strict=True):
        unit_x, unit_y = x / x.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True)
        total = total + (unit_x - unit_y).square().sum(1).mean((1, 2))
    torch.testing.assert_close(distance(one, other), total / len(layers[0]), rtol=1e-4, atol=1e-5)


def test_pixels_are_normalised_as_the_network_was_trained(folders, tmp_path):
    network = small_networks()["resnet"]
    network.save_pretrained(tmp_path)
    preprocessing = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "image_processor_type": "Any"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    loaded = load_perceptual_distance(tmp_path)
    expected = PerceptualDistance(network, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    torch.testing.assert_close(loaded(images(0), images(1)), expected(images(0), images(1)))
    assert not torch.allclose(
        loaded(images(0), images(1)), load_perceptual_distance(folders["resnet"])(images(0), images(1))
    )


def test_what_cannot_be_loaded_is_named(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=r"autoencoder.perceptual.model_name_or_path = ") as caught:
            load_perceptual_distance(place)
        assert str(place) in str(caught.value)
        assert "\n" not in str(caught.value)
