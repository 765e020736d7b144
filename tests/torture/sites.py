"""The list of sites, generated from the code: where it awaits, and where it asks the system for what may fail.

A site of awaiting is an `await`, an `async for` (a comprehension's, too) or an `async with` (both of its ends are one
site). It counts as cancelled at when a cancellation was thrown into a task while that stood on its stack of awaits: an
`await` of a function of ours is hit by whatever is hit within.

A site of I/O is a call of a function by which code asks the system. It counts as failed at when a call below it was
made to fail.
"""

import ast
import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any

import memsafe_transcribe as mt

SOURCE = Path(mt.__file__).parent
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_GENERATORS = (CoroutineType, AsyncGeneratorType, GeneratorType)
_BETWEEN = ("async_generator_asend", "async_generator_athrow", "anext_awaitable", "coroutine_wrapper")

_MODULES = {"os", "fcntl", "socket", "subprocess", "sqlite3", "tempfile", "select", "resource"}
# Of those modules, what asks the system for nothing, or cannot fail.
_PURE = {
    "AddressFamily", "Struct", "_exit", "abspath", "basename", "cpu_count", "dirname", "environ", "fsdecode",
    "fsencode", "fspath", "get", "geteuid", "getpid", "getrlimit", "inet_ntop", "inet_pton", "isabs", "items",
    "join", "major", "minor", "register_at_fork", "samestat", "sched_yield", "split", "strerror", "sysconf",
    "update", "urandom",
}  # fmt: skip
_METHODS = {
    "chmod", "exists", "is_dir", "is_file", "iterdir", "glob", "mkdir", "read_bytes", "read_text", "rename",
    "rmdir", "stat", "touch", "unlink", "write_bytes", "write_text", "execute", "executescript",
    "fetchone", "fetchall",
}  # fmt: skip
_SOCKETS = {"_socket", "connecting"}
_FUNCTIONS = {"open", "fdopen"}


@dataclass(frozen=True, order=True)
class Site:
    """One place in the code: `file`, `line` and `column` of its beginning, and what stands there."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.kind} {self.text}"

    @property
    def name(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    @property
    def begin(self) -> tuple[int, int]:
        return self.line, self.column

    @property
    def end(self) -> tuple[int, int]:
        return self.end_line, self.end_column


def _site(file: str, lines: list[str], node: Any, kind: str) -> Site:
    text = lines[node.lineno - 1].strip()
    return Site(file, node.lineno, node.col_offset, node.end_lineno, node.end_col_offset, kind, text[:80])


def _kind_of_await(node: ast.AST) -> str | None:
    if isinstance(node, ast.Await):
        return "await"
    if isinstance(node, ast.AsyncFor):
        return "async for"
    if isinstance(node, _COMPREHENSIONS) and any(each.is_async for each in node.generators):
        return "async for"
    return "async with" if isinstance(node, ast.AsyncWith) else None


def _kind_of_io(node: ast.AST) -> str | None:
    if not isinstance(node, ast.Call):
        return None
    function = node.func
    if isinstance(function, ast.Name):
        return function.id if function.id in _FUNCTIONS else None
    if not isinstance(function, ast.Attribute) or function.attr in _PURE:
        return None
    whose = function.value
    while isinstance(whose, ast.Attribute):  # os.path.realpath
        whose = whose.value
    if isinstance(whose, ast.Name) and whose.id in _MODULES:
        return f"{whose.id}.{function.attr}"
    is_socket = (whose.id if isinstance(whose, ast.Name) else getattr(function.value, "attr", "")) in _SOCKETS
    asks = function.attr in _METHODS or (is_socket and function.attr != "close")
    return f".{function.attr}" if asks else None


@cache
def _sites(kind_of: Any) -> dict[str, tuple[Site, ...]]:
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        file, text = path.relative_to(SOURCE).as_posix(), path.read_text()
        nodes = ((node, kind_of(node)) for node in ast.walk(ast.parse(text)))
        found[file] = tuple(sorted(_site(file, text.splitlines(), node, kind) for node, kind in nodes if kind))
    return found


def await_sites() -> set[Site]:
    """Every place at which the library awaits."""
    return {site for sites in _sites(_kind_of_await).values() for site in sites}


def io_sites() -> set[Site]:
    """Every place at which the library asks the system."""
    return {site for sites in _sites(_kind_of_io).values() for site in sites}


def await_sites_of(coroutine: Any) -> Iterator[Site]:
    """Those that a suspended task stands at, the outermost first."""
    for frame in _frames(coroutine):
        if (site := _site_of(frame, _kind_of_await)) is not None:
            yield site


def io_site_of(frame: FrameType | None) -> Site | None:
    """The innermost of the library's that a call stands below."""
    while frame is not None:
        if (site := _site_of(frame, _kind_of_io)) is not None:
            return site
        frame = frame.f_back
    return None


@contextmanager
def lines_passed(found: set[tuple[str, int]]) -> Iterator[None]:
    """While this lasts, each line of the library that runs, in whatever thread, is noted: its file, and its number."""

    def note(frame: FrameType, event: str, argument: object) -> Any:
        found.add((_file_of(frame.f_code) or "", frame.f_lineno))
        return note

    def begin(frame: FrameType, event: str, argument: object) -> Any:
        return note if _file_of(frame.f_code) is not None else None

    before = sys.gettrace()
    sys.settrace(begin)
    threading.settrace(begin)
    try:
        yield
    finally:
        sys.settrace(before)
        threading.settrace(None)


def is_ours(frame: FrameType | None) -> bool:
    """Whether the library stands below this frame."""
    while frame is not None:
        if _file_of(frame.f_code) is not None:
            return True
        frame = frame.f_back
    return False


def _frames(awaited: Any) -> Iterator[FrameType]:
    while awaited is not None:
        if isinstance(awaited, CoroutineType):
            frame, below = awaited.cr_frame, awaited.cr_await
        elif isinstance(awaited, AsyncGeneratorType):
            frame, below = awaited.ag_frame, awaited.ag_await
        elif isinstance(awaited, GeneratorType):
            frame, below = awaited.gi_frame, awaited.gi_yieldfrom
        else:  # what C puts in between does not say what it awaits
            frame, below = None, next(filter(_is_awaited, gc.get_referents(awaited)), None)
        if frame is not None:
            yield frame
        awaited = below


def _is_awaited(what: object) -> bool:
    return isinstance(what, _GENERATORS) or type(what).__name__ in _BETWEEN


@cache
def _file_of(code: CodeType) -> str | None:
    path = Path(code.co_filename)
    return path.relative_to(SOURCE).as_posix() if path.is_relative_to(SOURCE) else None


def _site_of(frame: FrameType, kind_of: Any) -> Site | None:
    return _site_in(frame.f_code, frame.f_lasti, kind_of)


@cache
def _site_in(code: CodeType, at: int, kind_of: Any) -> Site | None:
    """The smallest one that contains the instruction."""
    if (file := _file_of(code)) is None or at < 0:
        return None
    line, end_line, column, end_column = list(code.co_positions())[at // 2]
    if line is None or end_line is None or column is None or end_column is None:
        return None
    around = [
        site for site in _sites(kind_of)[file] if site.begin <= (line, column) and (end_line, end_column) <= site.end
    ]
    return max(around, key=lambda site: (site.begin, [-number for number in site.end]), default=None)
