"""`python -m search.run`: trees, records and a summary from a problem file and a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache

from o1coder_jax import checkpoint
from o1coder_jax.config import to_dict
from o1coder_jax.errors import UserError
from o1coder_jax.mesh import MeshConfig
from o1coder_jax.records import ProcessRecord, read_jsonl, write_jsonl
from o1coder_jax.tokenizer import Tokenizer, TokenizerConfig
from sandbox.pool import SandboxConfig
from search.config import SearchConfig
from search.models import tokenizer_of
from search.run import RunConfig, run
from search.store import read_trees
from tests.search.scripted import PROBLEMS
from tests.tiny import SHAPE, decoder
from tests.together import all_ended, free_port

SEARCH = SearchConfig(
    trees=2, slots=4, rollouts=2, depth=2, samples=2, prompt_tokens=16, step_tokens=4, code_tokens=8, page_tokens=4
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("run")
    tokenizer = Tokenizer.train(["a few words", "and some more"], TokenizerConfig(vocab_size=320))
    tokenizer.save(folder / "tokenizer.model")
    weights = nnx.split(decoder(SHAPE, tokenizer.vocab_size))[1]
    facts = {"fingerprint": "tiny", "model": to_dict(SHAPE), "tokenizer": tokenizer.fingerprint}
    checkpoint.save(folder / "checkpoints" / "policy", nnx.to_pure_dict(weights), facts)
    write_jsonl(folder / "problems.jsonl", PROBLEMS[:3])
    return RunConfig(
        problems=str(folder / "problems.jsonl"),
        policy=str(folder / "checkpoints" / "policy"),
        out=str(folder / "out"),
        search=SEARCH,
        sandbox=SandboxConfig(workers=1),
        mesh=MeshConfig(cpu_devices=1),
    )


def test_the_vocabulary_is_that_of_the_run(config: RunConfig, tmp_path: Path):
    policy = tmp_path / "checkpoints" / "policy"
    policy.parent.mkdir()
    policy.symlink_to(config.policy)
    assert tokenizer_of(policy) == tmp_path / "tokenizer.model"
    (tmp_path / "tokenizer.json").touch()
    assert tokenizer_of(policy) == tmp_path / "tokenizer.json"


@pytest.fixture
def compiler() -> Iterator[None]:
    """Everything that is compiled is kept, where `run` says; afterwards as before."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    jax.config.update(names[1], 0)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.mark.usefixtures("compiler")
def test_search_by_itself_and_once_more(config: RunConfig):
    out = Path(config.out)
    summary = run(config)
    assert any("wave" in path.name for path in (out.parent / ".compiled").iterdir())
    trees = list(read_trees(out / "trees.jsonl"))
    assert [stored.tree.problem.id for stored in trees] == ["p0", "p1", "p2"]
    assert {stored.provenance.policy for stored in trees} == {"tiny"}
    records = [ProcessRecord.from_json(row) for row in read_jsonl(out / "process.jsonl")]
    assert records == [record for stored in trees for record in stored.records()]
    assert summary["trees"] == 3 and summary["tokens"] == sum(stored.tree.tokens for stored in trees) > 0
    assert summary["truncated_prompts"] == 1
    assert not (out / "underway.jsonl").exists()
    assert run(config) == summary
    with pytest.raises(UserError, match="holds another search"):
        run(dataclasses.replace(config, seed=1))


@pytest.fixture(scope="module")
def head(config: RunConfig) -> Path:
    """The checkpoint of a value head on that policy."""
    folder = Path(config.policy).parent / "head"
    tree = {"value": np.linspace(-1, 1, SHAPE.width, dtype=np.float32), "value_bias": np.float32(0.5)}
    checkpoint.save(folder, tree, checkpoint.metadata(config.policy) | {"fingerprint": "head", "head_of": "tiny"})
    return folder


@pytest.mark.usefixtures("compiler")
def test_value_head_takes_the_place_of_a_reward_model(config: RunConfig, head: Path, tmp_path: Path):
    search = dataclasses.replace(SEARCH, value_weight=0.5)
    run(dataclasses.replace(config, reward_model=str(head), search=search, out=str(tmp_path)))
    trees = list(read_trees(tmp_path / "trees.jsonl"))
    assert {stored.provenance.reward_model for stored in trees} == {"head"}
    opinions = [node.opinion for stored in trees for node in stored.tree.nodes[1:]]
    assert len({*opinions}) > 1 and all(0 < opinion < 1 for opinion in opinions)


@pytest.mark.usefixtures("compiler")
def test_value_head_of_another_policy_is_refused(config: RunConfig, head: Path, tmp_path: Path):
    policy = tmp_path / "other"
    tree, facts = checkpoint.restore(config.policy), checkpoint.metadata(config.policy)
    checkpoint.save(policy, tree, facts | {"fingerprint": "other"})
    tokenizer = str(Path(config.policy).parent.parent / "tokenizer.model")
    changed = dataclasses.replace(config, policy=str(policy), reward_model=str(head), tokenizer=tokenizer)
    with pytest.raises(UserError, match="head reads the states of the policy tiny, not those of other"):
        run(dataclasses.replace(changed, out=str(tmp_path / "out")))
    with pytest.raises(UserError, match="is the value head of the policy tiny, no model"):
        run(dataclasses.replace(changed, policy=str(head), out=str(tmp_path / "out")))


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": "nowhere"}, "there is no checkpoint at nowhere"),
        ({"problems": "nowhere.jsonl"}, "cannot read nowhere.jsonl"),
    ],
)
def test_missing_input_is_named(config: RunConfig, changes: dict[str, str], message: str):
    with pytest.raises(UserError, match=message):
        run(dataclasses.replace(config, **changes))


def test_two_processes_search_together(config: RunConfig, tmp_path: Path):
    alone = run(config)
    coordinator = f"127.0.0.1:{free_port()}"
    settings = to_dict(dataclasses.replace(config, out=str(tmp_path / "out")))
    (tmp_path / "pair.yaml").write_text(yaml.safe_dump(settings))
    command = ["search.run", "--config", str(tmp_path / "pair.yaml")]
    command += ["--distributed.coordinator", coordinator, "--distributed.processes", "2", "--distributed.process"]
    ended = all_ended([[*command, index] for index in "01"], {"JAX_PLATFORMS": "cpu"}, seconds=300)
    assert [status for status, _, _ in ended] == [0, 0], ended
    first, second = (
        [(stored.tree.problem.id, [node.tokens for node in stored.tree.nodes]) for stored in read_trees(path)]
        for path in (tmp_path / "out" / "trees.jsonl", Path(config.out) / "trees.jsonl")
    )
    assert first == second
    [summary] = read_jsonl(tmp_path / "out" / "summary.json")
    assert {name: summary[name] for name in ("search", "trees", "tokens", "executions")} == {
        name: alone[name] for name in ("search", "trees", "tokens", "executions")
    }
    assert not list((tmp_path / "out").glob("underway*"))
