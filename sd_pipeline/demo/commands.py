"""The commands `sd-pipeline demo`, which serves the page, and `sd-pipeline space`, which prepares it for the Hub."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from sd_pipeline.pretrained_models import DEFAULT_MODEL

NO_GRADIO = "the web page needs Gradio, which is not installed: pip install 'sd_pipeline[demo]'"


def add_demo_commands(commands: Any) -> None:
    """Add both commands.

    Args:
        commands (`Any`): What `ArgumentParser.add_subparsers` returns.
    """
    demo = commands.add_parser("demo", help="a web page for a model", description="Serve a web page for a model.")
    demo.add_argument("--model", default=DEFAULT_MODEL, metavar="FOLDER_OR_REPO", help="default: %(default)s")
    demo.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    demo.set_defaults(run=serve)
    space = commands.add_parser("space", help="the folder of a Space on the Hub that serves this page")
    space.description = "Write the folder of a Space: a web page on the Hub. Look at it first: python FOLDER/app.py"
    space.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="a new or empty folder")
    space.add_argument("--model", default=DEFAULT_MODEL, metavar="REPO", help="on the Hub (default: %(default)s)")
    space.set_defaults(run=write)


def serve(options: argparse.Namespace) -> None:
    """Serve the page until it is interrupted.

    Args:
        options (`argparse.Namespace`): `model` and `port`.

    Raises:
        ValueError: If Gradio is not installed, or the model is damaged.
        OSError: If there is no such model, or the port is taken.
    """
    _require_gradio()
    from sd_pipeline.demo.page import launch

    launch(options.model, options.port)


def write(options: argparse.Namespace) -> None:
    """Write the folder of a Space.

    Args:
        options (`argparse.Namespace`): `output` and `model`.

    Raises:
        ValueError: If Gradio is not installed, the folder is not empty, or the model is not on the Hub.
        OSError: If the folder cannot be written.
    """
    _require_gradio()
    from sd_pipeline.publishing.space import write_space

    write_space(options.output, options.model)
    print(options.output)


def _require_gradio() -> None:
    if importlib.util.find_spec("gradio") is None:
        raise ValueError(NO_GRADIO)
