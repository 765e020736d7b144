"""The example for Celery, by the commands of its own README."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import memsafe_transcribe as mt

from ..support.brokers import SECONDS, ended, redis_server
from ..support.media import SPEECH
from ..support.server import Server

EXAMPLE = Path(__file__).parents[2] / "examples" / "celery_app"


def test_it_transcribes_what_a_client_sends(server: Server, tmp_path: Path) -> None:
    """The demo's speech from a server on loopback, by a worker with two children; told to end, it ends."""
    server.routes["/alice.mp3"] = lambda exchange: exchange.answer(SPEECH.read_bytes())
    broker, worker, client = re.findall(r"^```sh\n(.*?)^```$", (EXAMPLE / "README.md").read_text(), re.S | re.M)
    assert broker == "redis-server\n"
    scripts = Path(sys.executable).parent
    with redis_server(tmp_path) as url:
        environment = {
            **os.environ,
            "PATH": f"{scripts}:{os.environ['PATH']}",
            "PYTHONPATH": str(Path(mt.__file__).parents[1]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "REDIS_URL": url,
            "STORE": str(tmp_path / "jobs.sqlite"),
            "ALLOW_PRIVATE": "1",
        }
        with (tmp_path / "log").open("w") as log:
            started = subprocess.Popen(shlex.split(worker), cwd=EXAMPLE, env=environment, stdout=log, stderr=log)
        with ended(started):
            asking = client.replace("https://example.com/interview.mp3", server.url("/alice.mp3"))
            done = subprocess.run(
                shlex.split(asking), cwd=EXAMPLE, env=environment, capture_output=True, text=True, timeout=2 * SECONDS
            )
            started.terminate()
            assert started.wait(timeout=SECONDS) == 0, (tmp_path / "log").read_text()
    assert (done.returncode, done.stderr) == (0, "")
    url_line, text = done.stdout.splitlines()
    assert url_line == server.url("/alice.mp3")
    assert "alice" in text.lower()
