"""Saving without stalling: a state is copied, and written in the background while training goes on."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from training.engine.checkpointing import TrainingState, save_checkpoint


class CheckpointWriter:
    """Writes a stage's training states, one at a time.

    Writing, hashing and reading back release Python's lock, so a thread is enough.

    Args:
        folder (`Path`): Folder of the stage.
        total_limit (`int`, *optional*): How many states are kept; `None` keeps all.
    """

    def __init__(self, folder: Path, total_limit: int | None) -> None:
        self.folder = folder
        self.total_limit = total_limit
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._in_flight: Future[Path] | None = None

    def save(self, step: int, state: TrainingState) -> None:
        """Copy a state, and write it in the background; an earlier one that is not written yet is waited for.

        Args:
            step (`int`): Updates done.
            state (`TrainingState`): The state; its tensors may change as soon as this returns.

        Raises:
            OSError: If the earlier one could not be written.
        """
        self.wait()
        copies = {
            name: {key: tensor.detach().to("cpu", copy=True) for key, tensor in tensors.items()}
            for name, tensors in state.tensors.items()
        }
        copied = TrainingState(copies, {**state.values, "step": step})
        self._in_flight = self._executor.submit(save_checkpoint, self.folder, step, copied, self.total_limit)

    def check(self) -> None:
        """Raise what went wrong with the state in flight, if that is known by now."""
        if self._in_flight is not None and self._in_flight.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the state in flight is on disk.

        Raises:
            OSError: If it could not be written; what was there before still is.
        """
        if self._in_flight is not None:
            in_flight, self._in_flight = self._in_flight, None
            in_flight.result()

    def close(self) -> None:
        """End the thread, after what it is writing."""
        self._executor.shutdown(wait=True)
