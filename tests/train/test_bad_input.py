"""Bad input: one line on stderr that begins with `error:`, status 2, no traceback, and nothing computed is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.train.world import ENVIRONMENT, ROOT, TACO, Done, bare_command, command, copy_run, read_lines, results, rows


def refusal(done: Done) -> str:
    """The one line that a command with bad input prints."""
    assert done.status == 2, done
    assert done.err.startswith("error: ") and done.err.count("\n") == 1 and done.err.endswith("\n"), done.err
    return done.err.removeprefix("error: ").strip()


# The configuration.


def test_unknown_key_on_the_command_line(settings: Path):
    assert refusal(command(settings, "--search.tree", "3")) == (
        "unknown option --search.tree; did you mean --search.trees?"
    )


def test_unknown_key_in_a_file_names_the_line(tmp_path: Path):
    (tmp_path / "c.yaml").write_text("name: a\nsearch:\n  tree: 3\n")
    assert refusal(command(tmp_path / "c.yaml")) == (
        f"{tmp_path}/c.yaml, line 3: unknown key search.tree; did you mean search.trees?"
    )


@pytest.mark.parametrize("module", ["selfplay", "rl"])
def test_value_of_another_type(settings: Path, module: str):
    assert refusal(command(settings, "--search.trees", "many", module=module)) == ("search.trees = many: expected int")


OUT_OF_RANGE = [
    ("iterations", "0", "iterations is 0; it must be at least 1"),
    ("seed", "-1", "seed is -1; it must not be negative"),
    ("name", "a/b", "name is 'a/b'; give the bare name of a folder"),
    ("name", ".", "name is '.'; give the bare name of a folder"),
    ("name", "..", "name is '..'; give the bare name of a folder"),
    ("rl.samples", "1", "rl.samples is 1; a group needs 2 at least"),
    ("rl.minibatches", "999", "rl.minibatches is 999, of a round of 16 paths; it must lie between 0 and 16"),
    ("rl.minibatches", "-1", "rl.minibatches is -1, of a round of"),
    ("rl.updates", "0", "rl.updates is 0; it must be at least 1"),
    ("bootstrap.updates", "0", "bootstrap.updates is 0; it must be at least 1"),
    ("tcg.prompt_tokens", "0", "tcg.prompt_tokens is 0; it must be at least 1"),
    ("sft.paths_per_problem", "0", "sft.paths_per_problem is 0; it must be at least 1"),
    ("prm.margin", "0", "prm.margin is 0.0; it must lie in (0, 1]"),
    ("evaluate.hard_samples", "-1", "evaluate.hard_samples is -1; it must not be negative"),
    ("sft.batch.length", "4", "batch 4 x 4: rows must be at least 1 and length at least 8"),
    ("sft.optimizer.warmup", "-1", "optimizer: warmup -1 and weight_decay 0.0 must not be negative"),
]


@pytest.mark.parametrize(("key", "value", "message"), OUT_OF_RANGE, ids=[row[0] for row in OUT_OF_RANGE])
def test_value_out_of_range(settings: Path, key: str, value: str, message: str):
    assert refusal(command(settings, f"--{key}", value)).startswith(message)


def test_missing_configuration_file(tmp_path: Path):
    assert refusal(bare_command("selfplay", "--config", str(tmp_path / "no.yaml"))) == (
        f"cannot read {tmp_path}/no.yaml: No such file or directory; give --config a YAML file"
    )


def test_rows_that_devices_cannot_share_are_refused_before_anything_is_done(settings: Path, tmp_path: Path):
    # Two devices, which this process does not have.
    arguments = ["--config", str(TACO), "--config", str(settings), "--runs", str(tmp_path / "r")]
    process = subprocess.run(
        [sys.executable, "-m", "train.bootstrap", *arguments, "--mesh.cpu_devices", "2", "--rl.minibatch", "15"],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
    )
    done = Done(process.returncode, process.stdout, process.stderr)
    assert refusal(done) == "rl.minibatch is 15, which 2 devices cannot share; make it a multiple of 2"
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--rl.optimizer.microbatches", "3"], "rl.minibatch is 16, which 1 device cannot share in 3 microbatches"),
        (["--sft.optimizer.microbatches", "8"], "sft.batch.rows is 4, which 1 device cannot share in 8 microbatches"),
        (
            ["--rl.algorithm", "ppo", "--rl.ppo.critic.optimizer.microbatches", "5"],
            "rl.minibatch is 16, which 1 device cannot share in 5 microbatches; make it a multiple of 5",
        ),
        (
            ["--rl.algorithm", "dpo", "--rl.optimizer.microbatches", "16"],  # a microbatch holds whole pairs
            "rl.minibatch is 16, which 1 device cannot share in 16 microbatches; make it a multiple of 32",
        ),
    ],
)
def test_microbatches_that_do_not_divide_are_refused_before_anything_is_done(
    settings: Path, tmp_path: Path, arguments: list[str], complaint: str
):
    assert refusal(command(settings, "--runs", str(tmp_path / "r"), *arguments)).startswith(complaint)
    assert not (tmp_path / "r").exists()


def test_mesh_that_does_not_fit_the_devices(settings: Path, runs: Path):
    assert "does not use the 1 devices" in refusal(command(settings, "--runs", str(runs), "--mesh.fsdp", "3"))


# The problems.


def problem_file(folder: Path, text: str) -> str:
    (folder / "p.jsonl").write_text(text)
    return str(folder / "p.jsonl")


def line(**changes: Any) -> str:
    return json.dumps({**rows()[0], **changes}) + "\n"


def test_missing_problem_file(settings: Path, runs: Path, tmp_path: Path):
    done = command(settings, "--runs", str(runs), "--problems.path", str(tmp_path / "no.json"))
    assert refusal(done) == (
        f"cannot read {tmp_path}/no.json: No such file or directory; give the path of a problem file or folder"
    )


def test_malformed_row_is_named_by_its_line(settings: Path, runs: Path, tmp_path: Path):
    path = problem_file(tmp_path, line() + '{"question": "Print 2.", \n')
    message = refusal(command(settings, "--runs", str(runs), "--problems.path", path))
    assert message.startswith(f"{path}, line 2: not JSON (") and message.endswith("); mend or remove the line")


def test_row_without_a_question_is_named_by_its_line(settings: Path, runs: Path, tmp_path: Path):
    path = problem_file(tmp_path, line() + '{"input_output": "{}"}\n')
    assert refusal(command(settings, "--runs", str(runs), "--problems.path", path)).startswith(
        f"{path}, line 2: no `question` text"
    )


def test_no_problems_left_says_why(settings: Path, runs: Path, tmp_path: Path):
    path = problem_file(tmp_path, line(input_output="") + line(solutions=["print('no')"]))
    message = refusal(command(settings, "--runs", str(runs), "--problems.path", path))
    assert message.startswith(f"no problems left of {path}: all 2 were set aside (p.jsonl, line 1: no tests; ")


def test_mended_problem_file_is_taken_by_the_same_command(settings: Path, runs: Path, tmp_path: Path):
    path = problem_file(tmp_path, "")
    arguments = ("--runs", str(runs), "--problems.path", path, "--bootstrap.updates", "1")
    refusal(command(settings, *arguments, module="bootstrap"))
    problem_file(tmp_path, "".join(json.dumps(row) + "\n" for row in rows()))
    assert command(settings, *arguments, module="bootstrap").status == 0


def test_problem_without_tests_is_set_aside_with_its_reason(wee: Path):
    untested = [row for row in read_lines(wee / "problems" / "set_aside.jsonl") if row["id"] == "rows.json#10"]
    assert [(row["where"], row["reason"]) for row in untested] == [("rows.json, row 10", "no tests")]


def test_what_is_set_aside_is_printed_once(wee: Path, shared: Path):
    printed = [text for text in (shared / "wee.out").read_text().splitlines() if text.startswith("set aside")]
    assert printed == ["set aside rows.json#10: no tests", "set aside rows.json#11: same statement as rows.json#0"]


# What is in the run folder.


def test_another_shape_of_model_in_the_same_run(wee: Path, settings: Path, runs: Path):
    copy = copy_run(wee, runs, upto="tcg")
    shutil.copy(wee / "config.yaml", copy)
    done = command(settings, "--runs", str(runs), "--model.width", "96")
    assert refusal(done) == (
        f"{copy} was made with another configuration: model.width = 64 there and 96 now; "
        "use that one, choose another run folder, or start afresh"
    )


def test_run_that_is_older_than_a_key_had_its_default(wee: Path, settings: Path, runs: Path):
    copy = copy_run(wee, runs, upto="tcg")
    stored = yaml.safe_load((wee / "config.yaml").read_text())
    del stored["tcg"]["spare_answers"]
    (copy / "config.yaml").write_text(yaml.safe_dump(stored))
    done = command(settings, "--runs", str(runs), "--tcg.spare_answers", "1")
    assert "tcg.spare_answers = 0 there and 1 now" in refusal(done)
    assert command(settings, "--runs", str(runs), module="tcg").status == 0


def test_checkpoint_of_another_shape(wee: Path, settings: Path, runs: Path):
    copy = copy_run(wee, runs, upto="tcg")  # without its configuration
    message = refusal(command(settings, "--runs", str(runs), "--model.mlp_width", "96", module="reason"))
    assert message.startswith(f"checkpoint {copy}/checkpoints/policy-000: array blocks/")
    assert message.endswith("; restore it with the configuration that it was saved with")


def test_nothing_is_lost_by_a_refusal(wee: Path, settings: Path, runs: Path):
    copy = copy_run(wee, runs, upto="tcg")
    shutil.copy(wee / "config.yaml", copy)
    refusal(command(settings, "--runs", str(runs), "--model.width", "96"))
    assert list(results(copy)) == ["problems", "bootstrap", "000-evaluate", "tcg"]
    assert command(settings, "--runs", str(runs), module="reason").status == 0


def test_missing_checkpoint(wee: Path, settings: Path, runs: Path):
    copy = copy_run(wee, runs, upto="tcg")
    shutil.rmtree(copy / "checkpoints" / "policy-000")
    message = refusal(command(settings, "--runs", str(runs), module="reason"))
    assert message.startswith(f"there is no checkpoint at {copy}/checkpoints/policy-000")


def test_damaged_checkpoint(wee: Path, settings: Path, runs: Path):
    copy = copy_run(wee, runs, upto="tcg")
    largest = max((p for p in (copy / "checkpoints" / "policy-000").rglob("*") if p.is_file()), key=os.path.getsize)
    largest.write_bytes(largest.read_bytes()[:-100])
    message = refusal(command(settings, "--runs", str(runs), module="reason"))
    assert message.startswith(f"the checkpoint {copy}/checkpoints/policy-000 is damaged (")
    assert message.endswith("; remove it and redo its stage")


def test_missing_tokenizer(wee: Path, settings: Path, runs: Path):
    copy = copy_run(wee, runs, upto="tcg")
    (copy / "tokenizer.model").unlink()
    assert refusal(command(settings, "--runs", str(runs), module="reason")) == (
        f"cannot read the tokenizer {copy}/tokenizer.model: No such file or directory; run the bootstrap first"
    )


def test_damaged_tokenizer(wee: Path, settings: Path, runs: Path):
    copy = copy_run(wee, runs, upto="tcg")
    (copy / "tokenizer.model").write_bytes(b"no model")
    message = refusal(command(settings, "--runs", str(runs), module="reason"))
    assert message.startswith(f"{copy}/tokenizer.model")


def test_damaged_records(wee: Path, settings: Path, runs: Path):
    copy = copy_run(wee, runs, upto="001-search")
    data = (copy / "process.jsonl").read_bytes()
    (copy / "process.jsonl").write_bytes(b"?" + data[1:])
    message = refusal(command(settings, "--runs", str(runs), module="sft"))
    assert message.startswith(f"{copy}/process.jsonl, line 1: not JSON")


def test_rows_too_short_for_any_example(settings: Path, runs: Path):
    message = refusal(command(settings, "--runs", str(runs), "--bootstrap.batch.length", "8", module="bootstrap"))
    assert message.startswith("bootstrap.batch.length is 8, and none of 40 examples fits into it; raise it, the")


def test_run_folder_in_use(wee: Path, settings: Path, runs: Path):
    from train.run_files import Lock

    copy = copy_run(wee, runs, upto="tcg")
    lock = Lock(copy)
    try:
        assert " is in use by process " in refusal(command(settings, "--runs", str(runs)))
    finally:
        lock.close()


def test_full_disk_is_one_line_and_loses_nothing(wee: Path, settings: Path, tmp_path: Path):
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here: unshare -rm fails")
    copy_run(wee, tmp_path, upto="001-search", name="source")
    files = [path for path in (tmp_path / "source").rglob("*") if path.is_file()]
    size = 4 * sum(1 + path.stat().st_size // 4096 for path in files)  # in whole pages
    disk = tmp_path / "disk"
    disk.mkdir()
    arguments = ["--config", str(TACO), "--config", str(settings), "--runs", str(disk), "--iteration", "1"]
    # Room for the copy and a little more, but not for a checkpoint. What the compiler remembers lies there, too.
    script = (
        f"mount -t tmpfs -o size={size + 120}k none {disk} && cp -r {tmp_path}/source {disk}/wee && "
        f'{sys.executable} -m train.sft "$@"; echo $? && ls {disk}/wee/stages'
    )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", *arguments],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
    )
    status, *stages = [text for text in done.stdout.splitlines() if text.isdecimal() or text.endswith(".json")]
    message = refusal(Done(int(status), done.stdout, done.stderr))
    assert message.startswith("cannot write ") and "free space" in message
    assert "001-search.json" in stages and "001-sft.json" not in stages
