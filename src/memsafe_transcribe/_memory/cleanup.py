"""Giving free memory back to the system, by whichever allocator there is."""

import functools
import gc
import sysconfig
from typing import TYPE_CHECKING, Literal

from .reading import resident_bytes, shared_mappings

if TYPE_CHECKING:
    import ctypes

Allocator = Literal["glibc", "jemalloc", "musl", "other"]

_ALL_ARENAS = 4096  # jemalloc's number for all of them (MALLCTL_ARENAS_ALL)
_DONTNEED = 4  # MADV_DONTNEED


def cleanup() -> int:
    """Collect garbage, let the allocator give back what is free, and return how many bytes that really were."""
    before = resident_bytes()
    gc.collect()
    _release()
    return max(0, before - resident_bytes())


def let_go_of(name: str) -> None:
    """Have no page of files with `name` in theirs resident here that are mapped as shared memory.

    Their bytes stay in the file; a page that is touched again comes back.
    """
    program = _program()
    if program is None:
        return
    import ctypes

    for start, size_bytes in shared_mappings(name):
        program.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size_bytes), _DONTNEED)


@functools.cache
def allocator() -> Allocator:
    """Whose malloc this process runs on."""
    program = _program()
    if program is None:
        return "other"
    if hasattr(program, "mallctl"):  # also when it was brought in by LD_PRELOAD, over glibc's
        return "jemalloc"
    if hasattr(program, "gnu_get_libc_version") and hasattr(program, "malloc_trim"):
        return "glibc"
    return "musl" if "musl" in str(sysconfig.get_config_var("HOST_GNU_TYPE")) else "other"


def _release() -> None:
    program, kind = _program(), allocator()
    if program is None:
        return
    if kind == "glibc":
        program.malloc_trim(0)
    elif kind == "jemalloc":
        program.mallctl(f"arena.{_ALL_ARENAS}.purge".encode(), None, None, None, 0)
    # musl gives back what it can by itself, and has nothing to call.


@functools.cache
def _program() -> "ctypes.CDLL | None":
    """What is linked into this process; None where that cannot be asked."""
    try:
        import ctypes

        return ctypes.CDLL(None)
    except (ImportError, OSError, TypeError):  # no libffi; a static program; Windows
        return None
