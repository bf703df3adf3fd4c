"""What happens to a finished run on the way to the Hub: nothing of it can cost the training."""

from __future__ import annotations

import shutil

from sd_pipeline.publishing.hub_push import PushError, Target, check_target
from sd_pipeline.publishing.hub_retry import Backoff
from sd_pipeline.publishing.hub_spool import WHEN_SENT, send_spool, spool_push, withdraw_push
from sd_pipeline.publishing.variants import add_fp16_variant
from training.background_pushes import OUTGOING
from training.config import ConfigError, TrainConfig
from training.engine.run_folder import RunFolder
from training.engine.run_status import RunState, write_status


def check_hub(config: TrainConfig) -> None:
    """Check what can be known about the push before training. Whether the Hub can be reached is none of it.

    Args:
        config (`TrainConfig`): The run.

    Raises:
        ConfigError: If the name is impossible, or there is no token.
    """
    if config.hub.push_to_hub:
        try:
            check_target(str(config.hub.hub_model_id))
        except ValueError as error:
            raise ConfigError(f"hub.push_to_hub: {error}") from error


def publish(config: TrainConfig, folder: RunFolder) -> tuple[RunState, str]:
    """Push the finished model, if the configuration says so and it has not been pushed.

    Args:
        config (`TrainConfig`): The run.
        folder (`RunFolder`): Where the model is.

    Returns:
        `tuple[RunState, str]`: How the run ends, and a line about it.
    """
    message = f"finished: {', '.join(config.stages)}"
    if not config.hub.push_to_hub:
        return RunState.FINISHED, message
    hub, stage = config.hub, config.stages[-1]
    record = folder.record(stage)
    target = Target(str(hub.hub_model_id), hub.hub_revision, hub.hub_private_repo)
    steps = 0 if record is None else record["step"]
    try:
        model = folder.result(stage)
        if hub.variant == "fp16":
            add_fp16_variant(model)
        # What waits from the time of the training is outdated now.
        for revision in (hub.hub_training_revision, hub.state_revision):
            withdraw_push(folder.path, revision)
        shutil.rmtree(folder.path / OUTGOING, ignore_errors=True)
        spool_push(folder.path, model.relative_to(folder.path).as_posix(), target, f"Model after {steps} steps")
        send_spool(folder.path, Backoff(hub.push_retries))
    except (PushError, ValueError) as error:
        write_status(folder.path / WHEN_SENT, RunState.FINISHED, f"{message}; pushed to {target.repo_id}")
        later = f"`sd-pipeline push {folder.path}`, or the same command again, pushes the model"
        return RunState.PUSH_PENDING, f"{message}; {error}; {later}"
    return RunState.FINISHED, f"{message}; pushed to {target.repo_id} ({target.revision})"
