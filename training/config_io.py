"""Reading a run's configuration from YAML and overrides, writing it down, and comparing two of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from training.config import STAGES, ConfigError, DataConfig, TrainConfig

# What may change when a run is resumed. A stage's processes x accumulation x batch size must keep its product, which
# the training state knows; `max_train_steps` may only grow.
_FREE_KEYS = {"output_dir", "stages", "report_to", "data.dataloader_num_workers", "diffusion.latent_cache_dir"} | {
    f"{stage}.{key}"
    for stage in STAGES
    for key in (
        "max_train_steps",
        "train_batch_size",
        "gradient_accumulation_steps",
        "checkpointing_steps",
        "checkpoints_total_limit",
        "validation_steps",
        "logging_steps",
        "on_non_finite",
    )
}
_FREE_BLOCKS = ("evaluation.", "card.", "hub.")


def config_parser() -> ArgumentParser:
    """Build the command line of `train.py`: `--config FILE` and an override for every key."""
    parser = ArgumentParser(
        prog="training/train.py",
        description="Train the stages of a configuration; running the same command again resumes.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file of the run.")
    parser.add_class_arguments(TrainConfig, None)
    return parser


def parse_config(arguments: Sequence[str]) -> TrainConfig:
    """Read a configuration from command-line arguments.

    Args:
        arguments (sequence of `str`): `["--config", "FILE.yaml", "--key.sub=value", ...]`; later ones win.

    Returns:
        `TrainConfig`: the validated configuration.

    Raises:
        ConfigError: For an unknown key, a value of the wrong type or an impossible value; one line naming the key.
    """
    parser = config_parser()
    try:
        for file in config_files(arguments):
            check_keys(read_yaml(file), TrainConfig, file)
        namespace = parser.parse_args(list(arguments))
        instantiated = parser.instantiate(namespace)
        values = {field.name: instantiated[field.name] for field in dataclasses.fields(TrainConfig)}
        return TrainConfig(**values)
    except ConfigError:
        raise
    except (ArgumentError, ValueError, TypeError) as error:
        raise ConfigError(" ".join(str(error).split())) from error


def config_files(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the files that follow `--config` in `arguments`."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == "--config":
            yield following
        elif argument.startswith("--config="):
            yield argument.removeprefix("--config=")


def find_output_dir(arguments: Sequence[str]) -> Path | None:
    """Find `output_dir` in arguments that may be wrong otherwise, to say in its `status.json` what is wrong."""
    found = None
    for file in config_files(arguments):
        try:
            found = read_yaml(file).get("output_dir", found)
        except ConfigError:
            continue
    for argument, following in zip(arguments, [*arguments[1:], None], strict=True):
        if argument == "--output_dir":
            found = following
        elif argument.startswith("--output_dir="):
            found = argument.removeprefix("--output_dir=")
    return Path(found) if isinstance(found, str) and found else None


def read_yaml(file: str | Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: If there is no such file, it is no valid YAML, or it holds no mapping.
    """
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {file}: cannot be read ({error.__class__.__name__}: {error})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {file}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--config {file}: must hold a mapping of keys, not {type(content).__name__}")
    return content


def check_keys(mapping: Mapping[str, Any], kind: type, file: str | Path, prefix: str = "") -> None:
    """Refuse keys that the dataclass `kind` does not have, in `mapping` and in its blocks.

    Raises:
        ConfigError: Names the first unknown key and those that are allowed beside it.
    """
    types = get_type_hints(kind)
    for key, value in mapping.items():
        if key not in types:
            raise ConfigError(f"{file}: unknown key {prefix}{key}; allowed here: {', '.join(types)}")
        if dataclasses.is_dataclass(types[key]):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{file}: {prefix}{key} = {value!r}: must be a block of keys")
            check_keys(value, types[key], file, f"{prefix}{key}.")


def config_to_yaml(config: TrainConfig) -> str:
    """Write a configuration as YAML that `parse_config` reads.

    Args:
        config (`TrainConfig`): The configuration.

    Returns:
        `str`: the YAML.
    """
    text: str = yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True, width=119)
    return text


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested blocks to `{"block.key": value}`."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def keys_of(kind: type, prefix: str = "") -> Iterator[str]:
    """Yield the keys of a configuration, `block.key`, without what lies in keys that hold keyword arguments."""
    for key, value in get_type_hints(kind).items():
        if dataclasses.is_dataclass(value):
            yield from keys_of(value, f"{prefix}{key}.")  # type: ignore[arg-type]
        else:
            yield f"{prefix}{key}"


def check_resumable(saved: Mapping[str, Any], config: TrainConfig, place: str | None = None) -> None:
    """Refuse to continue a run with a configuration that would make it another run.

    Args:
        saved (mapping): The run's `config.yaml`, as read, or what stands in a training state.
        config (`TrainConfig`): The configuration it is to be continued with.
        place (`str`, *optional*): Where `saved` was found; the output folder if it is not given.

    Raises:
        ConfigError: Lists every key that differs and may not, with both values.
    """
    old, new = flatten(saved), flatten(dataclasses.asdict(config))
    least = TrainConfig(DataConfig(config.data.dataset), config.output_dir, stages=config.stages)
    defaults = flatten(dataclasses.asdict(least))
    own_keys = set(keys_of(TrainConfig))
    changed = []
    for key in sorted(old.keys() | new.keys()):
        # A key that an older version did not have yet has the value of that time: its default.
        default = defaults.get(key) if key in own_keys else None
        before, after = old.get(key, default), new.get(key)
        if before == after or key.startswith(_FREE_BLOCKS):
            continue
        if key.endswith(".max_train_steps") and before is not None and after is not None and after < before:
            changed.append(f"{key}: {before!r} -> {after!r} (may only grow)")
        elif key not in _FREE_KEYS:
            changed.append(f"{key}: {before!r} -> {after!r}")
    if changed:
        raise ConfigError(
            f"{place or config.output_dir} holds a run with another configuration, which cannot be resumed with this "
            f"one; differing keys: {'; '.join(changed)}"
        )
