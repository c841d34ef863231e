"""What every stage works with: the run folder, the mesh, the sandbox, problems and models."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from o1coder_jax import checkpoint
from o1coder_jax import config as configuration
from o1coder_jax.errors import UserError
from o1coder_jax.generate import Sample, generate
from o1coder_jax.hosts import barrier, joined
from o1coder_jax.mesh import host_copy, keep_compiled, make_mesh, prepare_cpu, replicate, row_shards
from o1coder_jax.policy import Policy, encode_prompt
from o1coder_jax.problems import Parts
from o1coder_jax.prompts import Prompts
from o1coder_jax.records import Judgement, Problem, read_problems
from o1coder_jax.sampling import SamplingConfig
from o1coder_jax.steps import END
from o1coder_jax.tokenizer import Tokenizer
from o1coder_jax.transformer import ModelConfig, Transformer
from o1coder_jax.vocabulary import ByteLevelVocabulary, Vocabulary
from sandbox.pool import Pool, submission_for
from train import pretrained
from train.judging import Judging
from train.progress import Progress
from train.run import Run, Stage

if TYPE_CHECKING:
    from train.config import Config

PROMPTS = "prompts.json"  # in a run folder: how its models are asked, where that takes more than a marker
PARTS = ("training", "selfplay", "validation", "heldout")
MAY_DIFFER = ("iterations", "sandbox.workers", "sandbox.queue", "runs", "distributed")
T = TypeVar("T")


class Session:
    """An open run. Use it as a context manager: it holds worker processes and the run folder's lock.

    Attributes:
      config: the run's.
      run: its folder.
      mesh: the devices.
      judging: the sandboxes.
    """

    def __init__(self, config: Config, run: Run, mesh: Mesh):
        self.config, self.run, self.mesh = config, run, mesh
        self.judging = Judging(config.sandbox, run.hosts, self._say_sandbox)

    @classmethod
    @contextlib.contextmanager
    def open(cls, config: Config, *, fresh: bool = False) -> Iterator[Session]:
        config = pretrained.resolved(config)
        with joined(config.distributed):
            prepare_cpu(config.mesh)
            mesh = make_mesh(config.mesh)
            check_rows(config, row_shards(mesh))  # before the run folder takes the configuration as its own
            keep_compiled(Path(config.runs))
            folder = Path(config.runs) / config.name
            with Run.open(folder, config, fresh=fresh, may_differ=MAY_DIFFER) as run:
                session = cls(config, run, mesh)
                try:
                    yield session
                finally:
                    session.judging.close()

    @property
    def first(self) -> bool:
        """Whether this process writes what is of the whole run."""
        return self.run.process == 0

    def once(self, write: Callable[[], T]) -> T | None:
        """Has process 0 alone write something; all go on when it is written."""
        result = write() if self.first else None
        barrier("written")
        return result

    @property
    def pool(self) -> Pool:
        """This host's sandbox."""
        return self.judging.pool

    def _say_sandbox(self, pool: Pool) -> None:
        self.run.add_facts(isolation=pool.isolation)
        print(f"sandbox: {pool.isolation}, {self.config.sandbox.workers} workers", flush=True)

    @property
    def tokenizer_path(self) -> Path:
        return tokenizer_path(self.run.folder, self.config)

    @property
    def prompts_path(self) -> Path:
        return self.run.folder / PROMPTS

    @cached_property
    def asking(self) -> Prompts:
        """How the policy and the generator are asked."""
        return Prompts.load(self.prompts_path)

    @cached_property
    def tokenizer(self) -> Vocabulary:
        return load_tokenizer(self.tokenizer_path)

    @cached_property
    def generator(self) -> pretrained.Speaker:
        """The test case generator, but for its weights."""
        return pretrained.generator_of(self)

    def part_path(self, part: str) -> Path:
        return self.run.folder / "problems" / f"{part}.jsonl"

    @cached_property
    def parts(self) -> Parts:
        """The run's problems, as the problems stage wrote them."""
        self.require("problems", "train.bootstrap")
        return Parts(**{part: read_problems(self.part_path(part)) for part in PARTS})

    @cached_property
    def problem(self) -> dict[str, Problem]:
        """All problems by id."""
        return {problem.id: problem for problem in self.parts.all}

    def prompts(self, problems: Sequence[Problem]) -> list[list[int]]:
        """The policy's prompts as token ids."""
        cap = self.config.search.prompt_tokens
        return [encode_prompt(self.tokenizer, problem, cap, self.asking.policy)[0] for problem in problems]

    def judge_all(
        self, programs: Sequence[tuple[Problem, str | None]], *, hidden: bool = False
    ) -> list[Judgement | None]:
        """Verdicts on the own or the hidden tests, up to the first failure; None where there is no program."""
        submissions = [
            None if code is None else submission_for(problem, code, hidden=hidden, stop_at_failure=True)
            for problem, code in programs
        ]
        return self.judging.submit_all(submissions).result()

    def generate(
        self,
        weights: Any,
        prompts: Sequence[Sequence[int]],
        *,
        samples: int,
        salt: int,
        temperature: float = 1.0,
        answer_tokens: int | None = None,
        graph: nnx.GraphDef[Transformer] | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> list[list[Sample]]:
        """Whole answers, up to the marker that ends them; draws derive from (seed, salt) and a prompt's place.

        `graph` and `vocabulary` are those of the run's policy unless others are given.
        """
        return generate(
            self.graph if graph is None else graph,
            replicate(self.mesh, weights),  # weights in training lie elsewhere: one layout, compiled once
            prompts,
            samples=samples,
            stops=(vocabulary or self.tokenizer).stops((END,)),
            rows=self.config.generation.rows,
            answer_tokens=answer_tokens or self.config.generation.answer_tokens,
            sampling=SamplingConfig(temperature=temperature),
            mesh=self.mesh,
            seed=(self.config.seed, salt),
        )

    @cached_property
    def graph(self) -> nnx.GraphDef[Transformer]:
        """The decoder's structure, without a value head."""
        return nnx.graphdef(self.new_model())

    def require(self, stage: str, command: str) -> dict[str, Any]:
        """The result of a stage that must be finished."""
        result = self.run.stage(stage)
        if result is None:
            raise UserError(f"{self.run.folder}: stage {stage} is not finished; run python -m {command} first")
        return result

    def new_model(self, *, value_head: bool = False, model: ModelConfig | None = None) -> Transformer:
        return Transformer(
            model or self.config.model,
            self.tokenizer.vocab_size,
            value_head=value_head,
            rngs=nnx.Rngs(self.config.seed),
        )

    def save_model(
        self,
        name: str,
        weights: Any,
        *,
        model: ModelConfig | None = None,
        vocabulary: Vocabulary | None = None,
        **facts: Any,
    ) -> str:
        """Writes a checkpoint of weights; returns their fingerprint.

        `model` and `vocabulary` are those of the run's policy unless others are given.
        """
        print_of = fingerprint(weights)
        metadata = {
            "fingerprint": print_of,
            "model": configuration.to_dict(model or self.config.model),
            "tokenizer": (vocabulary or self.tokenizer).fingerprint,
            **facts,
        }
        checkpoint.save(self.run.checkpoint(name), nnx.to_pure_dict(weights), metadata)
        return print_of

    def load_model(self, name: str, *, value_head: bool = False) -> tuple[nnx.GraphDef[Transformer], Any, str]:
        """A model's graph and weights (a copy on every device), and the weights' fingerprint."""
        path = self.run.checkpoint(name)
        shape = checkpoint.metadata(path).get("model")  # that of a reward model may be another
        model = self.new_model(value_head=value_head, model=ModelConfig.from_dict(shape) if shape else None)
        return restore_model(path, model, self.tokenizer, self.mesh)

    def load_policy(self, name: str) -> Policy:
        graph, weights, print_of = self.load_model(name)
        return Policy(graph, weights, self.tokenizer, print_of, self.asking.policy)


def tokenizer_path(folder: Path, config: Config) -> Path:
    """Where a run keeps its vocabulary."""
    given = config.tokenizer.file or config.policy.checkpoint
    return folder / ("tokenizer.json" if given else "tokenizer.model")


def load_tokenizer(path: Path) -> Vocabulary:
    """A run's vocabulary."""
    if path.suffix == ".json":
        return ByteLevelVocabulary.load(path)
    try:
        return Tokenizer.load(path)
    except RuntimeError as error:  # sentencepiece's, for bytes that are no vocabulary
        raise UserError(f"{path} is damaged ({error}); restore it, or start the run afresh") from error


def restore_model(
    path: Path, model: Transformer, tokenizer: Vocabulary, mesh: Mesh
) -> tuple[nnx.GraphDef[Transformer], Any, str]:
    """A checkpoint's weights in the structure of `model`, a copy on every device, and their fingerprint."""
    facts = checkpoint.metadata(path)
    if facts.get("tokenizer") != tokenizer.fingerprint:
        raise UserError(f"{path} was made with another tokenizer than that of its run; use a new run name")
    graph, weights = nnx.split(model)
    nnx.replace_by_pure_dict(weights, checkpoint.restore(path, nnx.to_pure_dict(weights)))
    return graph, replicate(mesh, weights), facts["fingerprint"]


def check_rows(config: Config, parts: int) -> None:
    """Raises a `UserError` for a batch whose rows cannot be shared out evenly among `parts` devices."""
    batches = {
        "bootstrap.batch.rows": config.bootstrap.batch.rows,
        "tcg.batch.rows": config.tcg.batch.rows,
        "2 x tcg.dpo_pairs": 2 * config.tcg.dpo_pairs,
        "search.trees": config.search.trees,
        "search.slots": config.search.slots,
        "sft.batch.rows": config.sft.batch.rows,
        "prm.batch.rows": config.prm.batch.rows,
        "rl.minibatch": config.rl.minibatch,
    }
    for name, rows in batches.items():
        if rows % parts:
            raise UserError(f"{name} is {rows}, which {parts} devices cannot share; make it a multiple of {parts}")


def fingerprint(weights: Any) -> str:
    """Sixteen hexadecimal digits that identify weights, bit for bit; every process must ask."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(weights):
        digest.update(np.ascontiguousarray(host_copy(leaf)).tobytes())
    return digest.hexdigest()[:16]


def policy_name(iteration: int) -> str:
    """The checkpoint of the policy after an iteration; 0 is the base."""
    return f"policy-{iteration:03d}"


def policy_stage(iteration: int) -> tuple[str, str]:
    """The stage that makes `policy_name(iteration)`, and the command that runs it."""
    if iteration == 0:
        return "bootstrap", "train.bootstrap"
    return StageName(iteration)("rl"), f"train.rl --iteration {iteration}"


@dataclass(frozen=True)
class StageName:
    """Names of an iteration's stages, as `001-sft`."""

    iteration: int

    def __call__(self, stage: str) -> str:
        return f"{self.iteration:03d}-{stage}"


def reporter(stage: Stage, bar: Progress, prefix: str = "") -> Callable[[int, dict[str, float]], None]:
    """Reports updates to the metrics, their names prefixed, and moves the bar."""
    seen = 0

    def report(update: int, metrics: dict[str, float]) -> None:
        nonlocal seen
        stage.log(update, **{prefix + name: value for name, value in metrics.items()})
        bar.advance(update - seen, f"loss {metrics['loss']:.3f}")
        seen = update

    return report
