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
_SECCOMP_MODE_FILTER = 2
_BPF_INSTRUCTION_BYTES = 8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)


class _Program(ctypes.Structure):
    """`struct sock_fprog` of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def _prctl(option: int, argument: int = 0, pointer: int = 0) -> None:
    if _libc.prctl(option, argument, pointer, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl {option}: {os.strerror(error)}")


class SystemCallFilter:
    """A seccomp program, kept in memory in the form that the kernel reads."""

    def __init__(self, program: bytes):
        self._buffer = ctypes.create_string_buffer(program, len(program))
        self._header = _Program(len(program) // _BPF_INSTRUCTION_BYTES, ctypes.addressof(self._buffer))
        self._address = ctypes.addressof(self._header)

    def install(self) -> None:
        """From here on the filter judges each system call; needs `no_new_privileges` before."""
        _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, self._address)


def no_new_privileges() -> None:
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def undumpable() -> None:
    """No process of the same user may read this one's memory."""
    _prctl(_PR_SET_DUMPABLE, 0)


def adopt_orphans() -> None:
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """SIGKILL when the parent's thread ends. A change of uid undoes it, so it comes after that."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def become(uid: int) -> None:
    """Drops to an unprivileged user and group that own nothing."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def lower_limit(which: int, value: int) -> None:
    """Sets soft and hard limit to `value`, or leaves a hard limit that is lower already."""
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


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
