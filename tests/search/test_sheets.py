"""O1-CODER's formats: answer sheets and reward-model examples become trees and records, and come back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.records import ProcessRecord, Verdict, read_jsonl
from search import convert
from search.convert import from_examples, from_sheets, to_sheets
from search.examples import examples, read_examples, split_response
from search.harvest import Provenance
from search.sheets import Sheet, read_sheets
from search.store import StoredTree, read_trees

PLAN, PLAN_2 = "**Structure (Action 1)**\nread, add", "### Step 1: other (Action 1)"
GOOD, BAD = "code (Action 3)\n```python\nprint(1)\n```", "code (Action 3)\n```python\nprint(2)\n```"
LATE = "### Step 2: refine (Action 2)"


def step(node: int, parent: int, text: str, value: float) -> dict[str, Any]:
    return {"node_id": node, "ost_step": text, "step_value": value, "edges": [parent, node]}


def rollout(texts: list[str], value: float | None) -> dict[str, Any]:
    steps = {str(i): text for i, text in enumerate(texts, 1)}
    trace = {"user_question": "Print 1.", "ost_step": steps, "ost_step_value": dict.fromkeys(steps, 1.0)}
    return {"trace": {"0": trace}, "rollout_id": 7, "value": value}


ROOT = {"node_id": 0, "question": "Print 1."}
# Two siblings (1, 3) have the same text; what comes below tells them apart. 5 is never reached; 9 has another text.
COMPLETE = [
    {"2": step(4, 1, GOOD, 1 / 3), "1": step(1, 0, PLAN, 1.0), "0": ROOT},
    {"2": step(5, 1, "never" + GOOD, 0), "1": step(1, 0, PLAN, 1.0), "0": ROOT},
    {"2": step(6, 3, BAD, 0.5), "1": step(3, 0, PLAN, 0.5), "0": ROOT},
]
ROLLOUTS = [
    rollout([PLAN, GOOD], 1.0),
    rollout([PLAN, BAD], 0.5),
    rollout([PLAN_2, LATE], None),
    rollout([PLAN, GOOD], 1.0),
    rollout([PLAN, GOOD], 1.0),
]
ANSWER = {
    "id": 0,
    "problem": "Print 1.",
    "gold_solution": "print(1)",
    "test_case": {"inputs": ["", "x"], "outputs": ["1", "1"]},
    "difficulty": "EASY",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as the published code leaves it, down to the comma after the last rollout."""
    name = "Question 0000 - {}.json"
    (tmp_path / name.format("Complete Solutions")).write_text(json.dumps(COMPLETE))
    (tmp_path / name.format("Rollout Solutions")).write_text("".join(json.dumps(row) + "," for row in ROLLOUTS))
    (tmp_path / name.format("Answer")).write_text(json.dumps(ANSWER))
    return tmp_path


def sheet(folder: Path) -> Sheet:
    [found] = read_sheets(folder)
    return found


def by_text(folder: Path, published: bool) -> list[tuple[str, int, float | None]]:
    return [(node.text, node.visits, node.value) for node in sheet(folder).tree(published=published).nodes[1:]]


def test_default_gives_every_step_its_mean_reward(folder):
    assert by_text(folder, published=False) == [
        (PLAN, 3, 1.0),
        (PLAN, 1, 0.5),
        (GOOD, 3, 1.0),
        ("never" + GOOD, 0, None),
        (BAD, 1, 0.5),
        (PLAN_2, 1, 0.0),
        (LATE, 1, 0.0),
    ]


def test_published_rule_divides_a_single_reward_by_the_visits(folder):
    found = by_text(folder, published=True)
    assert found[2] == (GOOD, 3, 1 / 3) and found[0] == (PLAN, 3, 1.0) and found[4] == (BAD, 1, 0.5)
    assert sheet(folder).differences() == 0


def test_values_that_do_not_follow_from_the_rollouts_are_counted(folder):
    path = folder / "Question 0000 - Complete Solutions.json"
    path.write_text(path.read_text().replace("0.5", "0.75"))
    assert sheet(folder).differences() == 2


def test_sheet_tells_what_became_of_each_path(folder):
    tree = sheet(folder).tree(published=False)
    assert [(tree.nodes[r.end].ended, tree.nodes[r.end].reward) for r in tree.rollouts] == [
        ("code", 1.0), ("code", 0.5), ("depth", 0.0), ("code", 1.0), ("code", 1.0)
    ]  # fmt: skip
    verdicts = {node.text: node.judgement.verdict for node in tree.nodes if node.judgement}
    assert verdicts == {GOOD: Verdict.ACCEPTED, BAD: Verdict.WRONG_ANSWER}
    assert [int(node.action) for node in tree.nodes[1:]] == [1, 1, 3, 3, 3, 1, 2]
    assert tree.nodes[3].code == "print(1)" and len(tree.problem.tests) == 2


@pytest.mark.parametrize("published", [False, True])
def test_sheets_come_back(folder, tmp_path, published):
    out = tmp_path / "out"
    from_sheets(folder, out, published=published, margin=0.1)
    trees = list(read_trees(out / "trees.jsonl"))
    to_sheets(trees, tmp_path / "back", out / "problems.jsonl")
    again = sheet(tmp_path / "back")
    expected = trees[0].tree
    tree = again.tree(published=published)
    assert (tree.nodes, tree.rollouts) == (expected.nodes, expected.rollouts)
    values = [path[depth]["step_value"] for path in again.complete for depth in path if depth != "0"]
    first = 1 / 3 if published else 1.0
    assert values == [first, 1.0, 0, 1.0, 0.5, 0.5]
    assert again.answer == ANSWER | {"test_case": {"inputs": ["\n", "x\n"], "outputs": ["1", "1"]}}
    best = json.loads((tmp_path / "back" / "Question 0000 - Best Solutions.json").read_text())
    assert best["rollout_id"] == 0 and best["value"] == 1.0


def test_records_and_pairs_of_a_sheet(folder, tmp_path):
    from_sheets(folder, tmp_path / "out", published=False, margin=0.4)
    records = [ProcessRecord.from_json(row) for row in read_jsonl(tmp_path / "out" / "process.jsonl")]
    assert sorted(record.ended for record in records) == ["code", "code", "depth"]
    pairs = [(row["winner"]["value"], row["loser"]["value"]) for row in read_jsonl(tmp_path / "out" / "pairs.jsonl")]
    assert sorted(pairs) == [(0.5, 0.0), (1.0, 0.0), (1.0, 0.5)]


@pytest.mark.parametrize("margin", ["-0.1", "1.5", "nan"])
def test_margin_out_of_range_is_refused(folder, tmp_path, monkeypatch, margin):
    arguments = ["convert", str(folder), "--to", "trees", "-o", str(tmp_path / "out"), f"--margin={margin}"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(UserError, match=rf"--margin is {margin}; it must lie in \[0, 1\]"):
        convert.main()


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("Complete", "[{]", "not JSON"),
        ("Complete", '[{"1": {"node_id": 1}}]', "question 0: not an answer sheet"),
        ("Rollout", '{"trace": {}},', "question 0: not an answer sheet"),
        ("Rollout", None, "question 0 has no rollout solutions"),
    ],
)
def test_broken_sheets_are_refused(folder, kind, text, message):
    path = folder / f"Question 0000 - {kind} Solutions.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(UserError, match=message):
        sheet(folder).tree(published=False)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "Question 0001 - Complete Solutions.json").write_bytes(b"\xff[]")
    (tmp_path / "Question 0001 - Rollout Solutions.json").write_text("[]")
    with pytest.raises(UserError, match="not JSON"):
        list(read_sheets(tmp_path))
    for content in (b'{"a": 1}\n"\xff"\n', b"1\n" + b"[" * 200_000):
        (tmp_path / "trees.jsonl").write_bytes(content)
        with pytest.raises(UserError, match="line 2: not JSON"):
            list(read_jsonl(tmp_path / "trees.jsonl"))


def test_folder_without_sheets_is_refused(tmp_path):
    with pytest.raises(UserError, match="give a folder of answer sheets"):
        list(read_sheets(tmp_path))


# Examples.

RESPONSE = "### Step 1: <Action 1> plan\nas in Step 2: of the text\n\n### Step 2: <Action 3>\n```python\nprint(1)\n```"


def example(response: str, label: Any, **more: Any) -> dict[str, Any]:
    return {"prompt": "Print 1.", "response": response, "label": label, **more}


def test_response_is_cut_at_headers_in_order():
    assert [text[:10] for text in split_response(RESPONSE)] == ["### Step 1", "### Step 2"]
    assert len(split_response("Step 1: a\nStep 3: b\nStep 2: c")) == 2


def test_examples_of_one_prompt_share_their_steps(tmp_path):
    rows = [
        example("### Step 1: <Action 1> plan\nas in Step 2: of the text", [0.25], has_final_step=False),
        example(RESPONSE, "positive"),
    ]
    (tmp_path / "examples.json").write_text(json.dumps(rows))
    from_examples(tmp_path / "examples.json", tmp_path / "out")
    first, second = (ProcessRecord.from_json(row) for row in read_jsonl(tmp_path / "out" / "process.jsonl"))
    assert [step.node for step in first.steps] == [1] and [step.node for step in second.steps] == [1, 2]
    assert [step.value for step in second.steps] == [0.25, 1.0] and [step.action for step in second.steps] == [1, 3]
    assert (first.ended, first.code, first.verdict) == ("", None, None)
    assert (second.ended, second.code, second.verdict) == ("code", "print(1)", Verdict.ACCEPTED)


@pytest.mark.parametrize("label", ["good", [1, 0], 1.5, None])
def test_labels_out_of_range_are_refused(tmp_path, label):
    (tmp_path / "examples.json").write_text(json.dumps([example(RESPONSE, label)]))
    with pytest.raises(UserError, match="example 0"):
        read_examples(tmp_path / "examples.json")


@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_examples_of_a_tree_come_back(folder, tmp_path, labels):
    tree = sheet(folder).tree(published=False)
    rows = list(examples([StoredTree(tree, Provenance("r", 0, "", ""))], labels))
    soft = [node.value for node in tree.nodes[1:] if node.visits]
    hard = ["positive", "negative", "positive", "negative", "negative", "negative"]
    assert [row["label"] for row in rows] == [[value] for value in (soft if labels == "soft" else hard)]
    assert [row["has_final_step"] for row in rows] == [False, False, True, True, False, False]
    (tmp_path / "examples.json").write_text(json.dumps(rows))
    assert [len(record.steps) for record in read_examples(tmp_path / "examples.json")] == [1, 1, 2, 2, 1, 2]


# The real files.


def data() -> Path:
    if "O1CODER_DATA" not in os.environ:
        pytest.skip("O1CODER_DATA is not set")
    return Path(os.environ["O1CODER_DATA"]) / "prm"


def test_recorded_values_are_reproduced_or_corrected():
    """Every step value on record, under the published rule; by default all are 1, as all programs were right."""
    folder = data() / "o1coder" / "data_examples" / "answer_sheets"
    real = sheet(folder)
    recorded = [s["step_value"] for path in real.complete for depth, s in path.items() if depth != "0"]
    published, corrected = real.tree(published=True), real.tree(published=False)
    values = {node.text: node.value for node in published.nodes}
    assert real.differences() == 0 and sorted(set(recorded)) == [0.25, 1.0]
    assert [n.visits for n in published.nodes if n.value == 0.25] == [4]
    assert set(values.values()) == {0.25, 1.0} and {node.value for node in corrected.nodes} == {1.0}
    assert [node.visits for node in corrected.nodes] == [node.visits for node in published.nodes]


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("o1coder/hard_label_examples.json", [1.0, 1.0, 1.0, 0.0, 0.0]),
        ("o1coder/soft_label_examples.json", [1.0, 1.0, 0.875, 0.6875, 0.0]),
        ("dbming_rstar/prm_data.json", None),
    ],
)
def test_recorded_examples_are_read(name, labels):
    path = data() / name
    rows = json.loads(path.read_text())
    records = read_examples(path)
    found = [record.steps[-1].value for record in records]
    assert len(records) == len(rows) and (labels is None or found == labels)
    for record, row in zip(records, rows, strict=True):
        assert bool(record.code) == row.get("has_final_step", bool(record.code))
    assert all(step.action for record in records for step in record.steps)
