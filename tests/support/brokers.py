"""A Redis, and Celery workers, as processes of a test."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from .needs import cannot
from .processes import watch_names

SECONDS = 60.0  # for what takes a few


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """The URL of a Redis that keeps nothing on disk and listens on a socket in `folder` alone."""
    program = shutil.which("redis-server")
    if program is None:
        cannot("needs redis-server")
    socket = folder / "redis.sock"
    command = [program, "--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"]
    with watch_names(folder) as names:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=folder)
        try:
            names.wait_for("redis.sock", SECONDS)
            yield f"redis+socket://{socket}"
        finally:
            process.terminate()
            process.wait()


@contextmanager
def celery_worker(
    app: str, cwd: Path, log: Path, environment: Mapping[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker with two prefork children, whose log is added to `log`."""
    command = [sys.executable, "-W", "error::ResourceWarning", "-m", "celery", "-A", app, "worker",
               "--concurrency", "2", "--loglevel", "INFO", "--without-gossip", "--without-mingle"]  # fmt: skip
    with log.open("a") as file:
        process = subprocess.Popen(
            command, cwd=cwd, env={**os.environ, **environment}, stdout=file, stderr=file, start_new_session=True
        )
        with ended(process):
            yield process


@contextmanager
def ended(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """What is left of a worker at the end is killed; its children die with it."""
    try:
        yield
    finally:
        process.kill()
        process.wait()
