"""A transport of the host's own: used in place of ours, and never closed."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

import memsafe_transcribe as mt

from ..conftest import Run
from ..support.server import Server, in_turn, knows_no_head
from .test_downloader import ANY, CHUNKED, chunk, fetched, raw, refusal, refusals
from .test_redirects import redirect


class CountedTransport(httpx.AsyncHTTPTransport):
    """httpx's own, over real sockets; tells what it was asked, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.is_closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url}")
        return await super().handle_async_request(request)

    async def aclose(self) -> None:
        self.is_closed = True
        await super().aclose()


def test_a_transport_of_the_host_s_own_is_used_and_stays_open(run: Run, server: Server, spool_dir: Path) -> None:
    """For HEAD, redirects and GET, for a body by length and one in chunks, one after the other; retries and the cap are
    as ever.
    """
    body = bytes(range(256)) * 10_000
    server.routes["/"] = lambda exchange: exchange.answer(status="302 Found", Location="/end")
    server.routes["/end"] = lambda exchange: exchange.answer(body)
    server.routes["/chunks"] = in_turn(*[raw(CHUNKED, chunk(body))] * 2, raw(CHUNKED, chunk(body), chunk(b"")))

    async def main() -> None:
        transport = CountedTransport()
        downloader = mt.SafeDownloader(policy=ANY, transport=transport, spool_dir=spool_dir)
        for path in ("/", "/chunks"):
            async with downloader.fetch(server.url(path)) as file:
                assert file.path.read_bytes() == body
        small = mt.SafeDownloader(policy=ANY, transport=transport, spool_dir=spool_dir, max_bytes=len(body) - 1)
        with pytest.raises(mt.DownloadTooLargeError):
            async with small.fetch(server.url("/chunks")):
                pytest.fail("the file was handed out")
        assert not transport.is_closed
        assert transport.asked == [f"{each.method} {server.url(each.path)}" for each in server.requests]
        await transport.aclose()

    run(main)


def test_with_a_transport_of_the_host_s_own_a_url_s_text_is_still_judged(
    run: Run, server: Server, spool_dir: Path
) -> None:
    """Also that of a redirect; nothing of it reaches the transport."""
    urls = [
        "http://metadata.google.internal/",
        "http://user:password@127.0.0.1/",
        "http://0x7f.1/",
        "ftp://127.0.0.1/",
        "http://not-allowed.test/",
    ]
    for number, url in enumerate(urls):
        server.routes[f"/{number}"] = redirect(url)

    async def main() -> None:
        transport = CountedTransport()
        policy = mt.UrlPolicy(allow_private=True, allowed_hosts=("127.0.0.1", "metadata.google.internal"))
        downloader = mt.SafeDownloader(policy=policy, transport=transport, spool_dir=spool_dir)
        for url in urls:
            with pytest.raises(mt.UrlBlockedError):
                async with downloader.fetch(url):
                    pytest.fail("the file was handed out")
        assert transport.asked == []
        for number in range(len(urls)):
            with pytest.raises(mt.UrlBlockedError):
                async with downloader.fetch(server.url(f"/{number}")):
                    pytest.fail("the file was handed out")
        assert transport.asked == [f"HEAD {server.url(f'/{number}')}" for number in range(len(urls))]
        await transport.aclose()

    run(main)


def test_a_mocked_answer_is_as_good_as_any(run: Run, spool_dir: Path) -> None:
    """Tests of hosts have its body ready at once, and not as a stream."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b"here", headers={"Content-Type": "audio/mpeg"})

    file, body = fetched(run, "http://talks.test/a.mp3", spool_dir, transport=httpx.MockTransport(answer))
    assert (body, file.content_type, file.suggested_filename) == (b"here", "audio/mpeg", "a.mp3")


def test_errors_of_a_transport_of_the_host_s_own_are_the_library_s(run: Run, spool_dir: Path) -> None:
    """Each has its class, and is retried as ever."""
    asked = []

    async def ends_in(error: Exception) -> mt.DownloadError:
        def fail(request: httpx.Request) -> httpx.Response:
            asked.append(request.method)
            raise error

        downloader = mt.SafeDownloader(spool_dir=spool_dir, transport=httpx.MockTransport(fail))
        with pytest.raises(mt.DownloadError) as caught:
            async with downloader.fetch("http://talks.test/a.mp3"):
                pytest.fail("the file was handed out")
        return caught.value

    for error, kind in (
        (httpx.ConnectError("no proxy"), mt.DownloadConnectionError),
        (httpx.ProxyError("no"), mt.DownloadProtocolError),
        (httpx.ReadTimeout("late"), mt.DownloadTimeoutError),
        (httpx.RemoteProtocolError("noise"), mt.DownloadProtocolError),
    ):
        asked.clear()
        assert type(run(ends_in, error)) is kind
        assert asked == ["HEAD"] + ["GET"] * 4


def test_with_a_transport_of_the_host_s_own_metadata_addresses_are_still_refused(run: Run, spool_dir: Path) -> None:
    """An address in the URL's text needs no resolver: what no policy opens, a proxy is not asked for either."""
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(404)

    urls = ["http://169.254.169.254/", "http://[fd00:ec2::254]/", "http://[::ffff:169.254.169.254]/"]
    errors = refusals(run, urls, spool_dir, transport=httpx.MockTransport(answer))
    assert ({type(error) for error in errors}, asked) == ({mt.UrlBlockedError}, [])


class UnawareStream(httpx.AsyncByteStream):
    """A body that goes on for long, whether it is closed or not: a host's test double need not know better."""

    def __init__(self) -> None:
        self.given = 0
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.given < 10_000:
            self.given += 1
            yield bytes(1000)

    async def aclose(self) -> None:
        self.is_closed = True


def test_a_body_that_is_refused_is_not_read_on(run: Run, spool_dir: Path) -> None:
    """An endless one would keep the download, its slot, and whoever cancels it, for ever."""
    stream = UnawareStream()
    transport = httpx.MockTransport(lambda request: httpx.Response(200, stream=stream))
    error = refusal(run, "http://talks.test/", spool_dir, transport=transport, max_bytes=5000)
    assert type(error) is mt.DownloadTooLargeError
    assert stream.is_closed
    assert stream.given < 20


def test_small_chunks_that_came_in_together_are_no_leak_where_the_body_is_refused(
    run: Run, server: Server, spool_dir: Path
) -> None:
    """A body that is given up lies half read in httpx's generators: trio complains of each that is not ended."""
    server.on_head = knows_no_head
    server.routes["/"] = raw(CHUNKED, chunk(bytes(1000)) * 200)
    error = refusal(run, server.url("/"), spool_dir, max_bytes=5000)
    assert type(error) is mt.DownloadTooLargeError
