from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from sd_pipeline import cli
from sd_pipeline.demo.commands import NO_GRADIO


@pytest.mark.parametrize("arguments", [["demo"], ["space", "--output", "space"]])
def test_without_gradio_one_line_says_what_to_install(arguments, tmp_path):
    program = (
        "import importlib.util, sys; find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'gradio' else find(name, *rest)\n"
        "from sd_pipeline import cli; code = cli.main(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    command = [sys.executable, "-c", program, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ)
    assert (result.returncode, result.stderr) == (2, f"sd-pipeline: {NO_GRADIO}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--port", "0"], "--port is 0; it must be from 1 to 65535"),
        (
            ["--model", "no such folder"],
            "'no such folder' is neither a folder nor the name of a repository on the Hub",
        ),
    ],
)
def test_bad_options(arguments, line, capsys):
    assert cli.main(["demo", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"sd-pipeline: {line}")


def test_port_that_is_taken(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["demo", "--port", str(port)]) == 2
    assert str(port) in capsys.readouterr().err
