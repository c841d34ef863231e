"""Attacks on the assert form, in every isolating tier that this machine can give.

The secret that tests expect is something that a program cannot compute. It stands in setup and test.
"""

from __future__ import annotations

import textwrap

import pytest

from sandbox.attacks import SECRET
from sandbox.pool import Pool, Submission

SETUP = f"SECRET = '{SECRET}'"
TEST = f"assert f() == '{SECRET}' == SECRET"

# Writes frames and lines of all kinds to a descriptor, in the harness's own form.
_FORGED = """
    import os
    def frame(text): return len(text).to_bytes(4, "little") + text
    FRAMES = [b"R", b"V[null,true]", b'V[null,"x"]', b'X[null,["e",["n","AssertionError"]],""]', b"C[0,null]", b"?"]
    LINES = b"".join(b"%b %d 0 true\\n" % (kind, index) for kind in (b"P", b"V", b"R", b"C") for index in (-1, 0))
"""

ATTACKS = {
    "an integer that equals all": (
        "wrong_answer",
        "class Any(int):\n    __eq__ = lambda s, o: True\n    __hash__ = int.__hash__\ndef f(): return Any(1)",
    ),
    "text that equals all": (
        "wrong_answer",
        "class Any(str):\n    __eq__ = lambda s, o: True\n    __hash__ = str.__hash__\ndef f(): return Any('x')",
    ),
    "an object that equals all": ("wrong_answer", "class Any:\n    __eq__ = lambda s, o: True\ndef f(): return Any()"),
    "a class that equals all": (
        "wrong_answer",
        """
        class Meta(type):
            __eq__ = lambda s, o: True
            __hash__ = type.__hash__
        class A(metaclass=Meta): pass
        def f(): return A
        """,
    ),
    "a walk up the frames": (
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
    "a scan of all objects": (
        "wrong_answer",
        """
        import gc
        def f():
            texts = [str(v) for o in gc.get_objects() for v in gc.get_referents(o) if isinstance(v, (str, bytes))]
            return next((t[t.index("739140"):][:14] for t in texts if "739140" in t), "nothing")
        """,
    ),
    "a scan of memory": (
        "wrong_answer",
        """
        import os, re
        def f():
            for pid in ("self", os.getppid(), os.getpid() + 1, os.getpid() - 1):
                try:
                    for line in open(f"/proc/{pid}/maps"):
                        low, high = (int(x, 16) for x in line.split()[0].split("-"))
                        with open(f"/proc/{pid}/mem", "rb") as memory:
                            memory.seek(low)
                            match = re.search(rb"739140[0-9]{8}", memory.read(high - low))
                            if match: return match[0].decode()
                except (OSError, ValueError, OverflowError):
                    pass
            return "nothing"
        """,
    ),
    "a scan of descriptors": (
        "wrong_answer",
        """
        import os
        def f():
            found = b""
            for fd in [*range(5), *range(7, 1030)]:
                try: found += os.pread(fd, 1 << 20, 0)
                except OSError: pass
            return found[found.index(b"739140"):][:14].decode() if b"739140" in found else "nothing"
        """,
    ),
    "a hard exit": ("wrong_answer", "import os\ndef f(): os._exit(0)"),
    "a hard exit while loading": ("wrong_answer", "import os\nos._exit(0)"),
    "an exit": ("wrong_answer", "import sys\ndef f(): sys.exit(0)"),
    "an exit while loading": ("wrong_answer", "import sys\nsys.exit(0)"),
    "a failing exit": ("runtime_error", "import os\ndef f(): os._exit(3)"),
    "a segmentation fault": ("runtime_error", "import ctypes\ndef f(): ctypes.string_at(0)"),
    "a closed line": ("runtime_error", "import os, time\ndef f(): os.closerange(5, 7) or time.sleep(60)"),
    "no frame": ("runtime_error", "import os\ndef f(): os.write(6, bytes([9, 0, 0, 0]) + b'no answer')"),
    "a frame without end": ("wrong_answer", "import os\ndef f(): os.write(6, b'\\xff' * 64)"),
    "forged frames and lines": (
        "runtime_error",
        _FORGED + "    def f(): os.write(6, b''.join(map(frame, FRAMES))), os.write(3, LINES), os._exit(0)",
    ),
    "forged frames and lines while loading": (
        "wrong_answer",
        _FORGED + "    for x in FRAMES: os.write(6, frame(x))\n    os.write(3, LINES)\n    os._exit(0)",
    ),
    "forged answers before the question": (
        "wrong_answer",
        _FORGED + "    for x in FRAMES[:3] * 3: os.write(6, frame(x))\n    def f(): return 1",
    ),
    # The tests end while it writes: that their end of the pipe is closed then must not decide the verdict.
    "forged answers without end": (
        "wrong_answer",
        _FORGED + "    os.write(6, frame(FRAMES[0]))\n    while True: os.write(6, frame(FRAMES[1]))",
    ),
    "writing to every descriptor": (
        "wrong_answer",
        _FORGED
        + """
    for fd in [2, 3, 4, 5, *range(7, 300)]:
        try: os.write(fd, LINES)
        except OSError: pass
    def f(): return 1
        """,
    ),
    "broken builtins": (
        "runtime_error",
        """
        import builtins, os
        def f():
            def broken(*a, **k): raise ValueError
            builtins.AssertionError = Exception
            for name in ("isinstance", "len", "type", "id", "map", "list", "print", "getattr"):
                setattr(builtins, name, broken)
        """,
    ),
    "another process": ("runtime_error", "import os\ndef f(): return os.fork()"),
    "a signal to the tests": (
        "runtime_error",
        "import os\ndef f():\n    for d in (1, -1): os.kill(os.getpid() + d, 9)",
    ),
    "a file": ("runtime_error", "def f(): return open('/etc/passwd').read()"),
    "sleep": ("idle_limit", "import time\ndef f(): time.sleep(60)"),
    "sleep while loading": ("idle_limit", "import time; time.sleep(60)"),
    "a loop": ("time_limit", "def f():\n    while True: pass"),
    "a loop while loading": ("time_limit", "while True: pass"),
    "growth": ("memory_limit", "def f():\n    x = [0]\n    while True: x += x"),
    "a huge value": ("wrong_answer", "def f(): return 'x' * (8 << 20)"),
    "a flood of frames": (
        "runtime_error",
        _FORGED + '    def f():\n        while True: os.write(6, frame(b\'C[0,["(",["{"],["("]]]\') * 1000)',
    ),
}
TESTS = {
    # Tests that a model wrote may attack, too.
    "a file": ("wrong_answer", "open('/etc/passwd').read()"),
    "another process": ("wrong_answer", "import os; os.fork()"),
    "a socket": ("wrong_answer", "import socket; socket.socket()"),
    "the program's memory": ("wrong_answer", "import os; open(f'/proc/{os.getppid()}/mem', 'rb').read(1)"),
    "an endless generator": ("time_limit or memory_limit", "import itertools; f(itertools.count())"),
    "sleep": ("idle_limit", "import time; time.sleep(60)"),
}


def verdict(pool: Pool, code: str, test: str) -> tuple[str, str]:
    [judgement] = pool.judge([Submission("s", textwrap.dedent(code), asserts=(test,), setup=SETUP)])
    return str(judgement.verdict), judgement.tests[0].detail


@pytest.mark.parametrize("name", ATTACKS)
def test_program_gets_its_verdict(pool: Pool, name: str) -> None:
    expected, code = ATTACKS[name]
    found, detail = verdict(pool, code, TEST)
    assert found == expected, detail


@pytest.mark.parametrize("name", TESTS)
def test_test_is_jailed_too(pool: Pool, name: str) -> None:
    expected, test = TESTS[name]
    found, detail = verdict(pool, "def f(x): return x", test)
    assert found in expected.split(" or "), detail


def test_a_standard_module_is_not_the_programs(pool: Pool) -> None:
    code = "class math:\n    isclose = lambda *a: True\ndef f(): return 1"
    assert verdict(pool, code, "assert math.isclose(f(), 2)")[0] == "wrong_answer"


def test_a_function_with_the_name_of_a_module_is_the_programs(pool: Pool) -> None:
    assert verdict(pool, "def bisect(x): return x", "assert bisect(1) == 1") == ("accepted", "")


def test_a_builtin_is_not_the_programs(pool: Pool) -> None:
    code = "def set(x): return 1\ndef sorted(x): return 1\ndef f(): return [1]"
    assert verdict(pool, code, "assert set(f()) == set([2]) or sorted(f()) == [2]")[0] == "wrong_answer"


def test_what_a_test_knows_is_found_where_it_may_be(pool: Pool) -> None:
    """The secret is what the attacks look for: a program that is told it passes."""
    assert verdict(pool, f"def f(): return '{SECRET}'", TEST) == ("accepted", "")
