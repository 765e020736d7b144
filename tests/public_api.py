"""The public API as text, a line for each thing that a host can rely on: `python -m tests.public_api` writes it anew.

What is public is what no underscore says otherwise of: the names of each public module, and of each class its fields,
attributes and methods, with all arguments, types and defaults. The command line is not in it.
"""

import ast
import dataclasses
import enum
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_origin

import memsafe_transcribe as mt

SNAPSHOT = Path(__file__).with_name("public_api.txt")
# What a class can be used in: `async with`, `for`, and a call.
PROTOCOL_METHODS = {"__aenter__", "__enter__", "__aiter__", "__iter__", "__call__", "__len__", "__getitem__"}
# Where a type is defined is nothing that a host sees, and some of these differ between releases of Python.
_PLACES = re.compile(r"\b(?:memsafe_transcribe|collections|contextlib|typing|pathlib|os|types)(?:\.\w+)*\.(?=\w)")


def public_modules() -> list[ModuleType]:
    """The package and all modules below it that have no underscore, but for the command."""
    below = [found.name for found in pkgutil.walk_packages(mt.__path__, f"{mt.__name__}.")]
    names = [name for name in below if "._" not in name and name != f"{mt.__name__}.cli"]
    return [importlib.import_module(name) for name in (mt.__name__, *names)]


def lines() -> list[str]:
    """The API as it is now."""
    found: list[str] = []
    for module in public_modules():
        for name in getattr(module, "__all__", None) or _defined_in(module):
            found += _of(f"{module.__name__}.{name}", getattr(module, name))
    return sorted(found)


def _defined_in(module: ModuleType) -> list[str]:
    """Names of a module without `__all__` that stand in its own text: what it imports is not its own."""
    found = []
    for node in ast.parse(Path(str(module.__file__)).read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(node.name)
        elif isinstance(node, ast.Assign):
            found += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.append(node.target.id)
    return [name for name in found if not name.startswith("_")]


def _of(name: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value) and get_origin(value) is None:
        yield from _of_class(name, value)
    elif callable(value) and get_origin(value) is None:
        yield f"{name}: {_function(value)}"
    elif name.endswith("__version__"):
        yield f"{name}: {type(value).__name__}"  # it changes with each release, and breaks nobody
    else:
        yield f"{name} = {_shown(repr(value))}"


def _of_class(name: str, value: type) -> Iterator[str]:
    bases = ", ".join(_shown(inspect.formatannotation(base)) for base in value.__bases__ if base is not object)
    yield f"{name}: {'dataclass' if dataclasses.is_dataclass(value) else 'class'}({bases})"
    if not issubclass(value, enum.Enum) and not getattr(value, "_is_protocol", False):
        yield f"{name}: called with {_signature(value)}"
    seen: dict[str, str] = {}
    for each in reversed(value.__mro__):
        if each.__module__.partition(".")[0] == mt.__name__:
            seen |= _members(each)
    yield from (f"{name}.{member}: {what}" for member, what in seen.items())


def _members(value: type) -> dict[str, str]:
    """What one class itself adds: its annotations, what it sets in `__init__`, and all that stands in its body."""
    found = {each: _shown(inspect.formatannotation(type_)) for each, type_ in inspect.get_annotations(value).items()}
    found |= dict.fromkeys(_set_in_init(value), "attribute")
    for each, member in vars(value).items():
        if isinstance(member, property):
            found[each] = f"property -> {_shown(inspect.formatannotation(_returned(member)))}"
        elif isinstance(member, staticmethod | classmethod):
            found[each] = f"{type(member).__name__} {_function(member.__func__)}"
        elif inspect.isfunction(member):
            found[each] = _function(member)
        elif isinstance(member, enum.Enum):
            found[each] = f"= {member.value!r}"
        elif not inspect.ismemberdescriptor(member) and not each.startswith("_"):
            shown = repr(member)
            value_of = "" if " at 0x" in shown else f" = {_shown(shown)}"  # where it lies is of no interest
            found[each] = f"{found.get(each, 'attribute')}{value_of}"
    return {each: what for each, what in found.items() if not each.startswith("_") or each in PROTOCOL_METHODS}


def _returned(member: property) -> Any:
    return inspect.signature(member.fget).return_annotation if member.fget else None


def _set_in_init(value: type) -> Iterator[str]:
    if "__init__" not in vars(value) or dataclasses.is_dataclass(value):
        return
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(value.__init__)))):  # type: ignore[misc]
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


def _function(value: Any) -> str:
    is_async = inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value)
    return f"{'async ' if is_async else ''}def{_signature(value)}"


def _signature(value: Any) -> str:
    return _shown(str(inspect.signature(value)))


def _shown(text: str) -> str:
    """Without quotes around types that are named before they are there, and without the places of types."""
    text = text.replace("NoneType", "None")  # as old releases of typing's Awaitable spell it
    return _PLACES.sub("", re.sub(r"'([A-Z]\w*)'(?=[,\])| ]|$)", r"\1", text))


if __name__ == "__main__":
    SNAPSHOT.write_text("".join(f"{line}\n" for line in lines()))
