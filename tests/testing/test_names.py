"""What tests of hosts pin."""

import ast
import inspect
from pathlib import Path

import pytest

from memsafe_transcribe import testing

SIGNATURES = {
    "BadServer": "(replies: dict[str, memsafe_transcribe.testing._server.Reply | "
    "list[memsafe_transcribe.testing._server.Reply]]) -> None",
    "FakeEngine": "(script: collections.abc.Iterable[str | memsafe_transcribe._transcription.protocol.ChunkResult | "
    "BaseException] = (), *, capabilities: memsafe_transcribe._transcription.protocol.Capabilities | None = None) "
    "-> None",
    "FakeGuard": "(*, limit_bytes: int, used_bytes: int = 0, threshold_percent: float = 60.0, "
    "ceiling_percent: float = 90.0) -> None",
    "Reply": "(body: bytes = b'', status: str = '200 OK', headers: dict[str, str | None] = <factory>, "
    "declared_bytes: int | None = None, every_seconds: float | None = None, for_ever: bool = False, "
    "then_hangs: bool = False, knows_head: bool = True) -> None",
    "TranscriberContract": "()",
}


def test_the_names_and_their_arguments_are_these() -> None:
    """A change here is a change for hosts."""
    assert {name: str(inspect.signature(getattr(testing, name))) for name in testing.__all__} == SIGNATURES


def test_the_names_for_type_checkers_are_the_names_at_run_time() -> None:
    """The two lists agree, and each name says what it is."""
    (block,) = (node for node in ast.parse(Path(testing.__file__).read_text()).body if isinstance(node, ast.If))
    typed = {alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == set(testing.__all__)
    assert set(testing.__all__) <= set(dir(testing))
    for name in testing.__all__:
        value = getattr(testing, name)
        members = [getattr(value, each) for each in dir(value) if not each.startswith("_")]
        assert value.__doc__
        assert all(member.__doc__ for member in members if callable(member))
        assert name in (Path(testing.__file__).parents[3] / "docs" / "testing.md").read_text()
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        testing.nope  # noqa: B018
