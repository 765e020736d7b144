"""Mutated real files of each format: whatever comes, the host gets samples or one error of ours, and is unharmed.

Every mutant follows from its format and its seed alone, as long as this code and PyAV are the same. A failure names
both; `MEMSAFE_FUZZ_REPLAY=FORMAT:SEED` has them, and nothing else, decoded again. With `MEMSAFE_TEST_PROFILE=long` new
seeds are tried for `MEMSAFE_FUZZ_SECONDS` in all; failing files are put into the folder `MEMSAFE_FUZZ_KEEP`, if there
is one.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import Run
from ..support.fuzzing import FORMATS, Tally, bases, fuzz, tally_of_session
from ..support.mutants import mutant

_SEEDS = 6  # of each format on each of asyncio and trio
_REPLAY = os.environ.get("MEMSAFE_FUZZ_REPLAY", "")
_IS_LONG = os.environ.get("MEMSAFE_TEST_PROFILE") == "long"
_LONG_SECONDS = float(os.environ.get("MEMSAFE_FUZZ_SECONDS", "600"))


def seeds_for(backend: str) -> Iterator[int]:
    """Even ones for asyncio, odd ones for trio: each mutant is decoded once."""
    if _REPLAY:
        yield int(_REPLAY.partition(":")[2])
        return
    is_trio = backend == "trio"
    if not _IS_LONG:
        yield from range(is_trio, 2 * _SEEDS, 2)
        return
    until = time.monotonic() + _LONG_SECONDS / len(FORMATS) / 2
    seed = int(time.time()) * 1000 + is_trio
    while time.monotonic() < until:
        yield seed
        seed += 2


@pytest.mark.parametrize("name", [_REPLAY.partition(":")[0]] if _REPLAY else FORMATS)
def test_no_mutant_does_harm(run: Run, request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
    """Each ends in time, in samples with gaps in order or in one error that says why; nothing of it is left."""
    backend = request.node.callspec.params["run"]
    failures = run(fuzz, name, seeds_for(backend), tmp_path, tally_of_session)
    assert not failures, "\n".join(
        [*failures, "again, one of them: MEMSAFE_FUZZ_REPLAY=FORMAT:SEED python -m pytest tests/audio/test_fuzz.py"]
    )


def test_a_mutant_can_be_made_again() -> None:
    """A seed says all; and hardly any leaves the file as it was."""
    made = [mutant(bases(), name, seed) for name in FORMATS for seed in range(4)]
    assert made == [mutant(bases(), name, seed) for name in FORMATS for seed in range(4)]
    assert sum(data in bases().values() for data in made) < len(made) / 20


@pytest.mark.parametrize(
    ("does", "what"),
    [
        ("exit 3", "crashed without a cause: exit status 3"),
        ("printf '%s' nonsense", "crashed without a cause: it does not speak its protocol"),
        (r"""printf 'D\032\000\000\000{"gaps": [], "samples": 0}'""", "0.0 s came out"),
        (
            r"""printf 'D\055\000\000\000{"gaps": [[32000, 16000, "x"]], "samples": 0}'""",
            "crashed without a cause: it does not speak its protocol",
        ),
    ],
)
def test_a_decoder_that_is_wrong_is_found(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, what: str
) -> None:
    """The judge of all this can say no."""
    impostor = tmp_path / "python"
    impostor.write_text(f"#!/bin/sh\n{does}\n")
    impostor.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(impostor))
    failures = run(fuzz, "wav", range(4), tmp_path, Tally())
    assert len(failures) == 4
    assert all(what in failure for failure in failures)
