"""What a soak's sources come from: good files, each time with another title, and servers of bad manners.

python -m benchmarks.soak_server FOLDER        says its address, and ends when its stdin does
"""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.server import Exchange, Server

from benchmarks.loopback import running

GOOD_SECONDS = (30.0, 60.0, 600.0)
_BOMB_SECONDS = 7200


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve from a process of its own, by files that are made in the folder; gives the address."""
    _write_sources(folder)
    with running("benchmarks.soak_server", folder) as url:
        yield url


def _write_sources(folder: Path) -> None:
    from tests.support.media import encode, write_long_mp3  # they load PyAV

    for seconds in GOOD_SECONDS:
        write_long_mp3(folder / f"{seconds:g}.mp3", seconds)
    encode(folder / "bomb.flac", "flac", bytes(_BOMB_SECONDS * 32_000), rate=16_000)
    (folder / "noise.wav").write_bytes(random.Random(7).randbytes(100_000))


def main() -> None:
    folder = Path(sys.argv[1])
    good = [(folder / f"{seconds:g}.mp3").read_bytes() for seconds in GOOD_SECONDS]
    bomb, damaged = (folder / "bomb.flac").read_bytes(), (folder / "noise.wav").read_bytes()

    def number(exchange: Exchange) -> bytes:
        server.requests.clear()
        return b"%09d\n" % int(exchange.query)

    def tagged(exchange: Exchange) -> None:
        title = b"\0" + number(exchange)
        frame = b"TIT2" + len(title).to_bytes(4, "big") + b"\0\0" + title
        tag = b"ID3\3\0\0" + b"\0\0\0" + bytes([len(frame)]) + frame
        exchange.answer(tag + good[int(exchange.query) % len(good)])

    def short(exchange: Exchange) -> None:
        exchange.answer(good[0][:5000], Content_Length=str(len(good[0])))

    def endless(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        if not exchange.is_head:
            exchange.send_for_ever(bytes(65_536))

    def slow(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        if not exchange.is_head:
            exchange.drip_until_closed(b"\0", 0.2)

    with Server() as server:
        server.routes |= {
            "/good": tagged,
            "/short": short,
            "/slow": slow,
            "/silent": Exchange.hold_until_closed,
            "/endless": endless,
            "/private": lambda exchange: exchange.answer(status="302 Found", Location="http://169.254.169.254/latest"),
            "/text": lambda exchange: exchange.answer(b"It is not a sound.\n" * 99 + number(exchange)),
            "/bomb": lambda exchange: exchange.answer(bomb),
            "/noise": lambda exchange: exchange.answer(damaged + number(exchange)),
        }
        print(server.url(""), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
