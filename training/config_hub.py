"""The block `hub`: whether the finished model goes to the Hugging Face Hub. Imports nothing else of the project."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from training.config_stages import require


@dataclass(frozen=True)
class HubConfig:
    """Where the finished model is published. The token is that of `hf auth login` or HF_TOKEN, never a key.

    A push that fails costs nothing: the push waits in `output_dir/spool`, the run ends with status `push_pending`, and
    `sd-pipeline push OUTPUT_DIR`, or the same training command, sends it later.

    What is sent while the training goes on is sent by a process of its own. If that has not come to its end when the
    next training state is written, that state is not sent.

    Args:
        push_to_hub: Send the finished model to the Hub: the output of the last of the run's stages.
        hub_model_id: Its name there, `user/name`; made if it is not there.
        hub_private_repo: Whether a new repository is private; null leaves it to the settings of the account.
        hub_revision: Branch it goes to; made if it is not there.
        hub_strategy: `end` sends the finished model alone. `every_save` also sends the averaged weights of the stage
            `diffusion` whenever one of its training states is written, as a model, to the branch
            `hub_training_revision`. `checkpoint` also sends, of every stage, the newest training state that is on
            disk by then, to the branch `HUB_TRAINING_REVISION-state`, from which `--resume hub:USER/NAME@BRANCH` goes
            on elsewhere.
        hub_training_revision: Branch of the models on the way, which `hub_revision` never sees.
        variant: `fp16` publishes the weights in half precision too, beside those in float32.
        push_retries: How often a step of the push is tried again after failures that pass, with random waits of up
            to a minute between; with 8, an outage keeps a run that has finished for five minutes at most.
    """

    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_private_repo: bool | None = None
    hub_revision: str = "main"
    hub_strategy: Literal["end", "every_save", "checkpoint"] = "end"
    hub_training_revision: str = "training"
    variant: Literal["fp16"] | None = None
    push_retries: int = 8

    def __post_init__(self) -> None:
        name = self.hub_model_id
        fits = name is None or name.count("/") == 1
        require(fits, "hub.hub_model_id", name, "user/name")
        require(name is not None or not self.push_to_hub, "hub.hub_model_id", name, "user/name with hub.push_to_hub")
        require(bool(self.hub_revision.strip()), "hub.hub_revision", self.hub_revision, "the name of a branch")
        name = self.hub_training_revision
        fits = bool(name.strip()) and self.hub_revision not in (name, self.state_revision)
        allowed = f"the name of a branch that is not hub.hub_revision, {self.hub_revision!r}"
        require(fits, "hub.hub_training_revision", name, allowed)
        require(self.push_retries >= 0, "hub.push_retries", self.push_retries, "at least 0")

    @property
    def state_revision(self) -> str:
        """Branch of the training states."""
        return f"{self.hub_training_revision}-state"

    @property
    def sends_while_training(self) -> bool:
        """Whether anything is sent before the end."""
        return self.push_to_hub and self.hub_strategy != "end"
