"""Odd hosts and lying resolvers, seen from a real server: no request may reach it."""

import socket
from pathlib import Path
from typing import Any

import pytest

import memsafe_transcribe as mt
from memsafe_transcribe._download import sockets

from ..conftest import Run
from ..support.server import Handler, Server, knows_no_head
from .test_downloader import ANY, fetched, refusal, refusals

PUBLIC = "93.184.215.14"
HOSTS = [
    "127.0.0.1", "2130706433", "0x7f.1", "0x7f000001", "0177.0.0.1", "017700000001", "127.1", "0.0.0.0", "0",
    "localhost", "localhost.", "LOCALHOST", "127\u30020\u30020\u30021", "\u2460\u2461\u2466.0.0.1",
    "%31%32%37.0.0.1",
    "[::]", "[::1]", "[::127.0.0.1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]",
    "[64:ff9b::127.0.0.1]", "[2002:7f00:1::]", "[fd00:ec2::254]", "[fe80::1]", "[fe80::1%25eth0]", "[fe80::1%lo]",
    "169.254.169.254", "100.100.100.200",
    "[v1.x]", "[", "user@127.0.0.1", "user:pass@127.0.0.1", "@127.0.0.1", ":@127.0.0.1", "127.0.0.1\\@public.test",
    "public.test\\@127.0.0.1", "127.0.0.1\t", "127.0.0.1\n", " 127.0.0.1", "127.0.0.1\x00", "127.0.0.1\x7f",
    "xn--zzzzz9999", "exa\u2100mple", "\ud800",
]  # fmt: skip


class Names:
    """Stands in for the system's resolver for a few names; each question takes the next answer. There is a question for
    each connection: one for HEAD, then one for each GET.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []
        real = socket.getaddrinfo

        def getaddrinfo(host: Any, port: Any, family: int = 0, kind: int = 0, proto: int = 0, flags: int = 0) -> Any:
            name = host.decode() if isinstance(host, bytes) else host
            if name not in self.answers:
                return real(host, port, family, kind, proto, flags | socket.AI_NUMERICHOST)  # nobody else is asked
            if flags & socket.AI_NUMERICHOST:
                raise socket.gaierror(socket.EAI_NONAME, "a name")
            self.asked.append(name)
            return [
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
                if ":" in address
                else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
                for address in self.answers[name].pop(0)
            ]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """A resolver that says what the test tells it to."""
    return Names(monkeypatch)


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that were connected to; every connection fails."""
    addresses = []

    async def dial(family: int, address: tuple[Any, ...]) -> None:
        addresses.append(address[0])
        raise OSError("not from a test")

    monkeypatch.setattr(sockets, "dial", dial)
    return addresses


def test_case_22_odd_spellings_of_this_machine_are_refused(
    run: Run, server: Server, spool_dir: Path, names: Names, dialled: list[str]
) -> None:
    """Whatever the parsers make of it, nothing is connected to."""
    names.answers = {name: [["127.0.0.1"]] * 9 for name in ("localhost", "localhost.")}
    urls = [server.url("/").replace("127.0.0.1", host) for host in HOSTS]
    errors = refusals(run, urls, spool_dir, policy=mt.UrlPolicy())
    assert [url for url, error in zip(urls, errors, strict=True) if type(error) is not mt.UrlBlockedError] == []
    assert (dialled, server.requests) == ([], [])


def test_case_22_ports_that_are_none_are_refused(run: Run, spool_dir: Path, dialled: list[str]) -> None:
    """They are part of what is judged."""
    urls = [f"http://127.0.0.1:{port}/" for port in ("0", "65536", "-1", "x", "\u0661")]
    assert {type(error) for error in refusals(run, urls, spool_dir)} == {mt.UrlBlockedError}
    assert dialled == []


def test_case_21_a_name_is_resolved_once_and_the_answer_is_dialled(
    run: Run, server: Server, spool_dir: Path, names: Names
) -> None:
    """Once for each connection: one more question would get another answer, where nobody listens. The Host header
    stays the name's.
    """
    names.answers["rebind.test"] = [["127.0.0.1"], ["127.0.0.1"], ["127.0.0.9"]]
    server.routes["/"] = lambda exchange: exchange.answer(b"here")
    url = server.url("/").replace("127.0.0.1", "rebind.test")

    async def main() -> None:
        async with mt.SafeDownloader(policy=ANY, spool_dir=spool_dir).fetch(url) as file:
            assert (file.path.read_bytes(), file.final_url) == (b"here", url)

    run(main)
    assert names.asked == ["rebind.test"] * 2
    assert [(each.method, each.headers["host"]) for each in server.requests] == [
        ("HEAD", url.split("/")[2]),
        ("GET", url.split("/")[2]),
    ]


@pytest.mark.parametrize("public", [0, 1, 2])
def test_case_21_a_rebound_name_never_reaches_this_machine(
    run: Run, server: Server, spool_dir: Path, names: Names, dialled: list[str], public: int
) -> None:
    """First public, then 127.0.0.1: the public one is dialled; the other, had by the next connection, is refused for
    good. One question for each connection: the answer that is dialled is the answer that was judged.
    """
    names.answers["rebind.test"] = [*[[PUBLIC]] * public, ["127.0.0.1"], [PUBLIC]]
    url = server.url("/").replace("127.0.0.1", "rebind.test")
    assert type(refusal(run, url, spool_dir, policy=mt.UrlPolicy())) is mt.UrlBlockedError
    assert (names.asked, dialled) == (["rebind.test"] * (public + 1), [PUBLIC] * public)
    assert server.requests == []


@pytest.mark.parametrize("position", [0, 1, 2])
def test_case_21_one_private_among_public_addresses_refuses(
    run: Run, spool_dir: Path, names: Names, dialled: list[str], position: int
) -> None:
    """Wherever it stands in the answer; none of the others is dialled."""
    private = ["127.0.0.1", "::1", "10.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "fe80::1%lo"]
    public = [PUBLIC, "2606:4700::1111"]
    names.answers["mixed.test"] = [[*public[:position], address, *public[position:]] for address in private]
    errors = refusals(run, ["http://mixed.test/"] * len(private), spool_dir, policy=mt.UrlPolicy())
    assert {type(error) for error in errors} == {mt.UrlBlockedError}
    assert dialled == []


def test_the_next_public_address_is_tried(run: Run, spool_dir: Path, names: Names, dialled: list[str]) -> None:
    """Each once, in the resolver's order; by HEAD, and by GET."""
    names.answers["two.test"] = [[PUBLIC, "2606:4700::1111", PUBLIC]] * 2
    error = refusal(run, "http://two.test/", spool_dir, policy=mt.UrlPolicy(), max_attempts=1)
    assert type(error) is mt.DownloadConnectionError
    assert dialled == [PUBLIC, "2606:4700::1111"] * 2


@pytest.mark.parametrize("on_head", [None, knows_no_head], ids=["HEAD", "GET"])
def test_case_21_a_name_is_judged_again_at_each_redirect(
    run: Run, server: Server, spool_dir: Path, names: Names, on_head: Handler | None
) -> None:
    """The same name, with another answer at the last question."""
    server.on_head = on_head
    questions = 2 if on_head is None else 3
    names.answers["rebind.test"] = [*[["127.0.0.1"]] * (questions - 1), ["169.254.169.254"]]
    server.routes["/"] = lambda exchange: exchange.answer(b"", "302 Found", Location="/inner")
    error = refusal(run, server.url("/").replace("127.0.0.1", "rebind.test"), spool_dir)
    assert isinstance(error, mt.UrlBlockedError)
    assert "169.254.169.254" in error.reason
    assert (len(names.asked), len(server.requests)) == (questions, questions - 1)


@pytest.mark.parametrize("answer", [[], None])
def test_a_name_without_an_address_is_a_connection_error(
    run: Run, spool_dir: Path, names: Names, dialled: list[str], answer: list[str] | None
) -> None:
    """Whether the resolver gives an empty answer or none."""
    if answer is not None:
        names.answers["nowhere.test"] = [answer] * 2
    assert type(refusal(run, "http://nowhere.test/", spool_dir, max_attempts=1)) is mt.DownloadConnectionError
    assert dialled == []


def test_case_22_proxies_in_the_environment_are_ignored(
    run: Run, server: Server, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy would resolve and connect on its own, past the policy."""
    server.routes["/"] = lambda exchange: exchange.answer(b"direct")
    with Server() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url(""))
        assert fetched(run, server.url("/"), spool_dir)[1] == b"direct"
    assert (proxy.accepted, proxy.requests) == (0, [])
