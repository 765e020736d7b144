"""`memsafe-transcribe doctor`: what was found on this machine, and what is missing."""

import platform
import sys
import tempfile
import time
from collections.abc import Iterator

from . import _settings
from ._admission.controller import default_admission
from ._audio.decoder import data_limit_bytes, open_decoder
from ._audio.encoding import wav
from ._audio.words import SAMPLE_RATE_HZ
from ._download import spool
from ._download.incoming import default_max_bytes
from ._errors import AudioDecodeError, SpoolError
from ._memory.cleanup import allocator
from ._memory.guard import default_guard
from ._memory.reading import filesystem_type
from ._transcription.registry import installed, missing
from ._units import format_size
from ._version import __version__


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
    yield f"         room for {format_size(room.new_work_bytes)} of new work, up to {guard.threshold_percent:g} %"
    yield f"         allocator {allocator()}"
    now_admitted = default_admission().statistics()
    yield f"slots    {now_admitted.max_concurrent}, {now_admitted.others_active} taken; {now_admitted.scope}"


def _spool() -> Iterator[str]:
    folder = spool.default_spool_dir()
    try:
        file = spool.open_spool_file(folder, "a test file")
        file.close()
        free = format_size(spool.free_bytes(folder))
    except SpoolError as error:
        yield f"spool    does not work: {error}"
        return
    name = "files without a name" if file.is_nameless else f"files with a name, under a lock, in {file.path.parent}"
    yield f"spool    {folder} ({filesystem_type(folder)}), {free} free, {name}"
    yield f"         a download may have {format_size(default_max_bytes())}"
    if spool.is_memory(folder):
        yield "         it is memory: downloads reserve their bytes from the limit; MEMSAFE_SPOOL_DIR may name a disk"


async def _decoder() -> bool:
    """Decode a second of silence for real."""
    started = time.monotonic()
    with tempfile.TemporaryFile(dir=_settings.temporary_folder()) as file:
        file.write(wav([bytes(SAMPLE_RATE_HZ * 2)], SAMPLE_RATE_HZ))
        file.flush()
        try:
            fd = file.fileno()
            async with open_decoder(
                fd, "a test file", max_audio_seconds=10, data_limit_bytes=data_limit_bytes(fd)
            ) as decoder:
                await decoder.read()
        except (AudioDecodeError, OSError) as error:
            print(f"decoder  does not work: {error}")
            return False
    print(f"decoder  works, in a process of its own, started in {time.monotonic() - started:.2f} s")
    if decoder.info.is_confined:
        print("         confined: it can neither open files, nor reach the network, nor start programs (seccomp)")
    else:
        print("         not confined: no seccomp on this system; no descriptor can be opened there all the same")
    return True


def _engine(name: str) -> bool:
    what = missing(installed()[name])
    print(f"engine   {name}: {what or 'ready'}")
    return what is None
