"""The moving average against its closed form."""

from __future__ import annotations

import pytest
import torch

from training.engine.ema import AveragedWeights


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
    model[1].requires_grad_(False)
    return model


def move(model: torch.nn.Module, step: int) -> None:
    """Change the trained weights as an optimizer would."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=generator)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def decay_of(update: int, decay: float) -> float:
    """d_1 = 0, d_n = min(decay, n / (9 + n)): the first update takes the weights as they are."""
    return 0.0 if update == 1 else min(decay, update / (9 + update))


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.9999])
@pytest.mark.parametrize("num_updates", [1, 2, 30])
def test_the_average_is_its_closed_form(decay, num_updates):
    """average = sum_k (1 - d_k) prod_{j > k} d_j w_k."""
    model = network()
    average = AveragedWeights(model, decay)
    history = []
    for update in range(1, num_updates + 1):
        move(model, update)
        average.step()
        history.append(weights(model)["0.weight"].double())
    expected, weight_left = torch.zeros(4, 3, dtype=torch.float64), 1.0
    for update in range(num_updates, 0, -1):
        d = decay_of(update, decay)
        expected += weight_left * (1 - d) * history[update - 1]
        weight_left *= d
    assert weight_left == 0.0  # The weights before training have no part in it.
    torch.testing.assert_close(average.state_dict()["0.weight"].double(), expected, rtol=1e-5, atol=1e-5)


def test_it_is_applied_for_a_while():
    model = network()
    average = AveragedWeights(model, 0.9)
    for update in range(5):
        move(model, update)
        average.step()
    before = weights(model)
    with average.applied():
        inside = weights(model)
    state = average.state_dict()
    for name in ("0.weight", "0.bias", "2.weight", "2.bias"):
        assert torch.equal(inside[name], state[name])
        assert not torch.equal(inside[name], before[name])
    assert all(torch.equal(weights(model)[name], before[name]) for name in before)

    with pytest.raises(RuntimeError, match="in between"), average.applied():
        raise RuntimeError("in between")
    assert all(torch.equal(weights(model)[name], before[name]) for name in before)

    average.copy_to_model()
    assert all(torch.equal(weights(model)[name], inside[name]) for name in inside)


def test_what_is_frozen_is_not_averaged():
    assert set(AveragedWeights(network(), 0.9).state_dict()) == {
        "0.weight", "0.bias", "2.weight", "2.bias", "optimization_step"
    }  # fmt: skip


def test_a_restored_average_goes_on_to_the_bit():
    model = network()
    whole = AveragedWeights(model, 0.9)
    for update in range(4):
        move(model, update)
        whole.step()
    resumed = AveragedWeights(model, 0.9)
    resumed.load_state_dict({name: tensor.clone() for name, tensor in whole.state_dict().items()})
    for update in range(4, 8):
        move(model, update)
        whole.step()
        resumed.step()
    assert whole.state_dict()["optimization_step"] == 8
    assert all(torch.equal(resumed.state_dict()[name], tensor) for name, tensor in whole.state_dict().items())


def test_a_missing_average_is_noticed():
    average = AveragedWeights(network(), 0.9)
    state = average.state_dict()
    del state["2.bias"]
    with pytest.raises(KeyError, match=r"2\.bias"):
        average.load_state_dict(state)


def test_a_slow_average_moves():
    """In bfloat16 it would not: a ten-thousandth of a step is below half a unit in the last place."""
    model = network()
    average = AveragedWeights(model, 0.9999)
    average.load_state_dict({**average.state_dict(), "optimization_step": torch.tensor(1_000_000)})
    before = average.state_dict()["0.weight"].clone()
    with torch.no_grad():
        model[0].weight += 0.01
    average.step()
    moved = average.state_dict()["0.weight"] - before
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-6), rtol=0.1, atol=3e-8)
