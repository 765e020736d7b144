"""Where scenarios run: a server, folders, one admission in the container's ledger, and an engine that has its moods."""

import gzip
import hashlib
import io
import shutil
import ssl
import subprocess
import wave
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import anyio
import anyio.lowlevel

import memsafe_transcribe as mt
from memsafe_transcribe._download import transport

from ..admission.room import ToldGuard
from ..support.downloads import BODY, redirect_break_off_and_continue
from ..support.media import encode, tone_samples, write_encoded, write_wav
from ..support.server import Exchange, Handler, Server

_PATIENCE_SECONDS = 1.0
_FRAGMENTED = "frag_keyframe+empty_moov+default_base_moof"
ANY = mt.UrlPolicy(allow_private=True)


class EngineError(Exception):
    """What the engine raises when it is in trouble."""


class MoodyEngine:
    """Answers with a word that stands for the very chunk, after some waits.

    Args:
        place: where it is asked.
        breaks_at: after how many answers it gives none.
        on_answer: called with each.
        capabilities: other than usual.

    It finds the first chunk of each job too large when that has two seconds or more, and is busy at the first attempt
    on the second. When there is trouble, it raises instead of answering, and instead of being cancelled.
    """

    def __init__(
        self,
        place: "Place",
        *,
        breaks_at: int | None = None,
        on_answer: Callable[[], object] = lambda: None,
        **capabilities: Any,
    ) -> None:
        self.capabilities = mt.Capabilities(
            **{"max_chunk_seconds": 60.0, "timestamps": "word", "concurrency": 2, "cache_key": "moody", **capabilities}
        )
        self._place = place
        self._breaks_at = breaks_at
        self._on_answer = on_answer

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> mt.ChunkResult:
        if chunk.index == 0 and chunk.duration_seconds > 2:
            raise mt.ChunkTooLargeError("too large")
        if chunk.index == 1 and context.attempt == 1:
            raise mt.TranscriberUnavailableError("busy", retry_after_seconds=0.0)
        for _ in range(2):
            try:
                await anyio.lowlevel.checkpoint()
            except anyio.get_cancelled_exc_class():
                if self._place.is_in_trouble:
                    raise EngineError("it cannot be cancelled now") from None
                raise
            if self._place.is_in_trouble:
                raise EngineError("it has broken down")
        if len(self._place.asked) == self._breaks_at:
            raise EngineError("it is broken")
        name = hashlib.sha256(chunk.data).hexdigest()[:16]
        self._place.asked.append(name)
        self._on_answer()
        middle = chunk.duration_seconds / 2
        return mt.ChunkResult(words=(mt.Word(name, middle - 0.1, middle + 0.1),), language="en")

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()


@dataclass(eq=False)
class Place:
    """Where one scenario runs.

    Attributes:
        folder: of its own files.
        spool: where downloads lie.
        saved: what is published.
        memory: where downloads lie that are memory.
        url, tls_url: of the servers.
        temporary: the system's folder for temporary files, as this process sees it.
        admission: for all; it takes part in a container's ledger.
        observer: another member of that.
        isolation: of the decoder.
        servers: those that are of this process.
        is_in_trouble: whether engine and server break down.
        goes_on: whether it has run before; what was given up then is tried again.
        asked: what the engine answered to.
        told: what came out of the run.
        left: what the run itself found to be left.
        gets: how often each path was asked for in the run.
    """

    folder: Path
    spool: Path
    saved: Path
    temporary: Path
    memory: Path
    url: str
    tls_url: str
    admission: mt.AdmissionController
    observer: mt.AdmissionController
    isolation: str = "thread"
    servers: tuple[Server, ...] = ()
    is_in_trouble: bool = False
    goes_on: bool = False
    asked: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    gets: Counter[str] = field(default_factory=Counter)

    @property
    def store(self) -> Path:
        return self.folder / "store" / "jobs.sqlite"

    @property
    def folders(self) -> dict[str, str]:
        """All of its folders, by their names here."""
        return {name: str(getattr(self, name)) for name in ("folder", "spool", "saved", "temporary", "memory")}

    @property
    def swept(self) -> list[Path]:
        """Where no file may be left, ever."""
        return [self.spool, self.temporary, self.memory]

    def sweep(self) -> None:
        """Remove what lies where no file may be left."""
        for folder in self.swept:
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def downloader(self, **options: Any) -> mt.SafeDownloader:
        # What could not be sent is waited for: there may be an answer to what was.
        patience = {"connect_timeout_seconds": _PATIENCE_SECONDS, "read_timeout_seconds": _PATIENCE_SECONDS}
        return mt.SafeDownloader(
            **{"policy": ANY, "admission": self.admission, "spool_dir": self.spool, **patience, **options}
        )

    def transcriber(self, **options: Any) -> mt.ChunkedTranscriber:
        settings: dict[str, Any] = {
            "engine": MoodyEngine(self),
            "admission": self.admission,
            "downloader": self.downloader(),
            "chunk_seconds": 2.5,
            "isolation": self.isolation,
        }
        return mt.ChunkedTranscriber(**{**settings, **options})

    def job_store(self) -> mt.JobStore:
        return mt.JobStore(self.store)

    def hang_up(self) -> None:
        """Trouble, from now on."""
        self.is_in_trouble = True

    @contextmanager
    def trusting(self, *, certificate: bool) -> Iterator[None]:
        """While this lasts, the downloader trusts the TLS server's certificate, or none."""
        context = ssl.create_default_context(cafile=self.folder / "cert" if certificate else None)
        with patch.object(transport, "_ssl_context", lambda: context):
            yield

    def reset(self, stored: Mapping[str, bytes] | None) -> None:
        """Before each run: it goes on from what is stored now, or from this."""
        self.is_in_trouble = False
        self.asked.clear()
        self.told.clear()
        self.left.clear()
        self.gets.clear()
        for path in self.saved.iterdir():
            path.unlink()
        if stored is not None:
            for path in self.store.parent.iterdir():
                path.unlink()
            for name, content in stored.items():
                (self.store.parent / name).write_bytes(content)

    def stored(self) -> dict[str, bytes]:
        """The files of the store, as long as nobody uses it."""
        return {path.name: path.read_bytes() for path in self.store.parent.iterdir()}


def wav(seconds: float, hertz: int) -> bytes:
    """A WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as target:
        target.setparams((1, 2, 16_000, 0, "NONE", ""))
        target.writeframes(tone_samples(seconds, hertz))
    return file.getvalue()


def no_pauses() -> AbstractContextManager[Any]:
    """Before another attempt."""
    return patch("random.uniform", lambda low, high: low)


def write_certificate(folder: Path) -> ssl.SSLContext:
    """For 127.0.0.1: the server's side of it; `cert` in the folder is for those who trust it."""
    command = "openssl req -x509 -nodes -days 2 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -keyout key -out cert"
    subject = ["-subj", "/CN=torture", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command.split(), *subject], cwd=folder, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "cert", folder / "key")
    return tls


def _routes(place: Place) -> dict[str, Handler]:
    bodies = {"/url.wav": wav(2.2, 500), "/long": BODY, "/longer": BODY * 5}

    def answer(exchange: Exchange) -> None:
        place.gets[exchange.path] += not exchange.is_head
        body = bodies.get(exchange.path, bodies["/url.wav"])
        if place.is_in_trouble:
            exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9")
        elif exchange.path == "/busy.wav" and place.gets[exchange.path] < 2:
            exchange.answer(status="503 Busy", Retry_After="0")
        elif exchange.path == "/late.wav" and place.gets[exchange.path] < 2:
            exchange.answer(status="404 Not Found")
        else:
            exchange.answer(body)

    def breaks_off(exchange: Exchange, etag: str) -> None:
        """Half of a body at first, and then the whole."""
        is_first = place.gets[exchange.path] == 0
        place.gets[exchange.path] += not exchange.is_head
        exchange.send(f'HTTP/1.1 200 OK\r\nETag: "{etag}"\r\nContent-Length: {len(BODY)}\r\n\r\n'.encode())
        if not exchange.is_head:
            exchange.send(BODY[: len(BODY) // 2] if is_first else BODY)

    def changed(exchange: Exchange) -> None:
        """Half of one file, and then the whole of another one."""
        breaks_off(exchange, "new" if place.gets[exchange.path] else "old")

    def shrunk(exchange: Exchange) -> None:
        """Half of a file; of its other half the server says that it is beyond the end; and then the whole."""
        if "range" in exchange.headers:
            exchange.answer(status="416 Range Not Satisfiable", Content_Range=f"bytes */{len(BODY) // 4}")
        else:
            breaks_off(exchange, "same")

    def stuck(exchange: Exchange) -> None:
        """Most of a body, and no more until whoever asks has hung up; then the whole."""
        if exchange.is_head or place.gets[exchange.path]:
            exchange.answer(BODY)
            return
        place.gets[exchange.path] += 1
        exchange.send(f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\n\r\n".encode())
        exchange.send(BODY[: len(BODY) * 3 // 4])
        exchange.hold_until_closed()

    packed = gzip.compress(BODY[:400_000])
    return {
        "/": redirect_break_off_and_continue,
        "/end": redirect_break_off_and_continue,
        "/changed": changed,
        "/shrunk": shrunk,
        "/stuck": stuck,
        "/packed": lambda exchange: exchange.answer(packed, Content_Encoding="gzip"),
        **dict.fromkeys(("/url.wav", "/busy.wav", "/late.wav", "/long", "/longer"), answer),
    }


@contextmanager
def place(base: Path) -> Iterator[Place]:
    """A new one."""
    folders = {name: base / name for name in ("files", "spool", "saved", "temporary")}
    for folder in (*folders.values(), base / "files" / "store"):
        folder.mkdir(parents=True)
    guard = ToldGuard(10**9)
    admission = mt.AdmissionController(guard=guard, max_concurrent=3)
    observer = mt.AdmissionController(guard=guard, max_concurrent=3)
    with ExitStack() as opened:
        memory = Path(opened.enter_context(TemporaryDirectory(dir="/dev/shm")))
        server = opened.enter_context(Server())
        tls = opened.enter_context(Server(write_certificate(folders["files"])))
        opened.enter_context(no_pauses())
        here = Place(
            folder=folders["files"],
            spool=folders["spool"],
            saved=folders["saved"],
            temporary=folders["temporary"],
            memory=memory,
            url=server.url(""),
            tls_url=tls.url(""),
            servers=(server, tls),
            admission=admission,
            observer=observer,
        )
        server.routes.update(_routes(here))
        tls.routes.update(_routes(here))
        write_wav(here.folder / "path.wav", tone_samples(5.5, 400))
        write_wav(here.folder / "short.wav", tone_samples(1.2, 400))
        for name, codec in (("sound.mp3", "mp3"), ("sound.ogg", "libopus"), ("sound.m4a", "aac")):
            write_encoded(here.folder / name, codec, 1.2)
        encode(here.folder / "rf64.wav", "pcm_s16le", tone_samples(1.2), format="wav", options={"rf64": "always"})
        encode(here.folder / "fragments.mp4", "aac", tone_samples(1.2), options={"movflags": _FRAGMENTED})
        sound = (here.folder / "sound.m4a").read_bytes()
        (here.folder / "freed.m4a").write_bytes(sound.replace(b"moov", b"free", 1))
        for controller in (admission, observer):
            controller.reserve_nowait(1).release()  # opens what the process keeps open
        mt.MemoryGuard(limit_bytes=1).snapshot()
        yield here
