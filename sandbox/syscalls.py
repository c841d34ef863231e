"""The system calls that a program may make, compiled to seccomp programs by libseccomp.

An allow-list: anything else fails with EPERM, a call of another ABI (x32, i386) ends the process. Threads may be made,
processes not; `clone3`, whose flags a filter cannot see, says ENOSYS, and the C library then uses `clone`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import tempfile
import types

_CLONE_THREAD = 0x00010000
# CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET of linux/sched.h.
_CLONE_NEW = 0x80 | 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
# TCGETS, TIOCGWINSZ, FIONREAD, FIONCLEX, FIOCLEX: what the interpreter asks of a file it opens.
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5450, 0x5451)
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC.
_FCNTLS = (0, 1, 2, 3, 1030)

_PROGRAM_CALLS = """
    read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek close close_range
    fstat stat lstat newfstatat statx access faccessat faccessat2 getdents64 readlink readlinkat getcwd
    dup dup2 dup3 pipe pipe2 poll ppoll select pselect6
    brk mmap munmap mremap mprotect madvise
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait sigaltstack pause
    alarm setitimer getitimer restart_syscall
    futex futex_wait futex_wake futex_waitv sched_yield sched_getaffinity
    nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time times getrusage
    getpid gettid getppid getuid geteuid getgid getegid getgroups uname getrandom getrlimit
    set_robust_list get_robust_list rseq set_tid_address exit exit_group
""".split()
_OPEN_CALLS = "open openat".split()
_SUPERVISOR_CALLS = """
    fork vfork wait4 waitid kill pidfd_open memfd_create sendmsg recvmsg sendto recvfrom
    setrlimit prlimit64 prctl seccomp ftruncate chdir fcntl ioctl
""".split()


def problem() -> str:
    """Why no filter can be built here, with the mend; empty when it can."""
    try:
        _pyseccomp()
    except ImportError:
        return "the Python package pyseccomp: pip install pyseccomp"
    except (RuntimeError, OSError, AttributeError):
        return "the library libseccomp: install the package `libseccomp2` (or `libseccomp`) of your distribution"
    return ""


def _pyseccomp() -> types.ModuleType:
    # Imported on use: the module fails to load where the C library is missing, and looking for it takes a while.
    import pyseccomp

    return pyseccomp  # type: ignore[no-any-return]


@functools.cache
def child_filter(open_files: bool) -> bytes:
    """For a program under test; without `open_files` it can open nothing by name."""
    seccomp = _pyseccomp()
    rules = _rules([*_PROGRAM_CALLS, *(_OPEN_CALLS if open_files else ())])
    rules.add_rule(seccomp.ALLOW, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, _CLONE_THREAD, _CLONE_THREAD))
    rules.add_rule(seccomp.ALLOW, "prlimit64", seccomp.Arg(2, seccomp.EQ, 0))  # reading limits
    for command in _IOCTLS:
        rules.add_rule(seccomp.ALLOW, "ioctl", seccomp.Arg(1, seccomp.EQ, command))
    for command in _FCNTLS:
        rules.add_rule(seccomp.ALLOW, "fcntl", seccomp.Arg(1, seccomp.EQ, command))
    return _export(rules)


@functools.cache
def zygote_filter() -> bytes:
    """For the zygote and the runners: may fork, watch and limit children, but not reach out."""
    seccomp = _pyseccomp()
    rules = _rules([*_PROGRAM_CALLS, *_OPEN_CALLS, *_SUPERVISOR_CALLS])
    rules.add_rule(seccomp.ALLOW, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, _CLONE_NEW, 0))
    return _export(rules)


def _rules(calls: list[str]) -> types.SimpleNamespace:
    seccomp = _pyseccomp()
    rules = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
    rules.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
    with contextlib.suppress(OSError, ValueError):  # a libseccomp before 2.5 makes a list of comparisons
        # A binary tree: the kernel tries the filter on every system call when a child installs it.
        rules.set_attr(seccomp.Attr.CTL_OPTIMIZE, 2)
    for call in calls:
        number = seccomp.resolve_syscall(seccomp.Arch.NATIVE, call)
        if number >= 0:  # negative: unknown to this architecture (`open` on aarch64) or to this libseccomp
            rules.add_rule(seccomp.ALLOW, number)
    rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    return rules  # type: ignore[no-any-return]


def _export(rules: types.SimpleNamespace) -> bytes:
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()
