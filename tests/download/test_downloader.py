"""SafeDownloader against real sockets."""

import hashlib
from pathlib import Path

import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.server import Server

ANY = mt.UrlPolicy(allow_private=True)


def test_a_body_arrives_whole_and_the_file_has_no_name(run: Run, server: Server, spool_dir: Path) -> None:
    """The file can be read by its path, its hash is right, and its folder stays empty."""
    body = bytes(range(256)) * 20_000
    server.routes["/talk.mp3"] = lambda exchange: exchange.answer(body, Content_Type="audio/mpeg")

    async def main() -> None:
        async with mt.SafeDownloader(policy=ANY, spool_dir=spool_dir).fetch(server.url("/talk.mp3?key=secret")) as file:
            assert file.path.read_bytes() == body
            assert file.sha256 == hashlib.sha256(body).hexdigest()
            assert (file.size_bytes, file.content_type) == (len(body), "audio/mpeg")
            assert (file.suggested_filename, file.final_url) == ("talk.mp3", server.url("/talk.mp3"))
            assert list(spool_dir.iterdir()) == []

    run(main)


def test_a_private_address_is_refused_by_default(run: Run, server: Server, spool_dir: Path) -> None:
    """No request is sent."""

    async def main() -> None:
        with pytest.raises(mt.UrlBlockedError, match="private address"):
            async with mt.SafeDownloader(spool_dir=spool_dir).fetch(server.url("/")):
                pass

    run(main)
    assert server.requests == []
