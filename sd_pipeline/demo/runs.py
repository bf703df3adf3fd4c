"""What happens when a visitor presses a button: settings are read, pictures made, mistakes shown, calls cancelled."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import gradio as gr

from sd_pipeline.demo.generation import Settings, Studio
from sd_pipeline.demo.task_forms import TaskForm


class CancelledCallError(Exception):
    """The visitor does not want the pictures any more."""


class Runs:
    """The calls that are under way, by visitor.

    Args:
        studio (`Studio`): The loaded model.
    """

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self._stops: dict[str | None, threading.Event] = {}

    def handler(self, form: TaskForm) -> Callable[..., Any]:
        """Make what the button of a form does.

        Args:
            form (`TaskForm`): The form.

        Returns:
            A function of the values of prompts, settings and `form.inputs`, in this order, which returns the pictures
            and a line about them, and raises `gr.Error` with one line about what is wrong.
        """

        # Gradio fills in the first two.
        def run(request: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
            stop, start, num_done = threading.Event(), time.perf_counter(), 0
            self._stops[request.session_hash] = stop

            def on_step(step: int, num_steps: int) -> None:
                nonlocal num_done
                num_done = step
                progress((step, num_steps), unit="steps")
                if stop.is_set():
                    raise CancelledCallError

            try:
                settings = read_settings(*values[:7])
                images = self.studio.make(form.task, settings, on_step, **form.read(*values[7:]))
            except CancelledCallError:
                return gr.skip(), f"Cancelled after {num_done} steps."
            except (ValueError, OSError, FloatingPointError) as error:
                raise gr.Error(str(error).strip().splitlines()[0], print_exception=False) from error
            finally:
                # The next call of this visitor may have begun already.
                if self._stops.get(request.session_hash) is stop:
                    del self._stops[request.session_hash]
            return images, f"Seed {settings.seed}, {num_done} steps, {time.perf_counter() - start:.1f} s"

        return run

    def cancel(self, request: gr.Request) -> str:
        """Stop the call of this visitor after the step that it is at.

        Args:
            request (`gr.Request`): Tells who it is.

        Returns:
            `str`: What is told.
        """
        stop = self._stops.get(request.session_hash)
        if stop is not None:
            stop.set()
        return "Cancelled."


def read_settings(
    prompt: str,
    negative_prompt: str,
    seed: float | None,
    is_random: bool,
    num_images: float,
    num_inference_steps: float | None,
    guidance_scale: float | None,
) -> Settings:
    """Read what stands on the page.

    Args:
        prompt (`str`): What the pictures shall show.
        negative_prompt (`str`): What to stay away from.
        seed (`float`, *optional*): A whole number.
        is_random (`bool`): Whether to draw another one.
        num_images (`float`): A whole number.
        num_inference_steps (`float`, *optional*): A whole number.
        guidance_scale (`float`, *optional*): Any number.

    Returns:
        `Settings`: Fields that were left empty are filled in: a random seed, and what the model recommends.
    """
    return Settings(
        prompt=prompt,
        negative_prompt=negative_prompt,
        seed=int.from_bytes(os.urandom(4), "big") if is_random or seed is None else int(seed),
        num_inference_steps=None if num_inference_steps is None else int(num_inference_steps),
        guidance_scale=guidance_scale,
        num_images=int(num_images),
    )
