"""What a process does to itself to have less power. Every step is one-way and holds for its children.

Standard library only: this module is loaded into the process that forks the programs under test.
`ctypes` is used for `prctl`, which the standard library lacks.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import resource
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_BPF_INSTRUCTION_BYTES = 8

# Children call this between fork and program. Arguments that are C values already, no `errno`, and the interpreter's
# lock kept: each touches fewer pages, and a page that is touched after a fork is a page to be copied.
_call = ctypes.PyDLL(None).prctl
_ZERO, _ONE = ctypes.c_ulong(0), ctypes.c_ulong(1)
_KILL, _FILTER_MODE = ctypes.c_ulong(int(signal.SIGKILL)), ctypes.c_ulong(2)  # 2: SECCOMP_MODE_FILTER


class _Program(ctypes.Structure):
    """`struct sock_fprog` of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def _prctl(option: int, argument: ctypes.c_ulong) -> None:
    if _call(option, argument, _ZERO, _ZERO, _ZERO) != 0:
        raise OSError(f"the kernel refuses prctl {option}")


class SystemCallFilter:
    """A seccomp program, kept in memory in the form that the kernel reads."""

    def __init__(self, program: bytes):
        self._buffer = ctypes.create_string_buffer(program, len(program))
        self._header = _Program(len(program) // _BPF_INSTRUCTION_BYTES, ctypes.addressof(self._buffer))
        self._address = ctypes.c_ulong(ctypes.addressof(self._header))

    def install(self) -> None:
        """From here on the filter judges each system call; needs `no_new_privileges` before."""
        if _call(_PR_SET_SECCOMP, _FILTER_MODE, self._address) != 0:
            raise OSError("the kernel refuses the system call filter")


def no_new_privileges() -> None:
    _prctl(_PR_SET_NO_NEW_PRIVS, _ONE)


def undumpable() -> None:
    """No process of the same user may read this one's memory."""
    _prctl(_PR_SET_DUMPABLE, _ZERO)


def adopt_orphans() -> None:
    _prctl(_PR_SET_CHILD_SUBREAPER, _ONE)


def die_with_parent() -> None:
    """SIGKILL when the parent's thread ends. A change of uid undoes it, so it comes after that."""
    if _call(_PR_SET_PDEATHSIG, _KILL) != 0:
        raise OSError("the kernel refuses to end this process with its parent")


def become(uid: int) -> None:
    """Drops to an unprivileged user and group that own nothing."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def lowered(which: int, value: int) -> tuple[int, int]:
    """Soft and hard limit for `setrlimit`: `value`, or the present hard limit where that is lower."""
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    return value, value


def lower_limit(which: int, value: int) -> None:
    """Sets soft and hard limit to `value`, or leaves a hard limit that is lower already."""
    resource.setrlimit(which, lowered(which, value))


def address_space_bytes() -> int:
    """This process's address space, to the page, without /proc: the least limit under which a page can be mapped."""
    page = mmap.PAGESIZE
    old = resource.getrlimit(resource.RLIMIT_AS)
    low, high = 0, 1 << 36  # in pages; the mapped page itself is taken off at the end
    try:
        while high - low > 1:
            middle = (low + high) // 2
            resource.setrlimit(resource.RLIMIT_AS, (middle * page, old[1]))
            fits = False
            with contextlib.suppress(OSError, MemoryError):
                mmap.mmap(-1, page).close()
                fits = True
            low, high = (low, middle) if fits else (middle, high)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)
    return (high - 1) * page
