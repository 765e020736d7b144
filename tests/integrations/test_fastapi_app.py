"""The FastAPI example as its users have it: under uvicorn, with real clients, and ended by SIGTERM."""

import re
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

import memsafe_transcribe as mt
from memsafe_transcribe.testing import BadServer, Reply

from ..support.media import _wav_in_memory, tone_samples, write_wav
from ..support.service import APP, WAIT_SECONDS, Service, serving

FAR = ("python", "-m", "uvicorn", "tests.integrations.far_app:app")


def test_the_readmes_commands_work(tmp_path: Path) -> None:
    """The service as it is started there, with its four workers; its client, with a file and with a URL."""
    commands = re.findall(r"^python .*$", (APP / "README.md").read_text(), re.MULTILINE)
    server_command, client_command = (shlex.split(command) for command in commands)
    assert server_command[-4:-2] == ["--workers", "4"]
    talk = write_wav(tmp_path / "talk.wav", tone_samples(130.0))
    with (
        BadServer({"/talk.wav": Reply(talk.read_bytes())}) as files,
        serving(tmp_path, server_command, workers=4) as service,
    ):
        for source in (str(talk), files.url("/talk.wav")):
            done = subprocess.run(
                [sys.executable, *client_command[1:-2], service.url, source],
                cwd=APP,
                capture_output=True,
                text=True,
                timeout=WAIT_SECONDS,
            )
            assert (done.returncode, done.stderr) == (0, "")
            *segments, last = done.stdout.splitlines()
            assert len(segments) == 3
            assert last == "complete, 130.0 s"
    assert service.count("Started server process") == service.count("Finished server process") == 4
    assert service.count("ERROR") == 0


def test_each_way_in(tmp_path: Path) -> None:
    """Whole transcripts of uploads and URLs, and what is refused, each with its status."""
    sound = _wav_in_memory(tone_samples(3.0)).getvalue()
    with BadServer({"/talk.wav": Reply(sound)}) as files, serving(tmp_path) as service:
        with httpx.Client(base_url=service.url) as client:
            assert client.get("/alive").json() == {"alive": True}
            answers = [
                client.post("/v1/transcripts", content=sound),
                client.get("/v1/transcripts", params={"url": files.url("/talk.wav?key=secret")}),
            ]
            assert [answer.json()["status"] for answer in answers] == ["complete"] * 2
            refused = [
                client.post("/v1/transcripts", content=b"no sound"),
                client.post("/v1/events", content=b"no sound"),
                client.post("/v1/transcripts", content=b""),
                client.get("/v1/transcripts", params={"url": "/etc/passwd"}),
                client.get("/v1/transcripts", params={"url": files.url("/none?key=secret")}),
                client.get("/v1/events", params={"url": "http://169.254.169.254/?key=secret"}),
            ]
            assert [answer.status_code for answer in refused] == [415, 415, 400, 422, 502, 400]
            assert not any("secret" in answer.text for answer in refused)


class Engine:
    """The far side of the engine.

    Attributes:
        port: where it listens.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(WAIT_SECONDS)
        self.port: int = self._listener.getsockname()[1]

    def next_call(self) -> tuple[str, socket.socket]:
        """Where the next chunk begins that it is asked for, and the connection to answer on."""
        call, _ = self._listener.accept()
        call.settimeout(WAIT_SECONDS)
        return call.recv(100).decode(), call

    def answer(self) -> str:
        """Answer the next call; gives where its chunk begins."""
        start, call = self.next_call()
        with call:
            call.sendall(f"from {start}".encode())
        return start

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def engine() -> Iterator[Engine]:
    with closing(Engine()) as engine:
        yield engine


@pytest.mark.parametrize("path", ["/v1/transcripts", "/v1/events"])
def test_the_engine_is_left_when_the_client_hangs_up(tmp_path: Path, engine: Engine, path: str) -> None:
    """Uvicorn tells of it, also after it has taken the whole body; the service goes on, and logs no error."""
    sound = _wav_in_memory(tone_samples(3.0)).getvalue()
    with serving(tmp_path, FAR, env={"ENGINE_PORT": str(engine.port)}) as service:
        with closing(HTTPConnection(urlsplit(service.url).netloc)) as client:
            client.request("POST", path, sound)
            _, call = engine.next_call()
        with call:
            assert call.recv(1) == b""
        with ThreadPoolExecutor(1) as beside:
            again = beside.submit(httpx.post, service.url + "/v1/transcripts", content=sound)
            engine.answer()
            assert again.result(WAIT_SECONDS).json()["text"] == "from 0"
    assert service.count("ERROR") == 0


def read_events(service: Service, sound: bytes, seen: "list[tuple[str, Any]]", is_waiting: threading.Event) -> None:
    """All events of one upload."""
    with httpx.stream("POST", service.url + "/v1/events", content=sound, timeout=None) as response:
        for line in response.iter_lines():
            seen.append((str(response.status_code), line))
            if "waiting" in line:
                is_waiting.set()


def test_sigterm_ends_jobs_with_what_is_in_work_stored(tmp_path: Path, engine: Engine) -> None:
    """Who waits is sent away at once, who is in work when the chunk is done; nothing is asked for twice after that."""
    sound, short = (_wav_in_memory(tone_samples(seconds)).getvalue() for seconds in (40.0, 3.0))
    seen: list[tuple[str, Any]] = []
    is_waiting = threading.Event()
    env = {"ENGINE_PORT": str(engine.port)}
    with ThreadPoolExecutor() as beside:
        with serving(tmp_path, FAR, env=env) as service, ExitStack() as calls:
            job = beside.submit(httpx.post, service.url + "/v1/transcripts", content=sound, timeout=None)
            assert engine.answer() == "0"
            in_flight, call = engine.next_call()
            calls.enter_context(call)
            others = slots_taken(tmp_path)
            waiting = beside.submit(read_events, service, short, seen, is_waiting)
            assert is_waiting.wait(WAIT_SECONDS)
            service.terminate()
            waiting.result(WAIT_SECONDS)
            assert any("DrainingError" in line and '"retry_after_seconds": 5' in line for _, line in seen)
            assert not job.done()
            call.sendall(b"the last one")
            refused = job.result(WAIT_SECONDS)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            service.wait()
            others.close()
        assert service.count("Application shutdown complete") == 1
        assert service.count("ERROR") == 0
        with serving(tmp_path, FAR, env=env) as service:
            job = beside.submit(httpx.post, service.url + "/v1/transcripts", content=sound, timeout=None)
            starts = ["0", in_flight]
            while len(starts) < 6:  # as many as there are
                starts.append(engine.answer())
            answered = job.result(WAIT_SECONDS)
            assert (answered.status_code, answered.json()["status"]) == (200, "complete")
            assert len(set(starts)) == 6
            assert {"from 0", "the last one"} <= {segment["text"] for segment in answered.json()["segments"]}


def slots_taken(folder: Path) -> ExitStack:
    """All slots of the service's container that are free, from here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMSAFE_LEDGER_DIR", str(folder / "ledger"))
        admission = mt.AdmissionController()
        held = ExitStack()
        for _ in range(2):
            held.callback(admission.reserve_nowait(0).release)
        return held
