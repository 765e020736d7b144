"""`memsafe-transcribe doctor`: what was found on this machine, and what is missing."""

import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator

from ._admission.controller import default_admission
from ._audio.decoder import SAMPLE_RATE_HZ, open_decoder
from ._audio.encoding import wav
from ._download.spool import default_spool_dir
from ._errors import AudioDecodeError
from ._memory.cleanup import allocator
from ._memory.guard import default_guard
from ._memory.reading import filesystem_type
from ._transcription.registry import installed, missing
from ._units import format_size
from ._version import __version__

_MEMORY_FILESYSTEMS = ("tmpfs", "ramfs")


async def run() -> int:
    """Print the findings; return 0 if everything that is needed is there, else 1."""
    print(f"version  {__version__}, Python {platform.python_version()}, {sys.platform}")
    for line in (*_memory(), *_spool()):
        print(line)
    decoder_works = await _decoder()
    ready = [_engine(name) for name in installed()]
    if not ready:
        print("engines  none is installed")
    return 0 if decoder_works and any(ready) else 1


def _memory() -> Iterator[str]:
    guard = default_guard()
    now, room = guard.snapshot(), guard.room()
    yield f"memory   limit {format_size(now.limit_bytes)}, bound by {now.binding} (read from {now.source})"
    yield f"         used {format_size(now.used_bytes)}, {now.percent:.1f} %, level {now.level.name}"
    yield f"         room for {format_size(room.new_work_bytes)} of new work; allocator {allocator()}"
    now_admitted = default_admission().statistics()
    yield f"slots    {now_admitted.max_concurrent}, {now_admitted.others_active} taken; {now_admitted.scope}"


def _spool() -> Iterator[str]:
    folder = default_spool_dir()
    kind = filesystem_type(folder)
    yield f"spool    {folder} ({kind}), {format_size(shutil.disk_usage(folder).free)} free"
    if kind in _MEMORY_FILESYSTEMS:
        yield f"         {kind} is memory: every downloaded byte counts against the limit; set TMPDIR to a disk"


async def _decoder() -> bool:
    """Decode a second of silence for real."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as file:
        file.write(wav(bytes(SAMPLE_RATE_HZ * 2), SAMPLE_RATE_HZ))
        file.flush()
        try:
            async with open_decoder(file.fileno(), "a test file", max_audio_seconds=10) as decoder:
                await decoder.read(SAMPLE_RATE_HZ * 2)
        except (AudioDecodeError, OSError) as error:
            print(f"decoder  does not work: {error}")
            return False
    print(f"decoder  works, in a process of its own, started in {time.monotonic() - started:.2f} s")
    return True


def _engine(name: str) -> bool:
    what = missing(installed()[name])
    print(f"engine   {name}: {what or 'ready'}")
    return what is None
