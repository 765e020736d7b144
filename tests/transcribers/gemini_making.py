"""Options, limits and memory of a Gemini engine."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.gemini_server import (
    ENGINES,
    KEY,
    MODEL,
    PATH,
    chunk_of,
    says,
)
from ..support.server import Server
from .gemini_base import GeminiBase

ROOT = Path(__file__).parents[2]


class MakingCases(GeminiBase):
    """What it is made of, and what it declares."""

    def test_closed_and_used_again(self, run: Run, server: Server) -> None:
        """Closing it ends its connections; closing twice, or what was never open, is nothing."""
        server.routes[PATH] = says(("Yes.", 0, 1))
        engine = self.make(server)

        async def main() -> None:
            await engine.aclose()
            for _ in range(2):
                await anyio.to_thread.run_sync(engine.transcribe, chunk_of(1.0), mt.ChunkContext())
                await engine.aclose()
                await engine.aclose()

        run(main)

    @pytest.mark.parametrize(("seconds", "count"), [(60.0, 1), (60.0, 2), (5.0, 1)])
    def test_memory_of_chunks_in_flight(self, server: Server, seconds: float, count: int) -> None:
        """Within what is declared, the chunks included; a chunk of 60 s adds at most so many times its size."""
        figures = self.memory_figures(server, seconds, count)
        assert figures["encoded_bytes"] == count * (44 + 32_000 * seconds)
        assert figures["added_bytes"] <= figures["declared_bytes"]
        assert figures["resident_bytes"] <= figures["declared_resident_bytes"]
        if (seconds, count) == (60.0, 1):
            assert figures["added_bytes"] <= self.most_copies * figures["encoded_bytes"]
            assert figures["declared_bytes"] <= self.most_declared * figures["encoded_bytes"]

    def memory_figures(self, server: Server, seconds: float, count: int) -> dict[str, int]:
        """Of so many chunks of this length in flight at once, in a process of their own."""
        server.routes[PATH] = says(("Yes.", 0, 1))
        arguments = [
            "-m",
            "tests.support.gemini_child",
            self.name,
            server.url(""),
            str(seconds),
            str(count),
            json.dumps(self.options),
        ]
        child = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, check=True)
        figures: dict[str, int] = json.loads(child.stdout)
        return figures

    def test_limits_are_the_service_s(self, server: Server) -> None:
        """A request with the longest chunk has less than 20 MB, its question included."""
        server.routes[PATH] = says(("Yes.", 0, 1))
        engine = self.make(server)
        longest_seconds = engine.capabilities.longest_chunk_seconds
        assert 400 < longest_seconds < 600
        engine.transcribe(chunk_of(longest_seconds), mt.ChunkContext(language="en", prompt="word " * 10_000))
        anyio.run(engine.aclose)
        assert 19_800_000 < len(server.requests[0].body) < 20_000_000

    def test_what_answers_depend_on(self, server: Server) -> None:
        """The model and the question, not the SDK, the key, how often it is asked, or how the audio is sent."""
        keys = [each(MODEL, api_key=KEY).capabilities.cache_key for each in ENGINES.values()]
        other = ENGINES[self.name](f"models/{MODEL}", api_key="other", concurrency=4, **self.options)
        keys.append(other.capabilities.cache_key)
        assert len(set(keys)) == 1
        assert ENGINES[self.name]("another", api_key=KEY).capabilities.cache_key not in keys
        assert self.make(server).capabilities.cache_key not in keys

    @pytest.mark.parametrize(
        "options",
        [
            {"timeout_seconds": 0},
            {"timeout_seconds": float("nan")},
            {"concurrency": 0},
            {"model": ""},
            {"model": "tunedModels/mine"},
            {"base_url": "ftp://127.0.0.1"},
            {"base_url": "https://me:secret@127.0.0.1"},
            {"api_key": "two words"},
            {"api_key": "gr\u00fc\u00dfe"},
        ],
    )
    def test_what_cannot_be_meant(self, server: Server, options: dict[str, Any]) -> None:
        """Is refused at once, and a secret in it is not repeated."""
        with pytest.raises(ValueError, match=next(iter(options))) as caught:
            self.make(server, **options)
        assert "secret" not in str(caught.value)
        assert "words" not in str(caught.value)

    def test_where_the_key_comes_from(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        """The argument, else GEMINI_API_KEY, else GOOGLE_API_KEY; without any, it says so, and doctor too."""
        server.routes[PATH] = says(("Yes.", 0, 1))
        kind = ENGINES[self.name]
        assert "GEMINI_API_KEY" in kind.missing()
        with pytest.raises(mt.TranscriberError, match="GEMINI_API_KEY or GOOGLE_API_KEY"):
            self.make(server, api_key=None)
        monkeypatch.setenv("GOOGLE_API_KEY", "second")
        assert kind.missing() is None
        engines = [self.make(server, api_key=None)]
        monkeypatch.setenv("GEMINI_API_KEY", " first\n")
        engines += [self.make(server, api_key=None), self.make(server, api_key="given")]
        for engine in engines:
            engine.transcribe(chunk_of(0.1), mt.ChunkContext())
            anyio.run(engine.aclose)
        assert [request.headers["x-goog-api-key"] for request in self.asked(server)] == ["second", "first", "given"]

    @pytest.mark.parametrize("sdk", ["not_there", "not_there.at_all"])
    def test_without_its_sdk(self, server: Server, monkeypatch: pytest.MonkeyPatch, sdk: str) -> None:
        """It says what to install."""
        kind = ENGINES[self.name]
        monkeypatch.setattr(kind, "sdk", sdk)
        assert f"pip install 'memsafe-transcribe[{self.name}]'" in kind.missing()
        with pytest.raises(mt.TranscriberError, match=f"engine '{self.name}' cannot be used"):
            self.make(server)
