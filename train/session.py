"""What every stage works with: the run folder, the mesh, the sandbox, problems and models."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import jax
from flax import nnx
from jax.sharding import Mesh

from o1coder_jax.adapters import AdapterConfig
from o1coder_jax.attention_kernels import kernel_for
from o1coder_jax.errors import UserError
from o1coder_jax.generate import Sample, generate
from o1coder_jax.hosts import barrier, joined
from o1coder_jax.mesh import keep_compiled, make_mesh, own_slice, prepare_cpu, row_shards
from o1coder_jax.policy import Policy, encode_prompt
from o1coder_jax.problems import Parts
from o1coder_jax.prompts import Prompts
from o1coder_jax.records import Judgement, Problem, read_problems
from o1coder_jax.sampler import sampler_weights
from o1coder_jax.sampling import SamplingConfig
from o1coder_jax.steps import END
from o1coder_jax.stored import Model, Store
from o1coder_jax.tokenizer import Tokenizer
from o1coder_jax.transformer import ModelConfig, Transformer
from o1coder_jax.vocabulary import ByteLevelVocabulary, Vocabulary
from sandbox.pool import Pool, submission_for
from train import pretrained
from train.data import Example
from train.judging import Judging
from train.kept import Kept
from train.progress import Progress
from train.run import Run, Stage

if TYPE_CHECKING:
    from train.config import Config

PROMPTS = "prompts.json"  # in a run folder: how its models are asked, where that takes more than a marker
GENERATOR_TOKENIZER = Path("tcg", "tokenizer.json")  # in a run folder, of a generator with a checkpoint of its own
PARTS = ("training", "selfplay", "validation", "heldout")
MAY_DIFFER = (
    *("iterations", "checkpoint_every", "stopping", "runs", "distributed"),
    *("sandbox.workers", "sandbox.queue", "rivals.run"),
)
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
        self._sync_seconds = 0.0
        self._stores: dict[str, Store] = {}

    @classmethod
    @contextlib.contextmanager
    def open(cls, config: Config, *, fresh: bool = False) -> Iterator[Session]:
        config, replaced = pretrained.resolved(config)
        with joined(config.distributed):
            prepare_cpu(config.mesh)
            mesh = make_mesh(config.mesh)
            check_rows(config, row_shards(mesh))  # before the run folder takes the configuration as its own
            kernel = kernel_for(config.model, mesh.devices.flat[0])
            keep_compiled(Path(config.runs))
            folder = Path(config.runs) / config.name
            with Run.open(folder, config, fresh=fresh, may_differ=MAY_DIFFER) as run:
                session = cls(config, run, mesh)
                run.add_facts(attention=kernel)
                if session.first:
                    if replaced:
                        print(replaced, flush=True)
                    print(f"attention: {kernel} on {mesh.size} x {mesh.devices.flat[0].device_kind}", flush=True)
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

    @property
    def generator_tokenizer_path(self) -> Path:
        """Of a generator with a checkpoint of its own."""
        return self.run.folder / GENERATOR_TOKENIZER

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

        `weights` are those of `sampler`; `graph` and `vocabulary` are the policy's unless others are given.
        """
        return generate(
            self.graph if graph is None else graph,
            weights,
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
        """The structure of what samples, without a value head."""
        return self.sampler_graph(self.config.model, self.tokenizer.vocab_size)

    def sampler_graph(self, model: ModelConfig, vocab_size: int) -> nnx.GraphDef[Transformer]:
        """That of a model of another shape or vocabulary."""
        config = dataclasses.replace(model, dtype=self.config.generation.dtype or model.dtype)
        return nnx.graphdef(nnx.eval_shape(lambda: Transformer(config, vocab_size, rngs=nnx.Rngs(0))))

    def require(self, stage: str, command: str) -> dict[str, Any]:
        """The result of a stage that must be finished."""
        result = self.run.stage(stage)
        if result is None:
            raise UserError(f"{self.run.folder}: stage {stage} is not finished; run python -m {command} first")
        return result

    def new_model(self, *, value_head: bool = False) -> Transformer:
        return Transformer(
            self.config.model,
            self.tokenizer.vocab_size,
            value_head=value_head,
            rngs=nnx.Rngs(self.config.seed),
        )

    @property
    def store(self) -> Store:
        """The run's checkpoints of policies, and of roles that began from the policy."""
        return self.store_of(policy_name(0))

    def store_of(self, name: str) -> Store:
        """What reads and writes the checkpoint of this name: a role with a checkpoint of its own has its own shape."""
        role = name.partition("-")[0]
        role = role if pretrained.own_checkpoint(self.config, role) else "policy"
        if role not in self._stores:
            model, vocabulary = pretrained.shape_of(self, role)
            folder = self.run.checkpoint(policy_name(0)).parent
            self._stores[role] = Store(folder, vocabulary.vocab_size, vocabulary.fingerprint, self.mesh, model)
        return self._stores[role]

    def save_model(self, name: str, weights: Any, start: Model | None = None, **facts: Any) -> str:
        """Writes a checkpoint of weights; returns their fingerprint.

        Args:
          start: what they were trained from: of a model with an adapter only what is trained is written.
        """
        return self.store_of(name).save(name, weights, start, **facts)

    def trainable(self, name: str, adapter: AdapterConfig | None, *, role: str) -> Model:
        """The model of a checkpoint as a role trains it: all its weights, or an adapter on a frozen base.

        A checkpoint that has this adapter is trained on; otherwise the role begins a new one, on the checkpoint's base.
        """
        key = jax.random.fold_in(jax.random.key(self.config.seed), zlib.crc32(role.encode()))
        return self.store_of(name).trainable(name, adapter, key)

    def load_model(self, name: str, *, value_head: bool = False) -> tuple[nnx.GraphDef[Transformer], Any, str]:
        """A model's graph and weights as they were stored, in training's layout, and their fingerprint."""
        model = self.store_of(name).load(name, value_head=value_head)
        return model.graph, model.weights, model.fingerprint

    def own_slice(self, rows: int) -> slice:
        """Which of a batch's rows this process holds."""
        return own_slice(self.mesh, rows)

    def kept(self, stage: Stage, name: str, examples: Sequence[Example]) -> Kept | None:
        """Where a training of a stage under way keeps its state, if `checkpoint_every` asks for it."""
        folder = self.run.folder / "underway" / stage.name / name
        return Kept(folder, self.config.checkpoint_every, examples) if self.config.checkpoint_every else None

    def load_policy(self, name: str) -> Policy:
        """The policy of a checkpoint, ready to sample."""
        graph, weights, print_of = self.load_model(name)
        return Policy(*self.sampler(graph, weights), self.tokenizer, print_of, self.asking.policy)

    def sampler(self, graph: nnx.GraphDef[Transformer], weights: Any) -> tuple[nnx.GraphDef[Transformer], Any]:
        """A copy of a model for sampling (`sampler.sampler_weights`); its time counts in `sync_seconds`."""
        since = time.monotonic()
        plain, copied = sampler_weights(graph, weights, self.mesh, self.config.generation.dtype)
        jax.block_until_ready(copied)
        self._sync_seconds += time.monotonic() - since
        return plain, copied

    def sync_seconds(self) -> float:
        """Seconds that bringing weights to the sampler took since the last call; compiling counts."""
        told, self._sync_seconds = self._sync_seconds, 0.0
        return told

    def release(self) -> None:
        """After a stage: what no later one has asked for leaves the device."""
        for store in self._stores.values():
            store.release()


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


def check_rows(config: Config, parts: int) -> None:
    """Raises a `UserError` for a batch that `parts` devices, each in its microbatches, cannot share out evenly."""
    rl, tcg, prm = config.rl, config.tcg, config.prm
    batches = [
        ("bootstrap.batch.rows", config.bootstrap.batch.rows, config.bootstrap.optimizer, False),
        ("tcg.batch.rows", tcg.batch.rows, tcg.optimizer, False),
        ("2 x tcg.dpo_pairs", 2 * tcg.dpo_pairs, tcg.dpo_optimizer if tcg.dpo_updates else None, True),
        ("search.trees", config.search.trees, None, False),
        ("search.slots", config.search.slots, None, False),
        ("sft.batch.rows", config.sft.batch.rows, config.sft.optimizer, False),
        ("sft.batch.rows", config.sft.batch.rows, config.rivals.rejection.optimizer, False),
        ("prm.batch.rows", prm.batch.rows, prm.optimizer, prm.objective == "pairwise"),
        ("rl.minibatch", rl.minibatch, rl.optimizer, rl.algorithm == "dpo"),
        ("rl.minibatch", rl.minibatch, rl.ppo.critic.optimizer if rl.algorithm == "ppo" else None, False),
    ]
    for name, rows, optimizer, pairs in batches:
        taken = optimizer.microbatches if optimizer else 1
        unit = parts if taken == 1 else parts * taken * (2 if pairs else 1)  # as train.step.split_rows
        if rows % unit:
            sharers = f"{parts} device{'s' * (parts > 1)}"
            within = f" in {taken} microbatches" if taken > 1 else ""
            raise UserError(f"{name} is {rows}, which {sharers} cannot share{within}; make it a multiple of {unit}")


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


def reporter(stage: Stage, bar: Progress, prefix: str = "") -> Callable[[int, dict[str, float | None]], None]:
    """Reports updates to the metrics, their names prefixed, and moves the bar."""
    seen = 0

    def report(update: int, metrics: dict[str, float | None]) -> None:
        nonlocal seen
        stage.log(update, **{prefix + name: value for name, value in metrics.items()})
        bar.advance(update - seen, f"loss {metrics['loss']:.3f}")
        seen = update

    return report
