"""Back-pressure, cancellation, closing and forking: what happens to work that has not been done yet."""

from __future__ import annotations

import concurrent.futures
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.records import Judgement, TestCase, Verdict
from sandbox.limits import Limits
from sandbox.pool import Pool, SandboxConfig, Submission
from sandbox.processes import descendants
from tests.sandbox.processes import remaining

TESTS = (TestCase("1", "1"),)
LONG = Limits(wall_seconds=60)


def sleeper(name: str, seconds: float = 60) -> Submission:
    return Submission(name, f"import time; time.sleep({seconds}); print(1)  # {name}", TESTS, limits=LONG)


def quick(name: str) -> Submission:
    return Submission(name, f"print(1)  # {name}", TESTS)


def small_pool(queue: int, cache_entries: int = 100) -> Pool:
    config = SandboxConfig(workers=1, isolation="trusted", queue=queue, cache_entries=cache_entries)
    return Pool(config)


@pytest.fixture
def full() -> Iterator[Pool]:
    """A pool whose worker has two sleeping programs and whose queue of two is full."""
    with small_pool(2) as pool:
        first = [pool.submit(sleeper(f"given {i}")) for i in range(2)]
        wait_until(lambda: all(future.running() for future in first))
        for i in range(2):
            pool.submit(sleeper(f"waits {i}"))
        yield pool


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def in_thread(pool: Pool, submission: Submission) -> tuple[threading.Thread, list[object]]:
    """Submits in another thread; the list gets the future or the error."""
    outcome: list[object] = []

    def submit() -> None:
        try:
            outcome.append(pool.submit(submission))
        except UserError as error:
            outcome.append(error)

    thread = threading.Thread(target=submit, daemon=True)
    thread.start()
    return thread, outcome


def test_submit_waits_while_the_queue_is_full() -> None:
    with small_pool(2) as pool:
        futures = [pool.submit(sleeper(f"{i}", 0.6)) for i in range(2)]
        wait_until(lambda: all(future.running() for future in futures))
        start = time.monotonic()
        futures += [pool.submit(quick(f"{i}")) for i in range(2)]
        assert time.monotonic() - start < 0.4
        futures.append(pool.submit(quick("last")))
        assert futures[0].done()
        assert all(future.result().accepted for future in futures)


def test_closing_wakes_who_waits_in_submit(full: Pool) -> None:
    thread, outcome = in_thread(full, quick("no place"))
    thread.join(0.3)
    assert thread.is_alive() and not outcome
    full.close()
    thread.join(10)
    [error] = outcome
    assert isinstance(error, UserError) and "closed" in str(error)


def test_known_and_equal_submissions_need_no_place(full: Pool) -> None:
    thread, outcome = in_thread(full, sleeper("waits 0"))
    thread.join(10)
    assert isinstance(outcome[0], concurrent.futures.Future)


def test_callbacks_may_submit_when_the_queue_is_full() -> None:
    with small_pool(1) as pool:
        more: list[concurrent.futures.Future[Judgement]] = []
        done = threading.Event()

        def submit_more(future: object) -> None:
            more.extend(pool.submit(quick(f"more {i}")) for i in range(5))
            done.set()

        pool.submit(sleeper("first", 0.2)).add_done_callback(submit_more)
        futures = [pool.submit(quick(f"{i}")) for i in range(5)]
        assert done.wait(20)
        assert all(future.result(20).accepted for future in [*futures, *more])


def test_judge_takes_its_submissions_lazily() -> None:
    taken, ahead = 0, 0
    with small_pool(3, cache_entries=0) as pool:
        finished = 0

        def submissions() -> Iterator[Submission]:
            nonlocal taken, ahead
            for i in range(60):
                taken += 1
                ahead = max(ahead, taken - pool.executions)
                yield quick(f"{i}")

        judgements = pool.judge(submissions())
        finished = sum(judgement.accepted for judgement in judgements)
    assert finished == 60
    assert ahead <= 3 + 2 + 2  # waiting, with the worker, the next one and one that is being counted


def test_judge_cancels_what_it_submitted_when_a_submission_is_wrong(full: Pool) -> None:
    before = full.executions
    with pytest.raises(UserError, match="no tests"):
        full.judge([sleeper("waits 1"), Submission("empty", "1")])
    assert full.executions == before


def test_a_cancelled_one_of_equal_submissions_leaves_their_place_to_the_other(full: Pool) -> None:
    waiting = full.submit(sleeper("waits 0"))  # joins the one in the fixture
    assert waiting.cancel() and waiting.cancelled()
    # The one of the fixture still wants it, so its place is still taken.
    thread, _ = in_thread(full, quick("no place"))
    thread.join(0.3)
    assert thread.is_alive()


def test_cancelling_all_equal_ones_gives_up_their_place_and_runs_nothing() -> None:
    with small_pool(1) as pool:
        given = [pool.submit(sleeper(f"{i}", 0.5)) for i in range(2)]
        wait_until(lambda: all(future.running() for future in given))
        waiting = [pool.submit(quick("same")) for _ in range(3)]
        thread, outcome = in_thread(pool, quick("other"))
        thread.join(0.1)
        assert thread.is_alive()
        assert all(future.cancel() for future in waiting)
        thread.join(0.25)
        assert not thread.is_alive() and not given[0].done()
        [other] = outcome
        assert isinstance(other, concurrent.futures.Future) and other.result(20).accepted
        assert pool.executions == 3
        assert pool.submit(quick("same")).result(20).accepted  # nothing is left of the cancelled run
        assert pool.executions == 4


def test_only_the_cancelled_one_of_equal_submissions_is_cancelled() -> None:
    with small_pool(4) as pool:
        given = [pool.submit(sleeper(f"{i}", 0.3)) for i in range(2)]
        one, two = pool.submit(quick("same")), pool.submit(quick("same"))
        assert one.cancel()
        assert two.result(20).accepted and all(future.result().accepted for future in given)


def test_a_running_program_cannot_be_cancelled() -> None:
    with small_pool(4) as pool:
        future = pool.submit(sleeper("running", 0.3))
        wait_until(future.running)
        joined = pool.submit(sleeper("running", 0.3))
        assert not future.cancel() and not joined.cancel()
        assert future.result().accepted and joined.result().accepted


def test_closing_ends_sleeping_programs_at_once(full: Pool) -> None:
    waiting = full.submit(sleeper("waits 0"))
    below = set(full.processes()) | descendants(full.processes()[0])
    start = time.monotonic()
    full.close()
    assert time.monotonic() - start < 5
    assert waiting.result(1).verdict is Verdict.INFRA_ERROR
    assert not remaining(below, 3.0)


def test_a_forked_process_is_told_to_open_its_own() -> None:
    code = """
import os, sys
from o1coder_jax.errors import UserError
from o1coder_jax.records import TestCase
from sandbox.pool import Pool, SandboxConfig, Submission
submission = Submission("s", "print(1)", (TestCase("", "1"),))
with Pool(SandboxConfig(workers=1, isolation="trusted")) as pool:
    child = os.fork()
    if child == 0:
        try:
            with pool:
                pool.submit(submission)
        except UserError as error:
            print(error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print(pool.submit(submission).result().verdict)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    error, verdict = done.stdout.splitlines()
    assert "open one in this process" in error and verdict == "accepted"


def test_ctrl_c_in_a_script_closes_quickly() -> None:
    code = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from o1coder_jax.records import TestCase
from sandbox.limits import Limits
from sandbox.pool import Pool, SandboxConfig, Submission
codes = [f"import time; time.sleep(50)  # {i}" for i in range(20)]
with Pool(SandboxConfig(workers=2, isolation="trusted", queue=4)) as pool:
    print("up", flush=True)
    pool.judge(Submission("s", code, (TestCase("", "1"),), limits=Limits(wall_seconds=60)) for code in codes)
"""
    script = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert script.stdout is not None and script.stdout.readline() == b"up\n"
    wait_until(lambda: len(descendants(script.pid)) >= 8)
    below = descendants(script.pid)
    start = time.monotonic()
    os.kill(script.pid, signal.SIGINT)
    _, err = script.communicate(timeout=30)
    assert time.monotonic() - start < 10
    assert err.rstrip().endswith(b"KeyboardInterrupt") and err.count(b"Traceback") == 1
    assert not remaining(below, 3.0)


def test_many_threads_that_submit_and_cancel_get_right_verdicts() -> None:
    wrong: list[str] = []

    def work(seed: int) -> None:
        draw = random.Random(seed)
        mine = []
        for _ in range(60):
            code = f"print(input())  # {draw.randrange(20)}"
            tests = tuple(
                TestCase(str(i), "7" if i == 3 else str(i)) for i in draw.sample(range(5), draw.randint(1, 5))
            )
            future = pool.submit(Submission("s", code, tests, stop_at_failure=draw.random() < 0.5))
            mine.append((future, any(test.input == "3" for test in tests)))
            if draw.random() < 0.4:
                draw.choice(mine)[0].cancel()
        for future, fails in mine:
            if not future.cancelled() and future.result(60).accepted == fails:
                wrong.append(str(future.result()))

    with small_pool(3, cache_entries=30) as pool:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not wrong
        assert pool.submit(quick("after")).result(20).accepted
        assert pool.metrics()["infra_errors"] == 0
