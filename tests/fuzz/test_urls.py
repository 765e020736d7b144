"""URLs and where they lead: nothing is asked but what was judged, and no error comes but a refusal."""

import socket
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import strategies as st

import memsafe_transcribe as mt
from memsafe_transcribe._download import sockets
from memsafe_transcribe._download.pace import Patience
from memsafe_transcribe._download.policy import address_refusal, check_url, redirect_target, same_origin, shown
from memsafe_transcribe._download.redirects import MAX_REDIRECTS, following
from memsafe_transcribe._download.transport import Asking

from ..support.targets import fuzz, long_ones, mutated

PATIENCE = Patience(connect_seconds=5, read_seconds=5, low_speed_bytes_per_second=1, low_speed_seconds=5)
ALPHABET = "aA0.:[]x-_%@/?#\\ \t\r\n\x00\x7fß。\u0130\u212a\uff0e\u2100\ud800\u0131"
TEXTS = (
    "http://example.com/a?b#c",
    "https://Example.COM.:8443/secret/..//x?key=secret",
    "http://user:secret@example.com/",
    "http://127.0.0.1:80/",
    "http://0x7f.1/",
    "http://[::ffff:127.0.0.1]:8080/",
    "http://[fe80::1%25lo]/",
    "https://bücher.example/",
    "http://xn--bcher-kva.example/",
    "http://faß.de:443/",
    "http://metadata.google.internal/",
    "//example.com/a",
    "https:example.com",
    "ftp://example.com/",
)
URLS = mutated(*TEXTS, alphabet=ALPHABET)
ADDRESSES = st.sampled_from(
    ["127.0.0.1", "10.0.0.1", "169.254.169.254", "8.8.8.8", "1.1.1.1", "::1", "2606:4700::1111", "::ffff:10.0.0.1",
     "64:ff9b::7f00:1", "fd00:ec2::254", "fe80::1%lo", "2002:7f00:1::", "0.0.0.0"]
) | st.ip_addresses().map(str)  # fmt: skip


def test_urls() -> None:
    """A URL passes or is refused; what is shown of it has no secret; and httpx takes the same host and port from it."""

    def judge(url: str) -> None:
        assert shown(url).isprintable()
        for scheme in ("http", "HTTPS", "ftp"):
            assert "hidden" not in shown(f"{scheme}://user:hidden@{url}")
        try:
            check_url(url)
            asked = httpx.URL(url)
        except (mt.UrlBlockedError, httpx.InvalidURL, UnicodeError):  # as `Asking.ask` does
            return
        assert asked.scheme in ("http", "https") and not asked.userinfo
        port = asked.port or {"http": 80, "https": 443}[asked.scheme]
        host = asked.raw_host.decode()
        check_url(url, mt.UrlPolicy(allowed_hosts=(host,), allowed_ports=(port,)))
        assert same_origin(url, f"{asked.scheme}://{_bracketed(host)}:{port}/")
        with suppress(mt.UrlBlockedError):
            target = redirect_target("https://example.com/a/b", url)
            check_url(target)
            assert target.lower().startswith("https:")

    fuzz("URLs", URLS, judge, long_ones(*TEXTS))


def test_addresses_dialled(monkeypatch: pytest.MonkeyPatch, spool_dir: Path) -> None:
    """What is resolved is the host that was judged; what is dialled are its addresses, if all of them may be."""
    resolved: list[tuple[str, int]] = []
    dialled: list[str] = []
    answers: list[str] = []

    def getaddrinfo(host: str, port: int, *_: object) -> list[tuple[Any, ...]]:
        resolved.append((host, port))
        families = (socket.AF_INET6 if ":" in each else socket.AF_INET for each in answers)
        return [(family, 1, 6, "", (each, port)) for family, each in zip(families, answers, strict=True)]

    async def dial(_: object, address: tuple[Any, ...]) -> Any:
        dialled.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(sockets, "dial", dial)

    async def ask(url: str, policy: mt.UrlPolicy) -> None:
        async with mt.SafeDownloader(policy=policy, spool_dir=spool_dir, max_attempts=1).fetch(url):
            raise AssertionError("nobody answers")

    def judge(case: tuple[str, list[str], mt.UrlPolicy]) -> None:
        url, answers[:], policy = case
        resolved.clear()
        dialled.clear()
        with suppress(mt.UrlBlockedError, mt.DownloadConnectionError):
            anyio.run(ask, url, policy)
        refused = [each for each in answers if address_refusal(each, policy) is not None]
        assert not (refused and dialled), f"{dialled} of {answers}"
        assert not resolved or dialled or refused or not answers
        assert set(dialled) <= set(answers)
        assert len(resolved) <= 2  # for HEAD, and for GET
        for host, port in resolved:
            bare = _bracketed(host)
            check_url(url, policy)  # raises if it was asked in spite of it
            check_url(url, mt.UrlPolicy(allowed_hosts=(bare,), allowed_ports=(port,)))
            assert same_origin(url, f"{url.partition(':')[0]}://{bare}:{port}/")

    policies = st.sampled_from(
        (mt.UrlPolicy(), mt.UrlPolicy(allow_private=True), mt.UrlPolicy(allowed_networks=("10.0.0.0/8",)))
    )
    fuzz("addresses dialled", st.tuples(URLS, st.lists(ADDRESSES, max_size=4), policies), judge)


def test_redirects() -> None:
    """Each step is judged, their number is bounded, https stays https, and another origin never sees our headers."""
    places = URLS.map(lambda url: url.encode("utf-8", "surrogatepass")) | st.binary(max_size=40) | mutated(
        "/a/b?c", "../x", "?q", "#f", "//other.example:444/", "https://example.com/home", alphabet=ALPHABET
    ).map(lambda text: text.encode("utf-8", "surrogatepass"))  # fmt: skip
    statuses = st.sampled_from((301, 302, 303, 307, 308))
    steps = st.lists(st.tuples(statuses, places), min_size=1, max_size=8)

    def judge(case: tuple[str, list[tuple[int, bytes]]]) -> None:
        first, chain = case
        seen: list[httpx.Request] = []

        def answer(request: httpx.Request) -> httpx.Response:
            seen.append(request)
            if len(seen) > len(chain):
                return httpx.Response(200, content=b"here")
            status, place = chain[len(seen) - 1]
            return httpx.Response(status, headers=[(b"Location", place)])

        async def ask() -> None:
            asking = Asking(mt.UrlPolicy(), PATIENCE, httpx.MockTransport(answer))
            async with following(asking, "GET", first, {"X-Key": "secret"}, {}) as got:
                assert [part async for part in got.body] == [b"here"]

        with suppress(mt.UrlBlockedError, mt.DownloadProtocolError):
            anyio.run(ask)
        assert len(seen) <= MAX_REDIRECTS + 1
        home, is_home = _origin(seen[0].url) if seen else None, True
        for before, request in zip([None, *seen], seen, strict=False):
            check_url(str(request.url))
            with suppress(ValueError):
                assert address_refusal(str(ip_address(request.url.host)), mt.UrlPolicy()) is None
            assert request.url.scheme == "https" or before is None or before.url.scheme == "http"
            is_home = is_home and _origin(request.url) == home
            assert is_home or "X-Key" not in request.headers
            assert request.headers["host"] == request.url.netloc.decode()

    fuzz("redirects", st.tuples(st.sampled_from(("http://example.com/", "https://example.com/a/b")), steps), judge)


def _origin(url: httpx.URL) -> tuple[str, bytes, int]:
    return url.scheme, url.raw_host, url.port or {"http": 80, "https": 443}[url.scheme]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
