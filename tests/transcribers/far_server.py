"""A loopback server that is no child of the tests: what it takes in memory, threads and descriptors is not theirs.

Run as a module, it leaves its parent, prints its address, and ends when its standard input does.
"""

import hashlib
import io
import os
import re
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager

from ..support.gemini_server import PATH as GEMINI_PATH, FileService, audio_in, says as gemini_says
from ..support.server import Exchange, Handler, Server
from .openai_server import PATH as OPENAI_PATH, says as openai_says


def _heard(data: bytes) -> list[tuple[str, float, float]]:
    """A sentence that only this audio has; nothing, where it is silent."""
    with wave.open(io.BytesIO(data)) as file:
        samples, seconds = file.readframes(file.getnframes()), file.getnframes() / 16_000
    if seconds == 10.0:  # as long as a service takes: the contract cannot see calls side by side that end at once
        time.sleep(0.3)
    name = hashlib.sha256(samples).hexdigest()[:8]
    return [(f"heard {name}", 0.0, seconds)] if any(samples) else []


def _gemini(files: FileService) -> Handler:
    def answer(exchange: Exchange) -> None:
        data = files.audio_in(exchange) if b"fileData" in exchange.body else audio_in(exchange)
        gemini_says(*_heard(data))(exchange)

    return answer


def _openai(exchange: Exchange) -> None:
    data = re.search(rb"RIFF.*?(?=\r\n--)", exchange.body, re.DOTALL)
    assert data is not None
    words = [
        {"word": word, "start": start, "end": end} for text, start, end in _heard(data[0]) for word in text.split()
    ]
    text = " ".join(word["word"] for word in words)  # type: ignore[misc]
    openai_says(
        {"task": "transcribe", "language": "english", "duration": 1.0, "text": text, "words": words}, Connection="close"
    )(exchange)


@contextmanager
def far_server() -> Iterator[str]:
    """The address of one."""
    command = [sys.executable, "-m", __name__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


def main() -> None:
    if os.fork():
        os._exit(0)
    with Server() as server:
        server.routes[GEMINI_PATH] = _gemini(FileService(server))
        server.routes[OPENAI_PATH] = _openai
        sys.stdout.write(server.url("") + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
