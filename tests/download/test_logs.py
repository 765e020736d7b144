"""One line for each event of a download, and no secrets in any."""

import logging
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Run
from ..support.server import Handler, Server, in_turn, knows_no_head
from .test_downloader import fetched, raw, refusal


def events(caplog: pytest.LogCaptureFixture) -> list[Any]:
    """The records of downloads; each says the same in its text as in its attributes."""
    records: list[Any] = [each for each in caplog.records if each.name == "memsafe_transcribe.download"]
    for each in records:
        assert each.getMessage().startswith(f"download {each.event} url={each.url}")
        assert all(f" {name}={value}" in each.getMessage() for name, value in each.figures.items())
        assert each.levelno == logging.INFO
    return records


def test_each_event_is_logged_without_secrets(
    run: Run, server: Server, spool_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A download with a retry, a redirect and the caller's headers: what it says is what a dashboard needs."""
    secret = "hunter" + "2"
    server.on_head = knows_no_head
    server.routes["/"] = in_turn(
        lambda exchange: exchange.answer(secret.encode(), "503 Service Unavailable"),
        lambda exchange: exchange.answer(status="302 Found", Location=f"/end?token={secret}#{secret}"),
    )
    server.routes["/end"] = lambda exchange: exchange.answer(b"here", X_Secret=secret)
    with caplog.at_level(logging.INFO):
        asked = {"headers": {"Authorization": f"Bearer {secret}"}}
        fetched(run, server.url(f"/?key={secret}#{secret}"), spool_dir, asked=asked)
    records = events(caplog)
    assert [each.event for each in records] == ["started", "retry", "answered", "finished"]
    assert [each.url for each in records] == [server.url(path) for path in ("/", "/", "/end", "/")]
    _, retry, answered, finished = (each.figures for each in records)
    assert (retry["received_bytes"], "503" in retry["reason"]) == (0, True)
    assert (answered["status_code"], answered["total_bytes"], answered["from_byte"]) == (200, 4, 0)
    assert finished["seconds"] >= 0
    assert secret not in caplog.text + "".join(str(vars(each)) for each in caplog.records)


@pytest.mark.parametrize(
    "route",
    [
        lambda exchange: exchange.answer(status="404 Not Found"),
        lambda exchange: exchange.answer(status="302 Found", Location="http://user:hunter2@127.0.0.1/?key=hunter2"),
        lambda exchange: exchange.answer(status="302 Found", Location="/?hunter2"),
        raw(b"hunter2\r\n\r\n"),
    ],
    ids=["status", "credentials", "loop", "noise"],
)
def test_a_failure_is_logged_without_secrets(
    run: Run, server: Server, spool_dir: Path, caplog: pytest.LogCaptureFixture, route: Handler
) -> None:
    """With the class of its error and its message; whoever is to know of it is told by the exception."""
    server.routes["/"] = route
    with caplog.at_level(logging.INFO):
        error = refusal(run, server.url("/?key=hunter2"), spool_dir, max_attempts=1)
    started, failed = events(caplog)
    assert (started.event, failed.event, failed.url) == ("started", "failed", server.url("/"))
    assert (failed.figures["error"], failed.figures["reason"]) == (type(error).__name__, str(error))
    assert "hunter2" not in caplog.text + "".join(str(vars(each)) for each in caplog.records)
