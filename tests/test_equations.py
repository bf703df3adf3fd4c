"""The page of equations is complete, and names functions and tests that exist."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from functools import reduce

import pytest

from tests.source_files import PACKAGES, ROOT, module_of, tree_of

NUM_EQUATIONS, NUM_ALGORITHMS = 23, 2
NAME = r"`[\w/.]+::[\w.:]+`"


def entries() -> dict[str, str]:
    """Read the text below each heading of an equation, in the order of the page."""
    page = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
    parts = re.findall(r"^### (.+)\n((?:(?!##).*\n)*)", page, flags=re.MULTILINE)
    assert len(dict(parts)) == len(parts), "two equations have one heading"
    return dict(parts)


ENTRIES = entries()


def numbers(kind: str) -> list[int]:
    found = [re.match(rf"{kind} (\d+): \S", heading) for heading in ENTRIES]
    return [int(match[1]) for match in found if match is not None]


def named(label: str, text: str) -> list[tuple[str, str]]:
    """List what the lines of a label name: the file, and the place in it."""
    lines = re.findall(rf"^{label}: (.+)$", text, flags=re.MULTILINE)
    assert all(re.fullmatch(rf"{NAME}(?:, {NAME})*", line) for line in lines), lines
    return [tuple(name.split("::", 1)) for line in lines for name in re.findall(r"`(.+?)`", line)]


def everything_named(label: str) -> list[tuple[str, str]]:
    return sorted({name for text in ENTRIES.values() for name in named(label, text)})


def defined_tests(tree: ast.Module) -> Iterator[str]:
    """Yield the tests of a file, those in classes with the name of their class."""
    for node in tree.body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        yield from (prefix + one.name for one in members if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef))


def test_all_numbered_equations_and_algorithms_are_there_in_order() -> None:
    assert numbers("Equation") == list(range(1, NUM_EQUATIONS + 1))
    assert numbers("Algorithm") == list(range(1, NUM_ALGORITHMS + 1))


@pytest.mark.parametrize("heading", ENTRIES)
def test_an_equation_is_written_out_computed_and_proved(heading: str) -> None:
    text = ENTRIES[heading]
    assert len(re.findall(r"^\$\$$", text, flags=re.MULTILINE)) in (2, 4)
    assert len(re.findall(r"^In practice: \S", text, flags=re.MULTILINE)) == 1
    assert named("Function", text)
    assert named("Test", text)


@pytest.mark.parametrize(("file", "path"), everything_named("Function"))
def test_functions_exist(file: str, path: str) -> None:
    assert file.split("/")[0] in PACKAGES
    assert (ROOT / file).is_file()
    assert reduce(getattr, path.split("."), importlib.import_module(module_of(ROOT / file))) is not None


@pytest.mark.parametrize(("file", "path"), everything_named("Test"))
def test_tests_exist(file: str, path: str) -> None:
    assert path.split("::")[-1].startswith("test_")
    assert path in set(defined_tests(tree_of(ROOT / file)))
