"""What tests of hosts find; what of it is pinned stands in tests/public_api.txt."""

import ast
from pathlib import Path

import pytest

from memsafe_transcribe import testing


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
        assert name in (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        testing.nope  # noqa: B018
