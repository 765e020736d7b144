"""What a download may leave behind in this process, and the routes that take one through all that can happen to it."""

import os
import random
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from .server import Exchange, Server

BODY = random.Random(4).randbytes(2 * 1024 * 1024)  # of four blocks, two for each attempt
_WAIT_SECONDS = 10.0


def answered_after(event: threading.Event, body: bytes) -> Callable[[Exchange], None]:
    """A route that announces a body at once, and sends it when the event has come."""

    def route(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        if not exchange.is_head:
            assert event.wait(_WAIT_SECONDS)
            exchange.send(body)

    return route


def open_in(folder: Path) -> list[str]:
    """The files of a folder, named or not, that this process has open: one for each descriptor."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:  # the listing's own, or closed meanwhile
            continue
    return [file for file in found if file.startswith(f"{folder}/")]


def connections_to(server: Server) -> list[str]:
    """The sockets of this process that lead to the server."""
    port = int(server.url("").rpartition(":")[2])
    return [str(each) for each in psutil.Process().net_connections("tcp4") if each.raddr and each.raddr.port == port]


def client_ports(server: Server) -> set[int]:
    """The ports of this process from which connections lead to the server: as `connections_to`, but at once."""
    there, found = int(server.url("").rpartition(":")[2]), set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # not connected, or closed meanwhile
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as same:
                if same.family == socket.AF_INET and same.getpeername()[1] == there:
                    found.add(same.getsockname()[1])
    return found


def left_over(server: Server, spool_dir: Path) -> list[str]:
    """What this process still holds of a download: sockets that lead to the server, and files in the spool."""
    return [*connections_to(server), *open_in(spool_dir)]


def redirect_break_off_and_continue(exchange: Exchange) -> None:
    """Lead on to `/end`; there send the first half of `BODY` and hang up; continue where that is asked for."""
    half = len(BODY) // 2
    if exchange.path != "/end":
        exchange.answer(status="302 Found", Location="/end")
        return
    if exchange.headers.get("range") == f"bytes={half}-" and exchange.headers["if-range"] == '"a"':
        head = f'206 Partial Content\r\nETag: "a"\r\nContent-Range: bytes {half}-{len(BODY) - 1}/{len(BODY)}'
        length, data = len(BODY) - half, BODY[half:]
    else:
        head, length, data = '200 OK\r\nETag: "a"', len(BODY), BODY[:half]
    exchange.send(f"HTTP/1.1 {head}\r\nContent-Length: {length}\r\n\r\n".encode())
    if not exchange.is_head:
        exchange.send(data)
