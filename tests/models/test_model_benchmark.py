"""The benchmarks of models: their sides answer as the protocol says, and the accelerator's functions work in small."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path

import jax
import pytest

from benchmarks import gpu, model_ours, models
from benchmarks.asked import Asked
from o1coder_jax.errors import UserError

SIZES = {"vocabulary": 24, "rows": 2, "length": 16, "prompts": 2, "prompt": 5, "new": 3}
TOY = dataclasses.replace(gpu.QWEN, width=16, layers=1, heads=2, kv_heads=1, head_size=8, mlp_width=16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model_ours.write(tmp_path, **SIZES)
    return tmp_path


def test_our_side_counts_every_token(folder: Path) -> None:
    side = model_ours.Ours(folder, 1)
    whole, first = side.train("1", 2)
    assert whole == 2 * 2 * 16
    assert side.train("2", 1)[1] == pytest.approx(first, abs=1e-5)  # microbatches: the same loss
    assert side.generate("-", 1)[0] == 2 * 3


def scripted_side(answers: str) -> models.Start:
    program = f"print(0.0, 'v', flush=True)\nfor what in __import__('sys').stdin: {answers}"
    return models.Start("fake", (sys.executable, "-c", program))


def test_of_all_ways_the_fastest_is_taken(folder: Path) -> None:
    slow = "__import__('time').sleep(0.05 * what.count('slow')); print(100, 0.1, 1.5, flush=True)"
    rival = models.Rival("fake", (scripted_side(slow),), {"train": ("slow", "fast", "slow-slow")})
    _, kind, rate, loss, versions = models.trial(rival, "train", folder)
    assert (kind, loss, versions) == ("fast", 1.5, "v") and rate["fake, slow"] > rate["fake, slow-slow"]


def state_of(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]


def test_a_side_rests_while_it_is_not_asked() -> None:
    spins = "import threading\nthreading.Thread(target=lambda: [0 for _ in iter(int, 1)], daemon=True).start()\n"
    side = Asked(
        [sys.executable, "-c", f"{spins}print(1, flush=True)\nfor what in open(0): print(what.strip(), flush=True)"], {}
    )
    assert (side.first, side.ask("2"), side.ask("3")) == ("1", "2", "3")
    until = time.monotonic() + 20
    while state_of(side._process.pid) != "T" and time.monotonic() < until:
        time.sleep(0.01)
    assert state_of(side._process.pid) == "T"
    side.close()


def test_another_model_is_refused(folder: Path) -> None:
    ours, other = (
        models.Rival(name, (scripted_side(f"print(1, 0.1, {loss}, flush=True)"),), {"train": ("1",)})
        for name, loss in (("ours", 2.0), ("torch", 2.5))
    )
    with pytest.raises(UserError, match="its loss of the first batch is 2"):
        models.compare("train", ours, other, folder, cores=1, rounds=1)


def test_figures_of_an_accelerator_in_small() -> None:
    tuned = gpu.fine_tuning(TOY, 32, rows=len(jax.devices()), length=16, microbatches=1, updates=1)
    assert tuned["tokens_per_second"] > 0 and tuned["mfu"] is None and 2 < tuned["loss"] < 6
    decoded = gpu.decoding(TOY, 32, rows=2, prompt=4, new=3)
    parameters = 32 * 16 + 16 * (16 + 8 + 8) + 16 * 16 + 3 * 16 * 16 + 3 * 16 + 16 + 8 + 8  # with norms and biases
    caches = 2 * 2 * 8 * (4 + 3)  # keys and values of two rows: prompt, and new tokens
    assert decoded["bytes_a_step"] == 2 * (parameters + caches) + 2 * 4  # bf16, and which places are taken
    assert gpu.kernels(TOY, rows=1, length=16, rounds=1)["kernel_over_xla"] == 1.0  # a CPU has no other
