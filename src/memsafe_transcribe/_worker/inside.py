"""The worker's own side: dies with its parent, lives inside limits, speaks in frames. Standard library only."""

import fcntl
import json
import os
import resource
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .frames import FrameReader, header

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_READ_BYTES = 1 << 16


def die_with_parent(lifeline: int) -> None:
    """Ask the kernel to kill this process as soon as the other end of the pipe `lifeline` is closed.

    The parent holds that end and never writes to it. The kernel closes it however the parent ends, and needs no
    Python code to run here: it works while a C library hangs with the interpreter's lock held. (PR_SET_PDEATHSIG
    would fire when the *thread* that started us ends.)
    """
    os.set_blocking(_STDERR, False)  # nobody reads it until we are dead: it must never make us wait
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # it was closed before we asked
        os._exit(1)


def limit_resources(data_bytes: int, cpu_seconds: int) -> None:
    """From here on: `data_bytes` more of private memory, so much more processor time, no new descriptor, no byte into a
    file, no core dump. More processor time than that ends in SIGXCPU. Where the host is held to less, it stays at that.

    RLIMIT_DATA, not RLIMIT_AS: shared libraries alone take hundreds of MiB of address space. With no descriptor to be
    had, neither a file nor a socket can be opened, whatever a media file may talk FFmpeg into.
    """
    in_use = 0
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmData:"):
            in_use = int(line.split()[1]) * 1024
    for what, value in (
        (resource.RLIMIT_DATA, in_use + data_bytes),
        (resource.RLIMIT_CPU, int(time.process_time()) + cpu_seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        # At the hard limit of processor time comes a SIGKILL, which would not say why.
        step = 1 if what == resource.RLIMIT_CPU else 0
        hard = resource.getrlimit(what)[1]
        limit = value + step if hard == resource.RLIM_INFINITY else min(value + step, hard)
        resource.setrlimit(what, (max(0, limit - step), limit))


def send(kind: bytes, payload: bytes | bytearray | memoryview) -> None:
    """Write one frame; waits while the pipe is full. A parent that is gone ends this process."""
    write_frame(_STDOUT, kind, payload)


def write_frame(fd: int, kind: bytes, payload: bytes | bytearray | memoryview) -> None:
    """Write one frame to a pipe that blocks."""
    view = memoryview(header(kind, len(payload)) + payload)  # at once: a header alone would wake its reader in vain
    while view:
        view = view[os.write(fd, view) :]


def send_json(kind: bytes, value: dict[str, Any]) -> None:
    """Write one frame whose payload is JSON."""
    send(kind, json.dumps(value).encode())


def receive(max_payload_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    """The frames that the parent sends, until it hangs up."""
    reader = FrameReader(max_payload_bytes)
    while data := os.read(_STDIN, _READ_BYTES):
        yield from reader.feed(data)
