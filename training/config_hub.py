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

    Args:
        push_to_hub: Send the finished model to the Hub.
        hub_model_id: Its name there, `user/name`; made if it is not there.
        hub_private_repo: Whether a new repository is private; null leaves it to the settings of the account.
        hub_revision: Branch it goes to; made if it is not there.
        variant: `fp16` publishes the weights in half precision too, beside those in float32.
        push_retries: How often a step of the push is tried again after failures that pass, with random waits of up
            to a minute between; with 8, an outage keeps a run that has finished for five minutes at most.
    """

    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_private_repo: bool | None = None
    hub_revision: str = "main"
    variant: Literal["fp16"] | None = None
    push_retries: int = 8

    def __post_init__(self) -> None:
        name = self.hub_model_id
        fits = name is None or name.count("/") == 1
        require(fits, "hub.hub_model_id", name, "user/name")
        require(name is not None or not self.push_to_hub, "hub.hub_model_id", name, "user/name with hub.push_to_hub")
        require(bool(self.hub_revision.strip()), "hub.hub_revision", self.hub_revision, "the name of a branch")
        require(self.push_retries >= 0, "hub.push_retries", self.push_retries, "at least 0")
