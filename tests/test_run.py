"""The run folder: what is committed stays, what is not is taken back, and mistakes are one line."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from o1coder_jax.errors import UserError
from train.run import METRICS, Hosts, Run
from train.run_files import read_json, write_long_json
from train.run_stages import finished_stages


@dataclasses.dataclass(frozen=True)
class Section:
    """A section."""

    width: int = 8
    rates: tuple[float, ...] = (0.1, float("inf"))


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole configuration."""

    seed: int = 0
    iterations: int = 1
    model: Section = dataclasses.field(default_factory=Section)


class Boom(Exception):
    """Stands for whatever ends a stage early."""


def work(run: Run, name: str, rows: int = 2, fail: bool = False) -> None:
    with run.stage_scope(name) as stage:
        for step in range(rows):
            stage.log(step, loss=1.0 / (step + 1))
        stage.append("process.jsonl", [{"stage": name, "row": row} for row in range(rows)])
        stage.result["rows"] = rows
        if fail:
            raise Boom


def open_run(folder: Path, **options) -> Run:
    return Run.open(folder, Config(), **options)


def refusal(folder: Path, config: Config | None = None, **options) -> str:
    with pytest.raises(UserError) as caught:
        Run.open(folder, config or Config(), **options)
    return str(caught.value)


def events(folder: Path) -> list[Event]:
    """Scalars of all event files below a folder, in the record format of TensorFlow."""
    found = []
    for path in sorted(folder.rglob("events.*")):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return [event for event in found if event.HasField("summary")]


# What is kept.


def test_finished_stage_is_found_again(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        work(run, "bootstrap")
    with open_run(tmp_path / "r") as run:
        assert run.stage("bootstrap") == {"rows": 2}


def test_stage_that_never_ran_is_none(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        assert run.stage("bootstrap") is None


def test_results_are_in_the_order_of_work(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        for name in ("tcg", "bootstrap", "001-sft"):
            work(run, name)
        assert list(run.results()) == ["tcg", "bootstrap", "001-sft"]


def test_rows_are_read_in_the_order_of_work(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        work(run, "a", rows=1)
        work(run, "b", rows=2)
        assert [(row["stage"], row["row"]) for row in run.read("process.jsonl")] == [("a", 0), ("b", 0), ("b", 1)]


def test_rows_of_a_stage_under_way_are_not_read(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        work(run, "a")
        with run.stage_scope("b") as stage:
            stage.append("process.jsonl", [1, 2, 3])
            assert len(list(run.read("process.jsonl"))) == 2


def test_record_file_that_nobody_wrote_is_empty(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        assert list(run.read("process.jsonl")) == []


def test_metrics_carry_their_stage_and_step(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        work(run, "a", rows=1)
        (row,) = run.read(METRICS)
    assert {key: row[key] for key in ("stage", "step", "loss")} == {"stage": "a", "step": 0, "loss": 1.0}


def test_numbers_of_jax_and_numpy_are_plain_in_the_metrics(tmp_path: Path):
    with open_run(tmp_path / "r") as run, run.stage_scope("a") as stage:
        stage.log(0, a=jnp.float32(0.5), b=np.int64(3), c=jnp.asarray(2), d=None)
    row = json.loads((tmp_path / "r" / METRICS).read_text())
    assert {key: row[key] for key in "abcd"} == {"a": 0.5, "b": 3, "c": 2, "d": None}


def test_numbers_that_are_not_finite_are_null(tmp_path: Path):
    def refuse(constant: str):
        raise AssertionError(f"{constant} is no JSON")

    with open_run(tmp_path / "r") as run, run.stage_scope("a") as stage:
        stage.log(0, loss=float("nan"), norm=float("inf"))
        stage.append("process.jsonl", [{"value": [float("-inf")]}])
        stage.result["loss"] = float("nan")
    for name in (METRICS, "process.jsonl", "stages/a.json"):
        json.loads((tmp_path / "r" / name).read_text(), parse_constant=refuse)


def test_long_lists_take_a_line_each(tmp_path: Path):
    value = {"name": "a", "marks": list(range(1000)), "points": [{"rate": float("nan")}], "empty": {}}
    write_long_json(tmp_path / "one.json", value)
    assert read_json(tmp_path / "one.json") == {**value, "points": [{"rate": None}]}
    assert len((tmp_path / "one.json").read_text().splitlines()) == len(value) + 2


def test_events_repeat_the_metrics(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        work(run, "a", rows=2)
    found = [(e.step, e.summary.value[0].tag, e.summary.value[0].simple_value) for e in events(tmp_path / "r")]
    assert found == [(0, "loss", 1.0), (1, "loss", 0.5)]


def test_metric_may_not_take_the_name_of_a_column(tmp_path: Path):
    with (
        open_run(tmp_path / "r") as run,
        pytest.raises(ValueError, match="seconds"),
        run.stage_scope("a") as stage,
    ):
        stage.log(0, seconds=3.0)


def test_environment_tells_versions_devices_and_facts(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        run.add_facts(isolation="namespaces")
    found = json.loads((tmp_path / "r" / "environment.json").read_text())
    assert found["packages"]["jax"] and found["devices"] == {"cpu": 1} and found["isolation"] == "namespaces"


def test_fact_that_changes_between_sessions_keeps_its_old_value(tmp_path: Path):
    for tier in ("namespaces", "landlock"):
        with open_run(tmp_path / "r") as run:
            run.add_facts(isolation=tier)
    found = json.loads((tmp_path / "r" / "environment.json").read_text())
    assert (found["isolation"], found["earlier"]) == ("landlock", [{"isolation": "namespaces"}])


def test_summary_is_written(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        run.write_summary({"accuracy": np.float64(0.5)})
    assert json.loads((tmp_path / "r" / "summary.json").read_text()) == {"accuracy": 0.5}


# What is taken back.


def test_failed_stage_leaves_no_lines_when_redone(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        work(run, "a")
        with pytest.raises(Boom):
            work(run, "b", rows=5, fail=True)
        work(run, "b", rows=3)
    assert len((tmp_path / "r" / METRICS).read_text().splitlines()) == 5
    assert len((tmp_path / "r" / "process.jsonl").read_text().splitlines()) == 5
    assert len(events(tmp_path / "r")) == 5


def test_file_that_only_a_failed_stage_wrote_is_emptied(tmp_path: Path):
    with open_run(tmp_path / "r") as run, pytest.raises(Boom):
        work(run, "a", fail=True)
    open_run(tmp_path / "r").close()
    assert (tmp_path / "r" / "process.jsonl").read_text() == ""


def test_files_of_others_are_left_alone(tmp_path: Path):
    open_run(tmp_path / "r").close()
    (tmp_path / "r" / "notes.jsonl").write_text("1\n")
    open_run(tmp_path / "r").close()
    assert (tmp_path / "r" / "notes.jsonl").read_text() == "1\n"


_KILLED = """
import os, signal, sys
from tests.test_run import Config, work
from train.run import Run
run = Run.open(sys.argv[1], Config())
work(run, "a")
with run.stage_scope("b") as stage:
    stage.log(0, loss=1.0)
    stage.append("process.jsonl", [1, 2, 3])
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_run_goes_on_as_if_it_had_not_been(tmp_path: Path):
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path / "r")])
    assert killed.returncode == -signal.SIGKILL
    assert len((tmp_path / "r" / "process.jsonl").read_text().splitlines()) == 5
    for folder in (tmp_path / "r", tmp_path / "whole"):
        with open_run(folder) as run:
            for name in ("a", "b"):
                if run.stage(name) is None:
                    work(run, name)
    assert (tmp_path / "r" / "process.jsonl").read_text() == (tmp_path / "whole" / "process.jsonl").read_text()


def test_rewound_stage_and_all_after_it_are_to_do_again(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        for name in "abc":
            work(run, name)
        run.rewind("b")
        assert list(run.results()) == ["a"] and len(list(run.read("process.jsonl"))) == 2
        work(run, "b", rows=1)
        assert len((tmp_path / "r" / "process.jsonl").read_text().splitlines()) == 3


def test_rewinding_what_is_not_finished_names_what_is(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        work(run, "a")
        with pytest.raises(UserError, match="no finished stage b; it has a"):
            run.rewind("b")


def test_finished_stage_is_not_begun_again(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        work(run, "a")
        with pytest.raises(UserError, match=r"stage a of .* is finished"):
            work(run, "a")


def test_stages_do_not_overlap(tmp_path: Path):
    with open_run(tmp_path / "r") as run, run.stage_scope("a"), pytest.raises(RuntimeError, match="a is under way"):
        work(run, "b")


# Opening.


def test_other_configuration_names_the_keys_that_differ(tmp_path: Path):
    open_run(tmp_path / "r").close()
    message = refusal(tmp_path / "r", Config(seed=1, model=Section(width=9)))
    assert "seed = 0 there and 1 now, model.width = 8 there and 9 now; " in message


def test_refused_configuration_changes_nothing(tmp_path: Path):
    open_run(tmp_path / "r").close()
    before = (tmp_path / "r" / "config.yaml").read_text()
    refusal(tmp_path / "r", Config(seed=1))
    assert (tmp_path / "r" / "config.yaml").read_text() == before


def test_named_keys_may_differ(tmp_path: Path):
    open_run(tmp_path / "r").close()
    Run.open(tmp_path / "r", Config(iterations=5, model=Section(width=9)), may_differ=["iterations", "model"]).close()
    assert "iterations: 5" in (tmp_path / "r" / "config.yaml").read_text()


def test_fresh_run_starts_from_nothing(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        work(run, "a")
    with Run.open(tmp_path / "r", Config(seed=1), fresh=True) as run:
        assert run.results() == {}
        assert sorted(path.name for path in run.folder.iterdir()) == [".lock", "config.yaml", "environment.json"]


def test_fresh_run_removes_nothing_that_is_no_run(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "holds thesis.tex but no run" in refusal(tmp_path, fresh=True)
    (tmp_path / "config.yaml").write_text("title: of a thesis")
    assert "but no run" in refusal(tmp_path, fresh=True)
    assert (tmp_path / "thesis.tex").exists() and (tmp_path / "config.yaml").exists()


def test_folder_of_other_software_is_left_as_it_is(tmp_path: Path):
    (tmp_path / "tensorboard" / "of-another").mkdir(parents=True)
    assert "holds tensorboard but no run" in refusal(tmp_path)
    assert (tmp_path / "tensorboard" / "of-another").exists() and not (tmp_path / "config.yaml").exists()


@pytest.mark.parametrize("fresh", [False, True])
def test_what_a_kill_left_of_the_first_file_is_no_hindrance(tmp_path: Path, fresh: bool):
    (tmp_path / "config.yaml.part").write_text("iter")
    with Run.open(tmp_path, Config(), fresh=fresh) as run:
        work(run, "a")


@pytest.mark.parametrize("name", ["train.log", "lost+found", ".nfs0001"])
def test_file_that_no_run_would_touch_may_lie_there(tmp_path: Path, name: str):
    (tmp_path / name).write_text("mine")
    with Run.open(tmp_path, Config()) as run:
        work(run, "a")
    assert (tmp_path / name).read_text() == "mine"


def test_run_without_the_facts_of_its_machine_can_be_begun_afresh(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        work(run, "a")
    (tmp_path / "r" / "environment.json").unlink()
    with Run.open(tmp_path / "r", Config(seed=1), fresh=True) as run:
        assert run.results() == {}


def test_fresh_run_that_was_broken_off_is_begun_again(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        work(run, "a")
    for left in (["environment.json", "config.yaml"], ["config.yaml"], []):
        for path in (tmp_path / "r").iterdir():
            if path.name not in left:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        Run.open(tmp_path / "r", Config(seed=1), fresh=True).close()


def test_two_at_once_are_refused(tmp_path: Path):
    with open_run(tmp_path / "r"):
        assert f"in use by process {os.getpid()} on " in refusal(tmp_path / "r")


def test_closed_run_may_be_opened(tmp_path: Path):
    open_run(tmp_path / "r").close()
    open_run(tmp_path / "r").close()


def test_refused_run_is_let_go(tmp_path: Path):
    open_run(tmp_path / "r").close()
    refusal(tmp_path / "r", Config(seed=1))
    open_run(tmp_path / "r").close()


def test_shortened_record_file_is_said(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        work(run, "a")
    (tmp_path / "r" / "process.jsonl").write_text("")
    assert "process.jsonl has 0 bytes where a left" in refusal(tmp_path / "r")


def test_broken_stage_file_is_said(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        work(run, "a")
    (tmp_path / "r" / "stages" / "a.json").write_text("{")
    assert "stages/a.json: not JSON" in refusal(tmp_path / "r")


@pytest.mark.parametrize("text", ["[]", '{"name": "a", "mood": "good"}'])
def test_stage_file_of_another_kind_is_said(tmp_path: Path, text: str):
    with open_run(tmp_path / "r") as run:
        work(run, "a")
    (tmp_path / "r" / "stages" / "a.json").write_text(text)
    assert "stages/a.json tells of no stage (" in refusal(tmp_path / "r")


def test_stage_whose_file_was_removed_is_done_again_behind_the_others(tmp_path: Path):
    with open_run(tmp_path / "r") as run:
        for name in "abc":
            work(run, name)
    (tmp_path / "r" / "stages" / "a.json").unlink()
    with open_run(tmp_path / "r") as run:
        work(run, "a", rows=1)
    with open_run(tmp_path / "r") as run:
        assert [stage.order for stage in finished_stages(run.folder)] == [1, 2, 3]
        assert list(run.results()) == ["b", "c", "a"] and len(list(run.read("process.jsonl"))) == 7


def test_file_in_place_of_the_folder_is_said(tmp_path: Path):
    (tmp_path / "r").write_text("")
    assert refusal(tmp_path / "r").startswith(f"cannot write {tmp_path}/r: ")


# The disk and the keyboard.

_ENDED = """
import sys
from o1coder_jax.errors import run_command
from tests.test_run import Config, work
from train.run import Run

def main():
    with Run.open(sys.argv[1], Config()) as run:
        if run.stage("a") is None:
            work(run, "a")
        with run.stage_scope("b") as stage:
            if sys.argv[2] == "interrupt":
                raise KeyboardInterrupt
            while True:
                stage.append("process.jsonl", ["x" * 1000] * 100)

run_command(main)
"""


def test_full_disk_is_one_line_and_loses_nothing(tmp_path: Path):
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here: unshare -rm fails")
    script = (
        f'mount -t tmpfs -o size=1m none {tmp_path} && {sys.executable} -c "$0" {tmp_path}/r full; '
        f"echo $?; cat {tmp_path}/r/stages/a.json; head -c 300 {tmp_path}/r/process.jsonl"
    )
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script, _ENDED], capture_output=True, text=True)
    assert done.stderr == (
        f"error: cannot write {tmp_path}/r/process.jsonl: No space left on device; free space or mend the folder, "
        "then give the same command again: what was finished is kept\n"
    )
    assert done.stdout.startswith("2\n") and '"name": "a"' in done.stdout and '{"stage": "a", "row": 1}' in done.stdout


def test_interrupt_is_one_line_and_status_130(tmp_path: Path):
    command = [sys.executable, "-c", _ENDED, str(tmp_path / "r"), "interrupt"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 130 and len(done.stderr.splitlines()) == 1
    with open_run(tmp_path / "r") as run:
        assert list(run.results()) == ["a"]


# Several processes. Those after the first wait for it at each barrier, so the test takes their turns in order.


def hosts(process: int, processes: int = 2) -> Hosts:
    return Hosts(process, processes, lambda name: None)


def test_records_of_all_hosts_are_read(tmp_path: Path):
    with open_run(tmp_path / "r", hosts=hosts(0)) as first, open_run(tmp_path / "r", hosts=hosts(1)) as second:
        work(second, "a", rows=1)
        work(first, "a", rows=2)
        assert [row["row"] for row in second.read("process.jsonl")] == [0, 1, 0]


def test_stage_is_unfinished_until_the_first_process_says_so(tmp_path: Path):
    with open_run(tmp_path / "r", hosts=hosts(0)) as first, open_run(tmp_path / "r", hosts=hosts(1)) as second:
        work(second, "a")
        assert second.stage("a") is None and list(first.read("process.jsonl")) == []


def test_host_that_got_further_than_the_first_takes_its_rows_back(tmp_path: Path):
    with open_run(tmp_path / "r", hosts=hosts(0)) as first, open_run(tmp_path / "r", hosts=hosts(1)) as second:
        work(second, "a", rows=5)  # and now the first is killed
    with open_run(tmp_path / "r", hosts=hosts(0)) as first, open_run(tmp_path / "r", hosts=hosts(1)) as second:
        work(second, "a", rows=1)
        work(first, "a", rows=1)
        assert len(list(first.read("process.jsonl"))) == 2


def test_rows_of_a_host_that_is_gone_do_not_come_back(tmp_path: Path):
    with open_run(tmp_path / "r", hosts=hosts(0)), open_run(tmp_path / "r", hosts=hosts(1)) as second:
        work(second, "a", rows=5)
    with open_run(tmp_path / "r", hosts=hosts(0, 1)) as alone:
        work(alone, "a", rows=1)
        assert len(list(alone.read("process.jsonl"))) == 1


def test_only_the_first_process_logs(tmp_path: Path):
    with open_run(tmp_path / "r", hosts=hosts(0)) as first, open_run(tmp_path / "r", hosts=hosts(1)) as second:
        work(second, "a")
        work(first, "a")
        assert len(list(first.read(METRICS))) == 2


# Progress.


def test_progress_off_a_terminal_is_a_plain_line(tmp_path: Path, capsys):
    with open_run(tmp_path / "r") as run, run.stage_scope("a") as stage, stage.progress(4, "trees") as bar:
        bar.advance(3, note="depth 2")
    assert capsys.readouterr().out.startswith("a trees: 3/4 in ")
