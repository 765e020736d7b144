"""Leave a process nothing but computing: seccomp, Linux's filter of system calls. Standard library only.

A filter is a program of the classic BPF machine that the kernel runs at each call (kernel documentation,
userspace-api/seccomp_filter). Ours lets through what a decoder needs: read and write what is open, memory, time, end.
Everything else - sockets, opening, removing or renaming files, programs, signals to others - fails with EPERM.
"""

import ctypes
import errno
import platform
import struct

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD_WORD, _JUMP_IF_EQUAL, _JUMP_IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4  # in struct seccomp_data
_X32 = 0x40000000  # numbers from here on are those of x86-64's other call table

# The numbers of: read write close fstat lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn pread64
# madvise mremap sched_yield nanosleep getpid gettid futex sigaltstack clock_gettime clock_nanosleep gettimeofday
# getrandom exit exit_group poll/ppoll select/pselect6 restart_syscall getrusage sched_getaffinity rseq, and
# newfstatat, which is what fstat has become in the C library.
_TABLES = {
    "x86_64": (
        0xC000003E,
        (0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 17, 28, 25, 24, 35, 39, 186, 202, 131, 228, 230, 96, 318, 60, 231, 7,
         271, 23, 270, 219, 98, 204, 334, 262),
    ),
    "aarch64": (
        0xC00000B7,
        (63, 64, 57, 80, 62, 222, 226, 215, 214, 134, 135, 139, 67, 233, 216, 124, 101, 172, 178, 98, 132, 113, 115,
         169, 278, 93, 94, 73, 72, 128, 165, 123, 293, 79),
    ),
}  # fmt: skip


def confine() -> bool:
    """From here on this thread, and what it starts, can only compute. False where the kernel or machine cannot do it.

    It holds until the process ends and cannot be taken back.
    """
    machine = platform.machine()
    if machine not in _TABLES:
        return False
    program = _program(*_TABLES[machine])
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(program)
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer)))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(header), 0, 0) == 0)


def _program(architecture: int, allowed: tuple[int, ...]) -> bytes:
    """The filter: struct sock_filter after struct sock_filter. A jump counts the instructions that it passes over."""
    steps = [
        (_LOAD_WORD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD_WORD, 0, 0, _NUMBER_AT),
        (_JUMP_IF_AT_LEAST, len(allowed), 0, _X32),
    ]
    for place, number in enumerate(allowed):
        steps.append((_JUMP_IF_EQUAL, len(allowed) - place, 0, number))
    steps += [(_RETURN, 0, 0, _FAIL), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("HBBI", *step) for step in steps)
