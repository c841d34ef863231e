"""Programs that import numpy: they find it preloaded, and it opens no way out."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib.util

import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.records import TestCase, Verdict
from sandbox import isolation, selftest, worker
from sandbox.attacks import ATTACKS, Attack
from sandbox.pool import Pool, SandboxConfig, Submission
from sandbox.session import Work
from tests.sandbox.test_attacks import IDLE_SECONDS, LIMITS

pytestmark = pytest.mark.skipif(importlib.util.find_spec("numpy") is None, reason="numpy is not installed")

USES = {
    "solve": ("print(np.linalg.solve(np.eye(2) * 2, np.ones(2)).tolist())", "[0.5, 0.5]"),
    "product": ("a = np.ones((600, 600)); print(int((a @ a).sum()))", "216000000"),
    "generator": ("print(np.random.default_rng(3).integers(0, 10, 3).shape)", "(3,)"),
    "fft": ("print(np.fft.fft([1, 2]).real.tolist())", "[3.0, -1.0]"),
    "sort": ("print(np.sort([3, 1, 2]).tolist(), np.unique([1, 1]).size)", "[1, 2, 3] 1"),
    "decomposition": ("print(round(float(np.linalg.svd(np.ones((9, 9)))[1][0]), 6))", "9.0"),
    "polynomial": ("print(np.polynomial.Polynomial([1, 2])(3))", "7.0"),
    "masked": ("print(np.ma.masked_equal([1, 2], 1).sum())", "2"),
    "testing": ("np.testing.assert_allclose([1.0], [1.0]); print('same')", "same"),
    "reading": ("import sys; print(np.loadtxt(sys.stdin).sum())", "3.0"),
    "bytes": ("import sys; print(np.fromstring(sys.stdin.read(), sep=' ').sum())", "3.0"),
}

ESCAPES = {
    "fromfile": "np.fromfile('/etc/passwd', np.uint8)",
    "load": "np.load('/etc/passwd', allow_pickle=True)",
    "memmap": "np.memmap('/etc/passwd', mode='r')",
    "save": "np.save('/tmp/o1coder-numpy', np.ones(3))",
    "ctypeslib": "np.ctypeslib.load_library('/etc/passwd', '/')",
    "fork": "import os; os.fork()",
    "command": "import ctypes; assert np.ctypeslib.ctypes.CDLL(None).system(b'true') == 0; raise SystemExit(0)",
    "memory": "np.frombuffer((np.ctypeslib.ctypes.c_char * 8).from_address(8), np.uint8).sum()",
}


def code_with(statement: str) -> str:
    return f"import numpy as np\n{statement}\n"


@pytest.mark.parametrize("name", USES)
def test_numpy_works(pool: Pool, name: str) -> None:
    statement, output = USES[name]
    [judgement] = pool.judge([Submission(name, code_with(statement), (TestCase("1 2", output),))])
    assert judgement.accepted, judgement


@pytest.mark.parametrize("name", ESCAPES)
def test_numpy_is_no_way_out(pool: Pool, name: str) -> None:
    [(result, _)] = pool.outputs(code_with(ESCAPES[name]), [""])
    assert result.verdict is Verdict.RUNTIME_ERROR, result


@pytest.fixture(scope="module")
def verdicts_beside_numpy(pool: Pool) -> dict[str, str]:
    """Verdict of each attack in a process that has numpy loaded."""
    attacks = [attack.submission(LIMITS, IDLE_SECONDS) for attack in ATTACKS]
    judged = [dataclasses.replace(attack, code=attack.code + "\n# numpy") for attack in attacks]
    return {s.id: str(j.verdict) for s, j in zip(judged, pool.judge(judged), strict=True)}


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
def test_attack_gets_its_verdict_beside_numpy(verdicts_beside_numpy: dict[str, str], attack: Attack) -> None:
    assert verdicts_beside_numpy[attack.name] == attack.verdict


def test_memory_limit_is_above_numpy_itself(pool: Pool) -> None:
    fits, beyond = code_with("print(np.empty(200 << 17).size)"), code_with("print(np.empty(260 << 17).size)")
    [right, greedy] = pool.judge([Submission(code, code, (TestCase("", "26214400"),)) for code in (fits, beyond)])
    assert right.accepted, right
    assert greedy.verdict is Verdict.MEMORY_LIMIT, greedy


def test_numpy_values_count_as_those_of_python(pool: Pool) -> None:
    code = code_with("def f(n): return {'i': np.int64(n), 'b': np.bool_(n), 'f': np.float32(0.5), 'a': np.arange(n)}")
    cases = (TestCase([2], {"i": 2, "b": True, "f": 0.5, "a": [0, 1]}),)
    [judgement] = pool.judge([Submission("values", code, cases, "f")])
    assert judgement.accepted, judgement


def test_types_stay_strict_for_numpy_values(pool: Pool) -> None:
    code = code_with("def f(n): return np.bool_(n)")
    [judgement] = pool.judge([Submission("strict", code, (TestCase([1], 1),), "f")])
    assert judgement.verdict is Verdict.WRONG_ANSWER, judgement


@pytest.mark.parametrize("code", ["import random\nprint(random.random())", code_with("print(np.random.rand())")])
def test_random_numbers_repeat(pool: Pool, code: str) -> None:
    values = [pool.outputs(f"{code}\n# {turn}", ["", ""]) for turn in range(4)]
    assert len({value for pair in values for _, value in pair}) == 1


def test_without_landlock_numpy_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "landlock_abi", lambda: 0)
    try:
        closed = Pool(SandboxConfig(workers=1, isolation="reduced"))
    except UserError as error:
        pytest.skip(str(error))
    with closed:
        for statement, output in USES.values():
            [(result, value)] = closed.outputs(code_with(statement), ["1 2"])
            assert (value or "").strip() == output, (statement, result)


def test_site_packages_hold_nothing_but_numpy(pool: Pool) -> None:
    code = code_with("import os\nprint(os.listdir(os.path.dirname(os.path.dirname(np.__file__))))")
    [(result, value)] = pool.outputs(code, [""])
    if value is not None:  # where files are restricted by name the folder cannot be listed at all
        assert set(ast.literal_eval(value)) <= {"numpy", "numpy.libs"}
    else:
        assert "PermissionError" in result.detail or "FileNotFoundError" in result.detail


def test_not_installed_means_import_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "numpy_paths", list)
    with Pool(SandboxConfig(workers=1, isolation="trusted")) as bare:
        [(result, _)] = bare.outputs("import numpy", [""])
    assert "ModuleNotFoundError" in result.detail


def work(code: str, setup: str = "", asserts: list[str] | None = None) -> Work:
    return Work(code, None, [""], None, asserts, setup, {}, 1.0, 1.0, 1 << 28, 1 << 20, False)


def test_a_checker_finds_numpy(pool: Pool) -> None:
    checker = "import numpy as np\ndef check(input, output, expected): return bool(np.isclose(float(output), 3))"
    compare = {"mode": "checker", "checker": checker}
    [judgement] = pool.judge([Submission("s", "print(3.0)", (TestCase("", None),), compare=compare)])
    assert judgement.accepted, judgement


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        (work("try: import os, numpy as np\nexcept ImportError: pass"), True),
        (work("np = __import__('numpy')"), True),
        (work("pass", setup="import numpy as np"), True),
        (work("pass", asserts=["import numpy\nassert f()"]), True),
        (work("import random  # no numbers of numpyro"), False),
    ],
)
def test_text_that_names_numpy_asks_for_it(asked: Work, wanted: bool) -> None:
    assert worker.names_numpy(asked) is wanted


def test_self_test_says_that_numpy_is_there(capsys: pytest.CaptureFixture[str], pool: Pool) -> None:
    selftest.main()
    assert "preloaded for programs that import it" in capsys.readouterr().out


def test_self_test_says_that_numpy_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(isolation, "numpy_paths", list)
    with contextlib.suppress(UserError):
        selftest.main()
    printed = capsys.readouterr().out
    assert "numpy: programs cannot import it (ModuleNotFoundError" in printed or "attacks refused" not in printed
