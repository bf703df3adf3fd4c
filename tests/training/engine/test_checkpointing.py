"""Training states: exact, whole or absent, pruned, and every damage named."""

from __future__ import annotations

import json
import stat

import pytest
import torch

from training.engine.checkpointing import (
    MANIFEST,
    CheckpointError,
    TrainingState,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    remove_leftovers,
    save_checkpoint,
    verify_checkpoint,
    write_json,
)
from training.engine.state_tensors import load_optimizer_tensors, optimizer_tensors


def state(seed: int = 0) -> TrainingState:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 4, generator=generator)
    return TrainingState(
        {
            "model": {"layer.weight": weight, "half": weight.bfloat16(), "count": torch.tensor(seed)},
            "optimizer": {"layer.weight/exp_avg": weight.T},
        },
        {"stage": "diffusion", "seconds": 1.5},
    )


@pytest.fixture
def checkpoint(tmp_path):
    return save_checkpoint(tmp_path / "diffusion", 12, state(), None)


def test_what_is_saved_is_loaded(checkpoint):
    loaded, expected = load_checkpoint(checkpoint), state()
    assert loaded.values == {"step": 12, **expected.values}
    assert loaded.tensors.keys() == expected.tensors.keys()
    for name, tensors in expected.tensors.items():
        assert loaded.tensors[name].keys() == tensors.keys()
        for key, tensor in tensors.items():
            assert loaded.tensors[name][key].dtype == tensor.dtype
            assert torch.equal(loaded.tensors[name][key], tensor)


def test_files_are_readable_and_nothing_is_pickled(checkpoint):
    files = sorted(checkpoint.iterdir())
    assert [file.name for file in files] == [MANIFEST, "model.safetensors", "optimizer.safetensors", "state.json"]
    assert all(stat.S_IMODE(file.stat().st_mode) & 0o444 == 0o444 for file in files)
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def expect_damage(checkpoint, name: str) -> None:
    for read in (verify_checkpoint, load_checkpoint):
        with pytest.raises(CheckpointError) as caught:
            read(checkpoint)
        message = str(caught.value)
        assert message.startswith(f"{checkpoint}: {name} ")
        assert "\n" not in message


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flipped bit", "missing", "cut", "empty", "longer"])
def test_a_damaged_file_is_named(checkpoint, name, damage):
    file = checkpoint / name
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "flipped bit":
        content[-3] ^= 1
        file.write_bytes(content)
    else:
        changed = {"cut": content[: len(content) // 2], "empty": b"", "longer": content + b"\0"}
        file.write_bytes(changed[damage])
    expect_damage(checkpoint, name)


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b"{}", b'{"files": []}', b'{"files": {"state.json": 3}}', b"\xff\xfe\x00"]
)
def test_a_damaged_manifest_is_named(checkpoint, content):
    if content is None:
        (checkpoint / MANIFEST).unlink()
    else:
        (checkpoint / MANIFEST).write_bytes(content)
    expect_damage(checkpoint, MANIFEST)


def test_a_cut_manifest_is_named(checkpoint):
    content = (checkpoint / MANIFEST).read_bytes()
    for length in range(0, len(content.rstrip()), 5):
        (checkpoint / MANIFEST).write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=MANIFEST):
            verify_checkpoint(checkpoint)


def test_a_flipped_bit_of_the_manifest_harms_nobody(checkpoint):
    """Either the damage is found, or it is in a place that does not matter and the state is still verified."""
    content = (checkpoint / MANIFEST).read_bytes()
    found = 0
    for place in range(len(content)):
        for bit in (0, 7):
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            (checkpoint / MANIFEST).write_bytes(flipped)
            try:
                verify_checkpoint(checkpoint)
            except CheckpointError:
                found += 1
    assert found > len(content)  # Of twice as many.


def test_states_are_listed_by_number(tmp_path):
    for step in (100, 9, 10):
        save_checkpoint(tmp_path, step, state(), None)
    (tmp_path / "checkpoint-last").mkdir()
    (tmp_path / ".checkpoint-200.partial").mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10", "checkpoint-100"]
    assert list_checkpoints(tmp_path / "nowhere") == []


@pytest.mark.parametrize(("limit", "expected"), [(None, [8, 9, 10]), (1, [10]), (2, [9, 10]), (9, [8, 9, 10])])
def test_the_oldest_are_pruned(tmp_path, limit, expected):
    (tmp_path / "final").mkdir()
    for step in (8, 9, 10):
        save_checkpoint(tmp_path, step, state(step), limit)
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"checkpoint-{step}" for step in expected]
    assert load_checkpoint(tmp_path / "checkpoint-10").tensors["model"]["count"] == 10
    assert (tmp_path / "final").is_dir()


def test_the_newest_whole_state_is_found_and_damaged_ones_are_named(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, state(step), None)
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-3"
    (tmp_path / "checkpoint-3" / "model.safetensors").write_bytes(b"cut")
    (tmp_path / "checkpoint-2" / MANIFEST).unlink()
    with pytest.warns(UserWarning, match="passed over a damaged training state") as warned:
        assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-1"
    assert ["checkpoint-3: model.safetensors" in str(warned[0].message), len(warned)] == [True, 2]
    (tmp_path / "checkpoint-1" / "state.json").unlink()
    with pytest.warns(UserWarning, match="passed over"), pytest.raises(CheckpointError, match="all 3 training states"):
        newest_checkpoint(tmp_path)


def test_a_damaged_newer_state_does_not_cost_a_whole_older_one(tmp_path):
    """Resumed from step 1 with only one state to keep: the damaged one does not count."""
    for step in (1, 3):
        save_checkpoint(tmp_path, step, state(step), None)
    (tmp_path / "checkpoint-3" / "model.safetensors").write_bytes(b"")
    save_checkpoint(tmp_path, 2, state(2), 1)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-3"]
    with pytest.warns(UserWarning, match="passed over"):
        assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


def test_the_manifest_tells_what_it_is_a_state_of(tmp_path):
    values = {"config": {"seed": 3}, "versions": {"torch": "2"}, "seconds": 1.0}
    checkpoint = save_checkpoint(tmp_path, 5, TrainingState(state().tensors, values), None)
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    assert [manifest["step"], manifest["config"], manifest["versions"]] == [5, {"seed": 3}, {"torch": "2"}]


def test_leftovers_of_a_crash_are_removed(tmp_path):
    save_checkpoint(tmp_path, 1, state(), None)
    for name in (".checkpoint-2.partial", ".checkpoint-0.removed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("cut")
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_a_failed_write_leaves_what_was_there(tmp_path):
    save_checkpoint(tmp_path, 1, state(), 1)
    unwritable = TrainingState(state().tensors, {"secret": object()})
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, 2, unwritable, 1)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-1"]
    verify_checkpoint(tmp_path / "checkpoint-1")
    save_checkpoint(tmp_path, 2, state(2), 1)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["checkpoint-2"]


def test_a_damaged_state_is_replaced(checkpoint):
    (checkpoint / "model.safetensors").write_bytes(b"")
    (checkpoint / "stray").write_text("left over")
    save_checkpoint(checkpoint.parent, 12, state(3), None)
    assert load_checkpoint(checkpoint).tensors["model"]["count"] == 3
    assert not (checkpoint / "stray").exists()


def test_json_is_replaced_at_once(tmp_path):
    file = tmp_path / "status.json"
    write_json({"a": 1}, file)
    write_json({"a": 2}, file)
    assert json.loads(file.read_text()) == {"a": 2}
    assert list(tmp_path.iterdir()) == [file]


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.SiLU(), torch.nn.Linear(8, 2))


def optimizer_of(model: torch.nn.Module, fused: bool) -> torch.optim.Optimizer:
    groups = [{"params": model[0].parameters(), "lr": 0.03}, {"params": model[2].parameters(), "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.01, fused=fused)


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        model(inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("fused", [False, True])
def test_an_optimizer_goes_on_to_the_bit(tmp_path, fused):
    whole = network()
    train(whole, optimizer_of(whole, fused), range(7))

    model = network()
    optimizer = optimizer_of(model, fused)
    train(model, optimizer, range(3))
    tensors = {"model": model.state_dict(), "optimizer": optimizer_tensors(optimizer, model)}
    loaded = load_checkpoint(save_checkpoint(tmp_path, 3, TrainingState(tensors, {}), None)).tensors

    resumed = network()
    optimizer = optimizer_of(resumed, fused)
    resumed.load_state_dict(loaded["model"])
    load_optimizer_tensors(optimizer, resumed, loaded["optimizer"])
    train(resumed, optimizer, range(3, 7))
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value)


def test_optimizer_state_of_another_model_is_named():
    model = network()
    with pytest.raises(CheckpointError, match=r"'5.weight', which the model does not have"):
        load_optimizer_tensors(optimizer_of(model, False), model, {"5.weight/exp_avg": torch.zeros(1)})
