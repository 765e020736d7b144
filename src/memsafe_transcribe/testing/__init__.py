"""For the tests of hosts and of engines: fakes, and the contract that any engine can be held to.

Needs pytest for `TranscriberContract`, and nothing beyond the library for the rest. Loaded by nobody but tests.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names once more, for type checkers; a test compares them
    from ._contract import TranscriberContract as TranscriberContract
    from ._engine import FakeEngine as FakeEngine
    from ._guard import FakeGuard as FakeGuard
    from ._server import BadServer as BadServer, Reply as Reply

_MODULE_OF = {
    "BadServer": "_server",
    "FakeEngine": "_engine",
    "FakeGuard": "_guard",
    "Reply": "_server",
    "TranscriberContract": "_contract",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
