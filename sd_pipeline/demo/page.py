"""The page itself: what is on it, and how it is served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
import gradio as gr
import transformers

from sd_pipeline.demo.generation import MAX_IMAGES, Studio
from sd_pipeline.demo.model_facts import ModelFacts
from sd_pipeline.demo.runs import Runs
from sd_pipeline.demo.task_forms import task_form
from sd_pipeline.pretrained_models import DEFAULT_MODEL

_HOUR = 3600
_MAX_UPLOAD = "10mb"
_MAX_WAITING = 32
# Small pictures are enlarged, and their pixels shall be seen.
_CSS = """
.pixels img { width: 100%; height: 100%; object-fit: contain; image-rendering: pixelated; }
#gallery { min-height: 400px; }
#gallery .grid-wrap { max-height: none; }
"""


def launch(model: str = DEFAULT_MODEL, port: int | None = None, *, block: bool = True) -> gr.Blocks:
    """Load a model and serve its page.

    Args:
        model (`str`, *optional*, defaults to the one that comes with the package): As in `SDPipeline.from_pretrained`.
        port (`int`, *optional*): By default the first free one from 7860 on.
        block (`bool`, *optional*, defaults to `True`): Whether to return only when the page is closed.

    Returns:
        `gr.Blocks`: The page; `close` ends it.

    Raises:
        RepositoryError: If a file of the model is missing or damaged (it is a `ValueError`).
        OSError: If there is no such model, or the port is taken.
    """
    # What the libraries remark while they load is not for the person who serves a page.
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    studio = Studio.load(model)
    page = build_page(studio, ModelFacts.of(model, studio.pipeline))
    page.queue(max_size=_MAX_WAITING).launch(
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=_MAX_UPLOAD,
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        footer_links=[],
        css=_CSS,
        # Fonts of the visitor: none is fetched from anywhere.
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
    )
    print(f"{model}: {page.local_url}", flush=True)
    if block:
        page.block_thread()
    return page


def build_page(studio: Studio, facts: ModelFacts) -> gr.Blocks:
    """Lay out the page of a model.

    Args:
        studio (`Studio`): The loaded model.
        facts (`ModelFacts`): What is told about it.

    Returns:
        `gr.Blocks`: Ready for `launch`.
    """
    runs = Runs(studio)
    brush_size = max(facts.size or (512, 512)) // 12
    # Uploads and results are deleted when they are between one and two hours old.
    with gr.Blocks(title=facts.name, analytics_enabled=False, delete_cache=(_HOUR, _HOUR)) as page:
        gr.Markdown(facts.summary(), elem_id="model")
        with gr.Row():
            with gr.Column():
                prompts = _prompts(studio, facts.example_prompts)
                with gr.Tabs():
                    forms = [task_form(task, brush_size) for task in studio.pipelines]
                settings = _settings(studio)
            with gr.Column():
                gallery = gr.Gallery(
                    label="Pictures",
                    format="png",
                    columns=2,
                    interactive=False,
                    elem_id="gallery",
                    elem_classes="pixels",
                )
                status = gr.Markdown(elem_id="status")
                cancel = gr.Button("Cancel", variant="stop", elem_id="cancel")
                _examples(prompts[0], facts.example_prompts)
        # One call at a time, whatever the tab.
        started: list[Any] = [
            form.button.click(
                runs.handler(form),
                [*prompts, *settings, *form.inputs],
                [gallery, status],
                concurrency_id="model",
                api_name=form.task,
                show_progress_on=gallery,
            )
            for form in forms
        ]
        # `cancels` alone would take calls out of the queue, and leave the one that runs running.
        cancel.click(runs.cancel, outputs=status, cancels=started, queue=False, api_visibility="private")
        selected = gr.State(0)
        gallery.select(_index, outputs=selected, queue=False, api_visibility="private")
        for form in forms:
            if form.take_over is not None:
                form.take_over.click(
                    _selected, [gallery, selected], form.picture, queue=False, api_visibility="private"
                )
    return page


def _prompts(studio: Studio, examples: Sequence[str]) -> list[Any]:
    is_visible = studio.pipeline.takes_prompts
    prompt = gr.Textbox(examples[0] if examples else "", label="Prompt", visible=is_visible, elem_id="prompt")
    negative_prompt = gr.Textbox(label="Negative prompt", visible=is_visible, elem_id="negative_prompt")
    return [prompt, negative_prompt]


def _examples(prompt: gr.Textbox, examples: Sequence[str]) -> None:
    if len(examples) > 1:
        gr.Examples([[example] for example in examples], [prompt], examples_per_page=4, label="Prompts to try")


def _settings(studio: Studio) -> list[Any]:
    """Ask for the arguments of `read_settings` after the prompts, in its order."""
    recommended = studio.pipeline.fill_in_recommended()
    with gr.Row():
        seed = gr.Number(0, label="Seed", precision=0, min_width=80, elem_id="seed")
        is_random = gr.Checkbox(True, label="Random seed", min_width=80, elem_id="is_random")
        num_images = gr.Slider(1, MAX_IMAGES, 1, step=1, label="Pictures", min_width=160, elem_id="num_images")
    with gr.Row():
        num_steps = gr.Number(
            recommended["num_inference_steps"], label="Steps", precision=0, min_width=80, elem_id="steps"
        )
        guidance_scale = gr.Number(
            recommended["guidance_scale"],
            label="Guidance",
            min_width=80,
            visible=studio.pipeline.takes_prompts,
            elem_id="guidance",
        )
    return [seed, is_random, num_images, num_steps, guidance_scale]


def _index(event: gr.SelectData) -> int:
    return int(event.index)


def _selected(made: list[tuple[str, str | None]] | None, index: int) -> str:
    """Find the picture that was clicked on, or the first one."""
    if not made:
        raise gr.Error("there is no picture yet: make one first", print_exception=False)
    return made[index if index < len(made) else 0][0]
