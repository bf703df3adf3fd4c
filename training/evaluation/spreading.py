"""Work on many things, spread over all processes of `accelerate launch`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


def process_state() -> PartialState:
    """Join the other processes, if there are any, and find the device of this one."""
    return PartialState(cpu=not torch.accelerator.is_available())


def measured(work: Callable[[torch.device], Result]) -> Result | None:
    """Do the work of a command that measures, in every process, and tell bad input in one line.

    Args:
        work (callable): Takes the device of the process.

    Returns:
        What it makes, or `None` after an `OSError` or a `ValueError`.
    """
    state = process_state()
    if state.device.type == "cpu":
        # Their number changes the last bits of what is computed, and who launches more processes has fewer of them.
        torch.set_num_threads(1)
    try:
        return work(state.device)
    except (OSError, ValueError) as error:
        if state.is_main_process:
            print(" ".join(str(error).split()), file=sys.stderr, flush=True)
        state.wait_for_everyone()  # A launcher ends all processes when the first of them leaves.
        return None


def spread(
    work: Callable[[Sequence[Item]], list[Result]],
    items: Sequence[Item],
    batch_size: int,
    description: str | None = None,
) -> list[Result]:
    """Cut items into batches and deal them out; the batches are the same for any number of processes.

    Every process has to call it alike, and every process does work in every round, as models demand whose parameters
    are sharded over the processes: those that have none left repeat the last batch for nothing.

    Args:
        work (callable): Makes one result of each item of a batch.
        items (sequence): What is to be worked on.
        batch_size (`int`): Items of a batch; the last may have fewer.
        description (`str`, *optional*): Of the work, for a progress bar of the main process.

    Returns:
        `list`: one result an item, in order, on every process.
    """
    state = process_state()
    batches = [items[first : first + batch_size] for first in range(0, len(items), batch_size)]
    results: list[Result] = []
    with tqdm(total=len(items), desc=description, disable=description is None or not state.is_main_process) as bar:
        # Gathered round by round, so that nobody waits for long and what travels stays small.
        for first in range(0, len(batches), state.num_processes):
            number = first + state.process_index
            own = work(batches[min(number, len(batches) - 1)])
            made: list[Result] = gather_object(own if number < len(batches) else [])
            results += made
            bar.update(len(made))
    return results
