"""What each task asks beside prompt and settings: its tab, and how that becomes arguments of a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from sd_pipeline.demo.picture_inputs import check_size, measure_first, read_painted, read_picture


@dataclass(frozen=True, kw_only=True)
class TaskForm:
    """A tab.

    Args:
        task (`str`): One of `TASKS`.
        button (`gr.Button`): Starts it.
        inputs (`list[gr.components.Component]`): What is asked.
        read (callable): Turns the values of `inputs` into arguments of the pipeline's call; raises `ValueError`.
        picture (`gr.components.Component`, *optional*): The one of `inputs` that takes a picture.
        take_over (`gr.Button`, *optional*): Puts there what was made last.
    """

    task: str
    button: gr.Button
    inputs: list[gr.components.Component]
    read: Callable[..., dict[str, Any]]
    picture: gr.components.Component | None = None
    take_over: gr.Button | None = None


def task_form(task: str, brush_size: int) -> TaskForm:
    """Lay out the tab of a task.

    Args:
        task (`str`): One of `TASKS`.
        brush_size (`int`): Radius of the brush, in pixels of the picture.

    Returns:
        `TaskForm`: In the container that is open.
    """
    if task == "inpaint":
        return _inpaint(task, brush_size)
    forms = {"text_to_image": _text_to_image, "image_to_image": _image_to_image, "outpaint": _outpaint}
    return forms[task](task)


def _text_to_image(task: str) -> TaskForm:
    with gr.Tab("Text to image", elem_id=f"{task}_tab"):
        return TaskForm(task=task, button=_button("Generate", task), inputs=[], read=dict)


def _image_to_image(task: str) -> TaskForm:
    with gr.Tab("Image to image", elem_id=f"{task}_tab"):
        picture, take_over = _picture(task), _take_over(task)
        strength = gr.Slider(0, 1, 0.8, step=0.05, label="Strength: how much to change")
        button = _button("Change", task)

    def read(path: str | None, strength: float) -> dict[str, Any]:
        return {"image": read_picture(path), "strength": strength}

    inputs: list[Any] = [picture, strength]
    return TaskForm(task=task, button=button, inputs=inputs, read=read, picture=picture, take_over=take_over)


def _inpaint(task: str, brush_size: int) -> TaskForm:
    with gr.Tab("Inpaint", elem_id=f"{task}_tab"):
        picture = measure_first(
            gr.ImageEditor(
                label="Paint over what shall change",
                type="pil",
                format="png",
                sources=["upload", "clipboard"],
                transforms=(),
                layers=False,
                brush=gr.Brush(brush_size, colors=["#ffffff"], color_mode="fixed"),
                height=420,
                elem_id=f"{task}_picture",
                elem_classes="pixels",
            )
        )
        take_over = _take_over(task)
        strength = gr.Slider(0, 1, 1, step=0.05, label="Strength: 1 forgets what was there")
        button = _button("Repaint", task)

    def read(edited: dict[str, Any] | None, strength: float) -> dict[str, Any]:
        image, mask_image = read_painted(edited)
        return {"image": image, "mask_image": mask_image, "strength": strength}

    inputs: list[Any] = [picture, strength]
    return TaskForm(task=task, button=button, inputs=inputs, read=read, picture=picture, take_over=take_over)


def _outpaint(task: str) -> TaskForm:
    with gr.Tab("Outpaint", elem_id=f"{task}_tab"):
        picture, take_over = _picture(task), _take_over(task)
        with gr.Row():
            sides = [
                gr.Number(32 if side == "Right" else 0, label=side, precision=0, min_width=80)
                for side in ("Left", "Top", "Right", "Bottom")
            ]
        button = _button("Extend", task)

    def read(path: str | None, *pixels: float | None) -> dict[str, Any]:
        image = read_picture(path)
        left, top, right, bottom = padding = tuple(int(side or 0) for side in pixels)
        check_size(image.width + left + right, image.height + top + bottom, "the extended picture")
        return {"image": image, "padding": padding}

    inputs: list[Any] = [picture, *sides]
    return TaskForm(task=task, button=button, inputs=inputs, read=read, picture=picture, take_over=take_over)


def _button(label: str, task: str) -> gr.Button:
    return gr.Button(label, variant="primary", elem_id=f"{task}_button")


def _take_over(task: str) -> gr.Button:
    return gr.Button("Take the picture that was made", size="sm", elem_id=f"{task}_take_over")


def _picture(task: str) -> gr.Image:
    """Take a picture as the file that it is: it is measured before it is decoded."""
    return gr.Image(
        label="Picture",
        type="filepath",
        image_mode=None,
        format="png",
        sources=["upload", "clipboard"],
        height=320,
        elem_id=f"{task}_picture",
        elem_classes="pixels",
    )
