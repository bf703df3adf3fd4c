"""What exactness and crash safety cost: the stall of a save, the order of samples and the random streams of samples.

    python benchmarks/training_overhead.py

The diffusion stage of configs/digits.yaml is trained for some updates, with a save every forty. The twenty updates
after each save, which is written while they run, are compared with the twenty before the next one. Everything is given
as a share of the time of an update, a save at the default interval of saves.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from training.config import StageConfig, TrainConfig
from training.config_io import parse_config
from training.data.captioned_images import CaptionedImages
from training.data.catalogue import load_captioned_images
from training.engine.interruption import StopSignal
from training.engine.random_streams import standard_normal, uniform
from training.engine.sampling_order import GlobalBatchSampler, order_of
from training.engine.task import Batch
from training.engine.tracking import MetricsLog
from training.engine.trainer import Trainer
from training.tasks.components import FrozenModels, build_text_model, build_vae
from training.tasks.diffusion import DiffusionTask
from training.tasks.text_encoder import TextEncoderTask
from training.tasks.timestep_sampling import draw_timesteps

SAVE_EVERY = 40
DEFAULT_INTERVAL: Any = StageConfig.__dataclass_fields__["checkpointing_steps"].default


@dataclass(frozen=True)
class SaveCosts:
    """What saving costs a training.

    Args:
        step (`float`): Seconds of an update, their median.
        stalls (`list[float]`): Seconds that each save takes from the training in all.
        copying (`list[float]`): The part of them in which nothing else is done.
    """

    step: float
    stalls: list[float]
    copying: list[float]


class TimedTask(DiffusionTask):
    """Notes when each update begins."""

    def __init__(self, config: TrainConfig, dataset: CaptionedImages, frozen: FrozenModels) -> None:
        super().__init__(config, dataset, frozen)
        self.starts: list[float] = []

    def prepare_batch(self, batch: Batch, step: int) -> Batch:
        """Note the time, then do what a diffusion task does."""
        self.starts.append(time.perf_counter())
        return super().prepare_batch(batch, step)


def main(arguments: Sequence[str]) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-saves", type=int, default=8)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        config = parse_config(["--config", "configs/digits.yaml", f"--output_dir={folder}", "--report_to=none"])
        task = build_task(config)
        starts = train(config, task, Path(folder), (options.num_saves + 1) * SAVE_EVERY)
        size = sum(file.stat().st_size for file in Path(folder).glob("checkpoint-*/*")) / 2
    costs = costs_of_saves(starts, options.num_saves)
    step, stall, copying = costs.step, statistics.median(costs.stalls), statistics.median(costs.copying)
    order, streams = cost_of_order(config, task), cost_of_streams(config, task)
    of_save = stall / DEFAULT_INTERVAL
    print(f"update {1e3 * step:.1f} ms; a training state has {size / 2**20:.0f} MiB, saved every {DEFAULT_INTERVAL}")
    print(f"stall of a save      {1e3 * stall:8.1f} ms  {of_save / step:8.3%}")
    print(f"  of which copying   {1e3 * copying:8.1f} ms")
    print(f"order of samples     {1e3 * order:8.3f} ms  {order / step:8.3%}")
    print(f"random streams       {1e3 * streams:8.3f} ms  {streams / step:8.3%}")
    print(f"together                         {(of_save + order + streams) / step:8.3%}")


def costs_of_saves(starts: Sequence[float], num_saves: int, save_every: int = SAVE_EVERY) -> SaveCosts:
    """Compare the updates after saves with those before the next ones.

    Args:
        starts (sequence of `float`): When each of `(num_saves + 1) * save_every` updates began, in seconds.
        num_saves (`int`): How many saves are looked at, at least 2.
        save_every (`int`, defaults to 40): Updates from one save to the next, even.
    """
    durations = [after - before for before, after in itertools.pairwise(starts)]
    # Update number s * save_every is followed by a save, whose copying falls into its own duration.
    half = save_every // 2
    with_save = [durations[s * save_every - 1 : s * save_every - 1 + half] for s in range(1, num_saves + 1)]
    without = [durations[s * save_every - 1 + half : (s + 1) * save_every - 1] for s in range(1, num_saves)]
    step = statistics.median(duration for block in without for duration in block)
    stalls = [sum(block) - half * step for block in with_save]
    return SaveCosts(step, stalls, [block[0] - step for block in with_save])


def build_task(config: TrainConfig) -> TimedTask:
    """Build the diffusion stage with a text encoder and an autoencoder that have learned nothing."""
    arguments: dict[str, Any] = {**config.data.captioned(), "seed": config.seed}
    dataset = load_captioned_images("train", **arguments)
    tokenizer = TextEncoderTask(config, dataset, None).tokenizer
    frozen = FrozenModels(tokenizer, build_text_model(config.text_encoder, tokenizer), build_vae(config))
    return TimedTask(config, dataset, frozen)


def train(
    config: TrainConfig,
    task: TimedTask,
    folder: Path,
    steps: int,
    save_every: int = SAVE_EVERY,
    device: str = "cpu",
) -> list[float]:
    """Train for some updates and return when each of them began."""
    settings = dataclasses.replace(config.diffusion, max_train_steps=steps, checkpointing_steps=save_every)
    trainer = Trainer(
        task,
        settings,
        Accelerator(cpu=device == "cpu", mixed_precision=str(config.mixed_precision)),
        folder,
        MetricsLog(folder / "metrics.jsonl"),
        StopSignal(),
        seed=config.seed,
        config={},
        check_resumable=lambda saved, place: None,
    )
    trainer.fit()
    return task.starts


def cost_of_order(config: TrainConfig, task: TimedTask, steps: int = 200) -> float:
    """Time the order of the samples of an update."""
    order = order_of(task.dataset, config.seed)
    sampler = GlobalBatchSampler(order, config.diffusion.train_batch_size, 1, 0, 1, start_step=0, max_steps=steps)
    started = time.perf_counter()
    for _ in sampler:
        pass
    return (time.perf_counter() - started) / steps


def cost_of_streams(config: TrainConfig, task: TimedTask, steps: int = 50) -> float:
    """Time everything random about the samples of an update."""
    settings, seed = config.diffusion, config.seed
    vae: Any = task.frozen.vae
    shape = (vae.config["latent_channels"], *[config.data.resolution // task.factor] * 2)
    started = time.perf_counter()
    for step in range(steps):
        numbers = range(step * settings.train_batch_size, (step + 1) * settings.train_batch_size)
        standard_normal(seed, "diffusion/posterior", numbers, shape)
        standard_normal(seed, "diffusion/noise", numbers, shape)
        draw_timesteps(settings, seed, numbers, 1000)
        uniform(seed, "diffusion/caption_drop", numbers)
    return (time.perf_counter() - started) / steps


if __name__ == "__main__":
    main(sys.argv[1:])
