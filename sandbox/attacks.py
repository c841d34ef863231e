"""Programs that cheat, break out, or sit in a corner, each with the verdict that it must get.

The tests judge all of them in every tier, `sandbox.soak` mixes them with ordinary programs. The secret answer of every
`wrong_answer` attack is something that the program cannot compute. An attack that tries several ways in is judged
`runtime_error` only if all of them were refused.
"""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Any

from o1coder_jax.records import TestCase, Verdict
from sandbox.limits import Limits
from sandbox.pool import Submission

SECRET = "73914073558216"


@dataclasses.dataclass(frozen=True)
class Attack:
    """A program, its one input and expected output, and the verdict; `fn_name` for the call form."""

    name: str
    verdict: str
    code: str
    input: Any = ""
    output: Any = ""
    fn_name: str | None = None

    def submission(self, limits: Limits, idle_seconds: float) -> Submission:
        """The attack as the pool takes it; those that must end as `idle_limit` get `idle_seconds` of wall time."""
        if self.verdict == Verdict.IDLE_LIMIT:
            limits = dataclasses.replace(limits, wall_seconds=idle_seconds)
        return Submission(self.name, self.code, (TestCase(self.input, self.output),), self.fn_name, limits=limits)


def script(name: str, verdict: str, code: str, stdin: str = "", stdout: str = SECRET) -> Attack:
    return Attack(name, verdict, textwrap.dedent(code), stdin, stdout)


def call(name: str, verdict: str, code: str, output: Any = SECRET, arguments: Any = ()) -> Attack:
    return Attack(name, verdict, textwrap.dedent(code), list(arguments), output, "f")


_SYSCALLS = """
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    numbers = {numbers}
    results = [libc.syscall(number, *arguments) for number, arguments in numbers]
    assert any(result != -1 for result in results), "all of them were refused"
"""

ACCEPTED = [
    script("stdin buffer", "accepted", "import sys; print(sys.stdin.buffer.readline().decode())", "ab\ncd\n", "ab"),
    script("open descriptor 0", "accepted", "print(open(0).read())", "ab\ncd\n", "ab cd"),
    script("size of stdin", "accepted", "import os; print(os.read(0, os.fstat(0).st_size).decode())", "ab\n", "ab"),
    script("write to descriptor 1", "accepted", "import os; os.write(1, b'ab')", "", "ab"),
    script(
        "deep recursion in a thread",
        "accepted",
        """
        import sys, threading
        threading.stack_size(128 << 20)
        sys.setrecursionlimit(100_000)
        def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
        thread = threading.Thread(target=lambda: print(depth(50_000)))
        thread.start(); thread.join()
        """,
        "",
        "50000",
    ),
    script("exit after the answer", "accepted", "import sys; print('ab'); sys.exit(0)", "", "ab"),
    script("the builtin exit", "accepted", "print('ab'); exit()", "", "ab"),
    script("a long integer", "accepted", "n = int(input()); print(n + 0)", "7" * 20_000 + "\n", "7" * 20_000),
    script(
        "a daemon thread alive",
        "accepted",
        "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); print('ab')",
        "",
        "ab",
    ),
    script("atexit", "accepted", "import atexit; atexit.register(print, 'ab')", "", "ab"),
    script("a flood on stderr", "accepted", "import sys; sys.stderr.write('x' * (8 << 20)); print('ab')", "", "ab"),
    script("an unflushed file", "accepted", "out = open(1, 'w', closefd=False); out.write('ab')", "", "ab"),
    script("a main guard", "accepted", "if __name__ == '__main__': print('ab')", "", "ab"),
    script(
        "a dataclass",
        "accepted",
        """
        from __future__ import annotations
        import dataclasses
        @dataclasses.dataclass
        class A:
            x: int
        print(A(3).x)
        """,
        "",
        "3",
    ),
    script(
        "a thread that prints last",
        "accepted",
        "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), print('ab'))).start()",
        "",
        "ab",
    ),
    script(
        "a module that is not warm", "accepted", "import colorsys; print(colorsys.rgb_to_hls(0, 0, 0)[0])", "", "0.0"
    ),
    script(
        "an extension that is not warm", "accepted", "import _decimal, _datetime, zlib; print(zlib.crc32(b''))", "", "0"
    ),
    script("a package that is not warm", "accepted", "import xml.dom as m; print(m.__name__)", "", "xml.dom"),
    call("a value", "accepted", "def f(a, b): return a + b", 5, (2, 3)),
    call("tuples and keys", "accepted", "def f(): return (1, {2: (None, True)})", [1, {"2": [None, True]}]),
    call("a method", "accepted", "class Solution:\n    def f(self, a): return a * 2", 6, (3,)),
    call("a Solution's names", "accepted", "class Solution:\n    def f(self) -> List[int]: return [*deque([1])]", [1]),
    call("prints beside the value", "accepted", "def f(): print('noise' * 1000); return 1", 1),
    call("a main guard in call form", "accepted", "def f(): return 1\nif __name__ == '__main__': input()", 1),
    call("a long integer returned", "accepted", "def f(): return 10 ** 20_000", 10**20_000),
]

WRONG = [
    script("exit without output", "wrong_answer", "import sys; sys.exit(0)"),
    script("hard exit without output", "wrong_answer", "import os; os._exit(0)"),
    call("exit in call form", "wrong_answer", "import sys\ndef f(): sys.exit(0)"),
    call("hard exit in call form", "wrong_answer", "import os\ndef f(): os._exit(0)"),
    call("exit while loading", "wrong_answer", "import sys; sys.exit(0)"),
    call("hard exit while loading", "wrong_answer", "import os; os._exit(0)"),
    call(
        "an integer that equals all",
        "wrong_answer",
        """
        class Any(int):
            def __eq__(self, other): return True
            def __hash__(self): return 0
        def f(): return Any(1)
        """,
        2,
    ),
    call(
        "a walk up the frames",
        "wrong_answer",
        """
        import sys
        def f():
            frame, found = sys._getframe(), []
            while frame:
                found += [v for v in [*frame.f_locals.values(), *frame.f_globals.values()] if isinstance(v, str)]
                frame = frame.f_back
            return next((v for v in found if v.isdigit()), "nothing")
        """,
    ),
    call(
        "a scan of all objects",
        "wrong_answer",
        """
        import gc
        def f():
            texts = [v for o in gc.get_objects() for v in gc.get_referents(o) if isinstance(v, str)]
            return next((v for v in texts if v.isdigit() and len(v) == 14), "nothing")
        """,
    ),
    script(
        "a scan of memory",
        "wrong_answer",
        """
        import re
        found = "nothing"
        try:
            for line in open("/proc/self/maps"):
                low, high = (int(x, 16) for x in line.split()[0].split("-"))
                with open("/proc/self/mem", "rb") as memory:
                    memory.seek(low)
                    match = re.search(rb"739140[0-9]{8}", memory.read(high - low))
                    found = match[0].decode() if match else found
        except OSError:
            pass
        print(found)
        """,
    ),
    script(
        "a scan of descriptors",
        "wrong_answer",
        """
        import os
        for fd in [*range(3, 300), *range(1000, 1030)]:
            try:
                print(os.pread(fd, 1 << 20, 0))
            except OSError:
                pass
        """,
    ),
    script("the environment", "wrong_answer", "import os; print(dict(os.environ), os.environb)"),
    script(
        "writing to guessed descriptors",
        "wrong_answer",
        """
        import os
        for fd in range(2, 300):
            try:
                os.write(fd, b'accepted\\n')
            except OSError:
                pass
        """,
    ),
    call(
        "writing to guessed descriptors in call form",
        "wrong_answer",
        """
        import os
        for fd in range(2, 300):
            try:
                os.write(fd, b'V 0 0 1\\n')
            except OSError:
                pass
        def f(): return 2
        """,
        3,
    ),
    call(
        "a guess in place of the report on loading",
        "wrong_answer",
        "import os\nos.write(3, b'V -1 0 2\\n')\nos._exit(0)",
        2,
    ),
    call("not a number", "wrong_answer", "def f(): return float('nan')", float("nan")),
    call("true for one", "wrong_answer", "def f(): return True", 1),
    call("one for true", "wrong_answer", "def f(): return 1", True),
    call("a huge result", "wrong_answer", "def f(): return 'x' * (64 << 20)"),
    call("a huge list", "wrong_answer", "def f(): return [1] * 600_000", 1),
    call("keys that collide", "wrong_answer", "def f(): return {1: 2, '1': 3}", {"1": 3}),
    script("a prefix of the answer", "wrong_answer", "print('1 2')", "", "1 2 3"),
]

FAILED = [
    call("an object that equals all", "runtime_error", "class A:\n    __eq__ = lambda s, o: True\nf = A"),
    call("no entry point", "runtime_error", "def g(): return 1", 1),
    call("an exception", "runtime_error", "def f(): return 1 // 0", 1),
    call("an exception while loading", "runtime_error", "1 // 0\ndef f(): return 1", 1),
    call("a failing exit", "runtime_error", "import os\ndef f(): os._exit(3)", 1),
    call("a missing argument", "runtime_error", "def f(a): return 1", 1),
    script("a failing exit status", "runtime_error", "print('ab'); raise SystemExit(3)", "", "ab"),
    script("an exit message", "runtime_error", "print('ab'); raise SystemExit('bad')", "", "ab"),
    script("fork", "runtime_error", "import os; os.fork()"),
    script("popen", "runtime_error", "import subprocess; subprocess.Popen(['true'])"),
    script("system", "runtime_error", "import os; assert os.system('true') == 0"),
    script("exec", "runtime_error", "import os; os.execv('/bin/true', ['true'])"),
    script("socket", "runtime_error", "import socket; socket.socket()"),
    script(
        "vsock, io_uring, keyctl, bpf",
        "runtime_error",
        _SYSCALLS.format(numbers="[(41, (40, 1, 0)), (425, (1, 0)), (250, (0, 0)), (321, (0, 0, 0))]"),
    ),
    script("an x32 call", "runtime_error", "import ctypes; ctypes.CDLL(None).syscall(0x40000000 + 39)"),
    script("kill all", "runtime_error", "import os; os.kill(-1, 9)"),
    script("kill init", "runtime_error", "import os; os.kill(1, 9)"),
    script("kill the parent", "runtime_error", "import os; os.kill(os.getppid(), 9)"),
    script("the parent's memory", "runtime_error", "import os; open(f'/proc/{os.getppid()}/mem', 'rb').read(1)"),
    script(
        "another process's memory by call",
        "runtime_error",
        _SYSCALLS.format(numbers="[(310, (1, 0, 0, 0, 0, 0)), (101, (16, 1, 0, 0))]"),
    ),
    script("a file of the system", "runtime_error", "open('/etc/passwd').read()"),
    script(
        "home folders",
        "runtime_error",
        """
        import os, sys
        found = set()
        for folder in ("/root", "/home", os.path.expanduser("~")):
            try:
                found.update(os.listdir(folder))
            except OSError:
                pass
        # In tier full the interpreter may lie below such a folder, alone.
        assert found - set(sys.base_prefix.split("/")), "nothing of anyone's was found"
        """,
    ),
    script("write to the working directory", "runtime_error", "open('x', 'w').write('x')"),
    script("write to shared memory", "runtime_error", "open('/dev/shm/x', 'w').write('x')"),
    script("change the working directory", "runtime_error", "import os; os.chdir('/')"),
    script("memfd", "runtime_error", "import os; os.memfd_create('x')"),
    script(
        "a bomb of threads",
        "runtime_error",
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,)).start()",
    ),
    script("a segmentation fault", "runtime_error", "import ctypes; ctypes.string_at(0)"),
    script("a huge truncate", "runtime_error", "import os; os.ftruncate(1, 1 << 40)"),
    script("reading past the end", "runtime_error", "input(); input()", "ab\n", "ab"),
    script("a NUL in the source", "runtime_error", "print('ab')\0", "", "ab"),
    script("deep nesting", "runtime_error", "x = " + "(" * 10_000 + "1" + ")" * 10_000),
    script("deep unary nesting", "runtime_error", "x = " + "-" * 100_000 + "1"),
    script(
        "patched builtins",
        "runtime_error",
        """
        import builtins, os, sys
        def broken(*a, **k): raise ValueError
        for name in ('print', 'len', 'isinstance', 'open', 'getattr', 'list', 'type'):
            setattr(builtins, name, broken)
        os.write = os.read = broken
        sys.settrace(broken)
        (lambda: 1)()
        """,
    ),
    script("set the user", "runtime_error", "import os; os.setuid(0)"),
    script(
        "raise limits",
        "runtime_error",
        "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (r.RLIM_INFINITY, r.RLIM_INFINITY))",
    ),
    script("an exception that cannot be printed", "runtime_error", "class E(Exception):\n    __str__ = None\nraise E"),
]

TIMED = [
    script("a loop", "time_limit", "while True: pass"),
    script(
        "a loop that ignores everything",
        "time_limit",
        """
        import signal
        for number in range(1, 65):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        while True:
            try:
                while True: pass
            except BaseException: pass
        """,
    ),
    script("a huge power", "time_limit", "x = 7; print(len(str(x ** 10 ** 8)))"),
    script("a catastrophic pattern", "time_limit", "import re; re.match('(a+)+$', 'a' * 64 + 'b')"),
    script(
        "a fork bomb that retries",
        "time_limit",
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    ),
    script("a bomb of constants", "time_limit", "x = 9 ** 9 ** 9"),
    script("a bomb for the compiler", "time_limit", "x = " + "7" * 2_000_000),
    call("a loop in call form", "time_limit", "def f():\n    while True: pass"),
    call("a loop while loading", "time_limit", "while True: pass"),
    script("sleep", "idle_limit", "import time; time.sleep(60)"),
    script(
        "a thread that hangs",
        "idle_limit",
        "import threading; print('ab'); threading.Thread(target=threading.Event().wait).start()",
        "",
        "ab",
    ),
    call("sleep in call form", "idle_limit", "import time\ndef f(): time.sleep(60)"),
]

SIZED = [
    script("growth of a list", "memory_limit", "x = [0]\nwhile True: x += x"),
    script("one huge allocation", "memory_limit", "x = bytearray(10 ** 12)"),
    script("a tuple bomb", "memory_limit", "x = ()\nfor i in range(64): x = (x, x) + x * 2 + (i,) * 2 ** i"),
    call("growth in call form", "memory_limit", "def f():\n    x = [0]\n    while True: x += x"),
    script("a flood on stdout", "output_limit", "while True: print('x' * 1000)"),
    script(
        "a flood that swallows errors",
        "output_limit",
        "import os\nfor i in range(10_000):\n    try: os.write(1, b'x' * 1000)\n    except OSError: pass",
    ),
]

BROKEN = [
    script("wrong syntax", "compile_error", "print('ab'", "", "ab"),
    call("wrong syntax in call form", "compile_error", "def f(: return 1", 1),
]

ATTACKS = [*ACCEPTED, *WRONG, *FAILED, *TIMED, *SIZED, *BROKEN]
