"""The preflight alone: what HEAD says, and what it does not."""

from pathlib import Path

import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.server import Exchange, Handler, Server
from .test_downloader import ANY, HEAD, raw


def test_probe_tells_what_head_says(run: Run, server: Server, spool_dir: Path) -> None:
    """Through redirects, with the caller's headers, without a GET, a slot or a file; the query is not shown."""
    server.routes["/"] = lambda exchange: exchange.answer(status="302 Found", Location="/end?key=secret")
    server.routes["/end"] = lambda exchange: exchange.answer(bytes(1000), Content_Type="audio/mpeg")

    async def main() -> None:
        admission = mt.AdmissionController(max_concurrent=1, scope="process")
        downloader = mt.SafeDownloader(policy=ANY, admission=admission, spool_dir=spool_dir)
        probe = await downloader.probe(server.url("/?key=secret"), headers={"X-Mine": "yes"})
        assert (probe.final_url, probe.status_code) == (server.url("/end"), 200)
        assert (probe.size_bytes, probe.content_type) == (1000, "audio/mpeg")
        assert admission.statistics().granted == 0

    run(main)
    assert [(each.method, each.headers["x-mine"]) for each in server.requests] == [("HEAD", "yes")] * 2


@pytest.mark.parametrize(
    ("route", "status_code"),
    [
        pytest.param(lambda exchange: exchange.answer(bytes(10), "403 Forbidden", Content_Type="text/html"), 403),
        pytest.param(lambda exchange: exchange.answer(bytes(10**4), "404 Not Found"), 404),
        pytest.param(raw(HEAD + b"\r\n"), 200),
        pytest.param(raw(b"noise\r\n\r\n"), None),
        pytest.param(raw(), None),
        pytest.param(Exchange.hold_until_closed, None),
    ],
    ids=["403", "404", "no length", "noise", "nothing", "silence"],
)
def test_probe_tells_what_head_does_not_say(
    run: Run, server: Server, spool_dir: Path, route: Handler, status_code: int | None
) -> None:
    """No size and no type; and nothing of it is an error, although one of the pages is above the cap."""
    server.routes["/"] = route

    async def main() -> None:
        downloader = mt.SafeDownloader(policy=ANY, spool_dir=spool_dir, read_timeout_seconds=0.05, max_bytes=1000)
        probe = await downloader.probe(server.url("/"))
        assert (probe.status_code, probe.size_bytes, probe.content_type) == (status_code, None, None)

    run(main)


def test_probe_refuses_what_fetch_would(run: Run, server: Server, spool_dir: Path) -> None:
    """Size, free space, the URL's text, its address, a redirect."""
    server.routes["/large"] = lambda exchange: exchange.answer(bytes(1001))
    server.routes["/away"] = lambda exchange: exchange.answer(status="302 Found", Location="http://169.254.169.254/")
    server.routes["/vast"] = raw(HEAD + b"Content-Length: %d\r\n\r\n" % 10**17)

    async def main() -> None:
        small = mt.SafeDownloader(policy=ANY, spool_dir=spool_dir, max_bytes=1000)
        for downloader, url, kind in (
            (small, server.url("/large"), mt.DownloadTooLargeError),
            (small, server.url("/away"), mt.UrlBlockedError),
            (small, "http://user:password@127.0.0.1/", mt.UrlBlockedError),
            (mt.SafeDownloader(spool_dir=spool_dir), server.url("/"), mt.UrlBlockedError),
            (mt.SafeDownloader(policy=ANY, spool_dir=spool_dir, max_bytes=10**18), server.url("/vast"), mt.SpoolError),
        ):
            with pytest.raises(kind):
                await downloader.probe(url)

    run(main)
    assert server.gets == []
