"""What is public is documented, and what is documented is true: names and defaults of arguments."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator

import pytest

from tests.source_files import PACKAGES, ROOT, functions_of, source_files, tree_of

Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
ENTRY = re.compile(r"^(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \((?P<kind>.*?)\))?:(?:\s|$)", re.DOTALL)
DEFAULT = re.compile(r"defaults to `+([^`]+)`+")
SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Example", "Examples", "Note")


def public_definitions() -> Iterator[tuple[str, Documented, ast.ClassDef | None]]:
    """Yield everything public with its place and, for methods, its class."""
    for file in source_files(*PACKAGES):
        for node in tree_of(file).body:
            if not isinstance(node, Documented) or node.name.startswith("_"):
                continue
            place = f"{file.relative_to(ROOT)}:{node.name}"
            yield place, node, None
            if isinstance(node, ast.ClassDef):
                for member in node.body:
                    if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) and not member.name.startswith("_"):
                        yield f"{place}.{member.name}", member, node


DEFINITIONS = list(public_definitions())


def section(docstring: str, name: str) -> str | None:
    """Cut a Google section out of a docstring."""
    lines = inspect.cleandoc(docstring).splitlines()
    if f"{name}:" not in lines:
        return None
    start = lines.index(f"{name}:") + 1
    end = next(
        (number for number, line in enumerate(lines[start:], start) if line and not line.startswith(" ")), len(lines)
    )
    return inspect.cleandoc("\n" + "\n".join(lines[start:end]))


def entries(text: str) -> dict[str, str]:
    """Split a section into its entries, by name."""
    found = {}
    for part in re.split(r"\n(?=\S)", text):
        match = ENTRY.match(part)
        assert match, f"no `name (type): text`: {part.splitlines()[0]!r}"
        for name in match["names"].split(", "):
            found[name.lstrip("*")] = match["kind"] or ""
    return found


def is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def constructor_of(node: ast.ClassDef) -> ast.FunctionDef | None:
    """Find the constructor of a class, its own or that of a base in the project."""
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            return member
    bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
    for _, base, _ in DEFINITIONS:
        if isinstance(base, ast.ClassDef) and base.name in bases:
            return constructor_of(base)
    return None


def parameters(node: Documented) -> tuple[dict[str, str | None], set[str]]:
    """Return the parameters of a function, or of a class's constructor, with their defaults, and the starred ones."""
    if isinstance(node, ast.ClassDef):
        constructor = constructor_of(node)
        if is_dataclass(node) or constructor is None:
            fields = [m for m in node.body if isinstance(m, ast.AnnAssign) and isinstance(m.target, ast.Name)]
            return {m.target.id: m.value and ast.unparse(m.value) for m in fields}, set()
        node = constructor
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + [ast.unparse(d) for d in arguments.defaults]
    found = dict(zip([argument.arg for argument in positional], defaults, strict=True))
    found |= {a.arg: d and ast.unparse(d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)}
    starred = {argument.arg for argument in (arguments.vararg, arguments.kwarg) if argument is not None}
    return {name: default for name, default in found.items() if name not in ("self", "cls")}, starred


def is_property(node: Documented) -> bool:
    return any("property" in ast.unparse(decorator) for decorator in getattr(node, "decorator_list", []))


def test_modules_have_docstrings():
    files = source_files(*PACKAGES)
    assert len(files) > 60
    assert [str(file) for file in files if not ast.get_docstring(tree_of(file))] == []


def test_everything_public_has_a_docstring():
    bare = []
    for place, node, owner in DEFINITIONS:
        if ast.get_docstring(node):
            continue
        attributes = section(ast.get_docstring(owner) or "", "Attributes") if owner is not None else None
        if not (is_property(node) and attributes and node.name in entries(attributes)):
            bare.append(place)
    assert bare == []


def documented_arguments() -> list:
    return [
        pytest.param(node, id=place)
        for place, node, _ in DEFINITIONS
        if section(ast.get_docstring(node) or "", "Args") is not None
    ]


@pytest.mark.parametrize("node", documented_arguments())
def test_documented_arguments_are_those_of_the_signature(node):
    documented = entries(section(ast.get_docstring(node), "Args"))
    found, starred = parameters(node)
    attributes = section(ast.get_docstring(node), "Attributes")
    allowed = set(found) | starred
    assert set(documented) <= allowed
    assert set(found) - set(documented) - set(entries(attributes) if attributes else {}) == set()
    assert [name for name in documented if name in found] == [name for name in found if name in documented]


@pytest.mark.parametrize("node", documented_arguments())
def test_documented_defaults_are_those_of_the_signature(node):
    found, _ = parameters(node)
    for name, kind in entries(section(ast.get_docstring(node), "Args")).items():
        match = DEFAULT.search(kind)
        if match is not None:
            assert found[name] is not None, f"{name} has no default"
            assert found[name].startswith("_") or literal(match[1]) == literal(found[name]), name


def literal(text: str) -> object:
    """Read a value, as far as it is written out."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def test_there_is_something_to_compare():
    arguments = [entries(section(ast.get_docstring(test.values[0]), "Args")) for test in documented_arguments()]
    assert len(arguments) > 100
    assert sum(DEFAULT.search(kind) is not None for kinds in arguments for kind in kinds.values()) >= 40


def test_sections_have_their_usual_names():
    """A section that is called otherwise would not be compared with anything."""
    unusual = []
    for place, node, _ in DEFINITIONS:
        for line in inspect.cleandoc(ast.get_docstring(node) or "").splitlines():
            if re.fullmatch(r"[A-Z]\w+:", line) and line[:-1] not in SECTIONS:
                unusual.append(f"{place}: {line}")
    assert unusual == []


def test_functions_have_types():
    untyped = [
        f"{file.relative_to(ROOT)}:{function.name}"
        for file in source_files(*PACKAGES)
        for function in functions_of(file)
        if function.returns is None
    ]
    assert untyped == []
