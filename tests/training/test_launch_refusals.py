"""What a launcher may ask for and is not done: refused in one line, never passed over."""

from __future__ import annotations

import pytest

from tests.training.configurations import tiny_train_config
from training.config import ConfigError
from training.stages import start_accelerator


@pytest.mark.parametrize(
    ("variables", "precision", "message"),
    [
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, "fp16", "mixed_precision = 'fp16': must be no or bf16"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "no", "fsdp_version must be 2"),
        ({"ACCELERATE_USE_FSDP": "true"}, "no", "fsdp_version must be 2"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "no", "dynamo_backend must be no"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "no", "asks for DeepSpeed, which is not supported"),
    ],
)
def test_what_is_not_done_is_refused(variables, precision, message, monkeypatch):
    monkeypatch.delenv("FSDP_VERSION", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message) as raised:
        start_accelerator(tiny_train_config(mixed_precision=precision))
    assert "\n" not in str(raised.value)


def test_what_asks_for_nothing_special_is_not_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "false")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    assert start_accelerator(tiny_train_config()).mixed_precision == "no"
