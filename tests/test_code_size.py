"""Files and functions stay small."""

from __future__ import annotations

import ast

import pytest

from tests.source_files import PACKAGES, ROOT, functions_of, source_files

LONGEST_FILE = 300
LONGEST_FUNCTION = 60


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function, without signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_files():
    sizes = {
        str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines())
        for file in source_files(*PACKAGES)
    }
    assert {name: lines for name, lines in sizes.items() if lines > LONGEST_FILE} == {}


def test_functions():
    sizes = {
        f"{file.relative_to(ROOT)}:{function.lineno} {function.name}": lines_of_code(function)
        for file in source_files(*PACKAGES)
        for function in functions_of(file)
    }
    assert len(sizes) > 200
    assert {name: lines for name, lines in sizes.items() if lines > LONGEST_FUNCTION} == {}


def test_no_file_is_a_drawer_for_everything():
    forbidden = {"utils", "util", "helpers", "common", "misc", "tools"}
    assert [str(file) for file in source_files(*PACKAGES) if file.stem in forbidden] == []


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("def f():\n    return 1\n", 1),
        ('def f(\n    a,\n):\n    """Say.\n\n    More.\n    """\n    b = (\n        a\n    )\n    return b\n', 4),
        ('def f():\n    """Say."""\n', 0),
    ],
)
def test_how_lines_are_counted(text, lines):
    assert lines_of_code(ast.parse(text).body[0]) == lines
