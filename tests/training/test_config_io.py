"""Reading, writing and comparing configurations."""

from __future__ import annotations

import dataclasses
import re

import pytest
import yaml

from tests.training.configurations import config_of, tiny_train_config, with_values
from tests.training.runs import tiny_config, write_config
from training.config import ConfigError, TrainConfig
from training.config_io import (
    check_resumable,
    config_files,
    config_to_yaml,
    find_output_dir,
    flatten,
    parse_config,
    read_yaml,
)

LEAST = "data: {dataset: digits}\noutput_dir: out\n"


@pytest.fixture
def parse(tmp_path):
    """Parse a YAML text and overrides."""

    def parse_text(text: str, *overrides: str) -> TrainConfig:
        file = tmp_path / "run.yaml"
        file.write_text(text, encoding="utf-8")
        return parse_config(["--config", str(file), *overrides])

    return parse_text


def test_only_data_set_and_output_folder_have_no_default(parse):
    assert parse(LEAST) == config_of(with_values({"data.dataset": "digits", "output_dir": "out"}))


def test_numbers_and_words_are_what_a_person_means(parse):
    text = LEAST + "mixed_precision: no\ndiffusion: {learning_rate: 1e-4, scheduler: {beta_start: 1e-4}}\n"
    config = parse(text, "--autoencoder.learning_rate=2e-3", "--diffusion.scheduler.beta_end=2e-2")
    assert config.mixed_precision == "no"
    assert (config.diffusion.learning_rate, config.autoencoder.learning_rate) == (1e-4, 2e-3)
    assert config.diffusion.scheduler == {"beta_start": 1e-4, "beta_end": 2e-2}


def test_later_arguments_win(parse):
    config = parse(LEAST + "seed: 1\n", "--seed=2", "--seed=3", "--mixed_precision=no")
    assert (config.seed, config.mixed_precision) == (3, "no")


def test_a_model_block_replaces_the_default_as_a_whole(parse):
    assert parse(LEAST + "autoencoder: {vae: {latent_channels: 3}}\n").autoencoder.vae == {"latent_channels": 3}


@pytest.mark.parametrize(
    ("text", "overrides", "fragments"),
    [
        ("sed: 3", [], ["unknown key sed", "seed"]),
        ("autoencoder: {lerning_rate: 1}", [], ["unknown key autoencoder.lerning_rate", "learning_rate"]),
        ("autoencoder:", [], ["autoencoder = None", "block"]),
        ("autoencoder: 3", [], ["autoencoder = 3", "block"]),
        ("no: 3", [], ["unknown key False"]),
        ("seed: many", [], ["seed", "many", "int"]),
        ("seed: 1.5", [], ["seed", "1.5", "int"]),
        ("data: {dataset: digits, random_flip: 3}", [], ["data.random_flip", "3", "bool"]),
        ("stages: diffusion", [], ["stages", "diffusion", "list"]),
        ("stages: [painting]", [], ["stages", "painting", "autoencoder"]),
        ("autoencoder: {likelihood: poisson}", [], ["autoencoder.likelihood", "poisson", "bernoulli"]),
        ("diffusion: {unet: 3}", [], ["diffusion.unet", "3"]),
        ("mixed_precision: yes", [], ["mixed_precision = True", "fp16"]),
        ("", ["--sed=3"], ["--sed"]),
        ("", ["--output_di=elsewhere"], ["--output_di"]),
        ("", ["--diffusion.learning_rat=1"], ["--diffusion.learning_rat"]),
        ("", ["--diffusion.learning_rate=quick"], ["diffusion.learning_rate", "quick"]),
        ("", ["--diffusion.learning_rate=-1"], ["diffusion.learning_rate = -1.0", "above 0"]),
        ("", ["digits"], ["digits"]),
        ("", ["--config"], ["--config"]),
        ("", ["--config=/nowhere/run.yaml"], ["/nowhere/run.yaml", "cannot be read"]),
    ],
)
def test_mistakes_are_named_in_one_line(parse, text, overrides, fragments):
    with pytest.raises(ConfigError) as caught:
        parse(LEAST + text + "\n", *overrides)
    assert "\n" not in str(caught.value)
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize(("content", "fragment"), [(b"\xff\xfe", "cannot be read"), (b"a: [", "not valid YAML")])
def test_files_that_are_no_yaml(tmp_path, content, fragment):
    (tmp_path / "run.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=fragment) as caught:
        read_yaml(tmp_path / "run.yaml")
    assert str(tmp_path / "run.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_are_found_in_both_spellings():
    assert list(config_files(["--config", "a.yaml", "--seed=1", "--config=b.yaml"])) == ["a.yaml", "b.yaml"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "written"),
        (["--output_dir=other"], "other"),
        (["--output_dir", "other", "--sed=3"], "other"),
        (["--output_dir="], None),
        (["--config", "/nowhere/run.yaml"], "written"),
    ],
)
def test_the_output_folder_is_found_beside_mistakes(tmp_path, overrides, expected):
    file = tmp_path / "run.yaml"
    file.write_text("output_dir: written\nsed: 3\n")
    found = find_output_dir(["--config", str(file), *overrides])
    assert (None if found is None else str(found)) == expected


def test_no_output_folder(tmp_path):
    (tmp_path / "run.yaml").write_text("output_dir: [1]\n")
    assert find_output_dir(["--config", str(tmp_path / "run.yaml")]) is None


def test_what_is_saved_reads_back(tmp_path):
    changes = {"seed": 7, "diffusion__learning_rate": 1e-5, "diffusion__scheduler": {"beta_start": 1e-4}}
    config = tiny_train_config(**changes, data__caption_column="\u00fcberschrift")
    (tmp_path / "config.yaml").write_text(config_to_yaml(config), encoding="utf-8")
    assert parse_config(["--config", str(tmp_path / "config.yaml")]) == config
    check_resumable(read_yaml(tmp_path / "config.yaml"), config)


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": {}}) == {"a.b": 1, "a.c.d": [2], "e": {}}


FREE = re.compile(
    r"output_dir|stages|report_to|data\.dataloader_num_workers|diffusion\.latent_cache_dir|(evaluation|card|hub)\..*|"
    r"\w+\.(train_batch_size|gradient_accumulation_steps|checkpointing_steps|checkpoints_total_limit|"
    r"validation_steps|logging_steps|on_non_finite)"
)


def test_what_may_change_on_resume():
    """Every key of a configuration is either free or refused by name."""
    config = tiny_train_config()
    saved = dataclasses.asdict(config)
    check_resumable(saved, config)
    for key in flatten(saved):
        if key.endswith(".max_train_steps"):
            continue
        changed = with_values({key: "another value"}, saved)
        if FREE.fullmatch(key):
            check_resumable(changed, config)
        else:
            with pytest.raises(ConfigError, match=re.escape(f"{key}: 'another value' -> ")):
                check_resumable(changed, config)


@pytest.mark.parametrize("stage", ["text_encoder", "autoencoder", "diffusion"])
def test_steps_may_only_grow(stage):
    saved = dataclasses.asdict(tiny_train_config())
    check_resumable(saved, config_of(with_values({f"{stage}.max_train_steps": 5}, tiny_config("out"))))
    with pytest.raises(ConfigError, match=rf"{stage}.max_train_steps: 4 -> 3 \(may only grow\)"):
        check_resumable(saved, config_of(with_values({f"{stage}.max_train_steps": 3}, tiny_config("out"))))


def test_all_differing_keys_are_listed_in_one_line():
    saved = dataclasses.asdict(tiny_train_config())
    other = tiny_train_config(seed=1, diffusion__unet={"layers_per_block": 2}, evaluation__guidance_scale=1.0)
    with pytest.raises(ConfigError) as caught:
        check_resumable(saved, other)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("unused holds a run with another configuration")
    for fragment in ("seed: 0 -> 1", "diffusion.unet.layers_per_block: 1 -> 2", "diffusion.unet.norm_num_groups: 4"):
        assert fragment in message
    assert "guidance_scale" not in message


def test_added_and_removed_model_keys_are_changes():
    saved = dataclasses.asdict(tiny_train_config())
    with pytest.raises(ConfigError, match=r"diffusion\.scheduler\.beta_start: None -> 0\.1"):
        check_resumable(saved, tiny_train_config(diffusion__scheduler={"beta_start": 0.1}))


def test_a_saved_file_equals_what_is_held_in_memory(tmp_path):
    """Tuples, lists and numbers of a configuration come back from YAML as they were, or no run could be resumed."""
    config = parse_config(["--config", str(write_config(tmp_path / "run.yaml", tiny_config(tmp_path / "out")))])
    assert yaml.safe_load(yaml.safe_dump(dataclasses.asdict(config))) == dataclasses.asdict(config)


def test_a_run_of_an_older_version_goes_on():
    """A key that did not exist yet counts as its default; another value would change the run."""
    saved = dataclasses.asdict(tiny_train_config())
    del saved["diffusion"]["noise_offset"], saved["allow_tf32"]
    del saved["autoencoder"]["perceptual"], saved["autoencoder"]["adversarial"]
    check_resumable(saved, tiny_train_config())
    with pytest.raises(ConfigError, match=r"autoencoder.perceptual.scale: 0.0 -> 1.0"):
        check_resumable(saved, tiny_train_config(autoencoder__perceptual={"scale": 1.0}))
    with pytest.raises(ConfigError, match=r"diffusion.noise_offset: 0.0 -> 0.1"):
        check_resumable(saved, tiny_train_config(diffusion__noise_offset=0.1))
