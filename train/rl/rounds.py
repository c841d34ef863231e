"""What a round learns from: groups of paths, each path with what its steps have earned."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from o1coder_jax.hosts import gather
from o1coder_jax.policy import Policy
from o1coder_jax.records import Problem, ProcessRecord, TestCase, Verdict
from o1coder_jax.rewards import step_credits
from o1coder_jax.sampling import SamplingConfig
from o1coder_jax.stopping import stop_places
from sandbox.pool import Submission
from search.config import BaselineConfig, SearchConfig
from search.harvest import Provenance, harvest
from search.waves import Search
from train.programs import sample_programs
from train.rl.config import RLConfig
from train.session import Session

Rater = Callable[[Sequence[Sequence[int]]], list[np.ndarray]]
"""r after every token of each sequence."""
Tests = dict[str, tuple[TestCase, ...]]


@dataclass(frozen=True)
class Path:
    """A path that the policy wrote.

    Attributes:
      prompt, tokens: token ids.
      ends: the last token of each step, as places in `tokens`; of what the cap cut off, too.
      credits: what each step earned; the sum is the path's reward.
      outcome: R; `process`: what the process rewards would give alone.
      usable: False where R could not be checked.
      sampled: log-probability of each token under the sampler; None where it is not known.
      nodes: of a tree's path, the nodes of its steps.
      log_probability: of a tree's path, which is found once, however likely it is; 0 of samples, which are as many as
        they are likely.
    """

    prompt: Sequence[int]
    tokens: Sequence[int]
    ends: Sequence[int]
    credits: Sequence[float]
    outcome: float
    process: float
    usable: bool = True
    sampled: Sequence[float] | None = None
    nodes: Sequence[int] = ()
    log_probability: float = 0.0

    @property
    def reward(self) -> float:
        return sum(self.credits)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each step."""
        return [end - before for before, end in itertools.pairwise([-1, *self.ends])]


Group = list[Path]


@dataclass(frozen=True)
class Drawn:
    """What a round sampled.

    Attributes:
      tokens: generated for the groups.
      lost: paths of which the groups know nothing: a tree's whose programs could not be checked.
    """

    groups: list[Group]
    tokens: int = 0
    lost: int = 0


def credited(path: Path, rated: Sequence[float], config: RLConfig, weight: float) -> Path:
    """The path with what its steps earn by their process rewards and by its outcome.

    A cut-off end has the process reward 0: not to finish a step never pays.
    """
    every = [*rated, *[0.0] * (len(path.ends) - len(rated))]

    def credits(outcome: float, weight: float) -> list[float]:
        return step_credits(outcome, every, weight=weight, gamma=config.phi.gamma, form=config.process)

    return dataclasses.replace(path, credits=credits(path.outcome, weight), process=sum(credits(0.0, 0.0)))


def sampled_groups(
    session: Session, policy: Policy, rate: Rater, problems: Sequence[Problem], tests: Tests, weight: float, salt: int
) -> Drawn:
    """A group of whole paths for each problem, run on the test case generator's tests."""
    config = session.config.rl
    drawn = sample_programs(session, policy, problems, samples=config.samples, salt=salt)
    prompts = [prompt for prompt in session.prompts(problems) for _ in range(config.samples)]
    programs = list(itertools.chain.from_iterable(drawn))
    owners = [problem for problem in problems for _ in range(config.samples)]
    pending = session.judging.submit_all(
        [
            None
            if program.code is None
            else Submission(
                f"rl:{owner.id}", program.code, tests[owner.id], owner.fn_name, owner.compare, stop_at_failure=True
            )
            for owner, program in zip(owners, programs, strict=True)
        ]
    )
    answers = [program.sample.tokens for program in programs]
    scores = rate([[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)])
    stops, paths = policy.stops(), []
    rows = zip(prompts, programs, scores, pending.result(), strict=True)
    for prompt, program, score, verdict in rows:
        tokens = program.sample.tokens
        ends = list(stop_places(stops, tokens))
        rated = [float(score[len(prompt) + end]) for end in ends]
        if not ends or ends[-1] < len(tokens) - 1:
            ends.append(len(tokens) - 1)
        outcome, usable = float(verdict is not None and verdict.accepted), verdict is None or verdict.checked
        path = Path(prompt, tokens, ends, (), outcome, 0.0, usable, program.sample.log_probability)
        paths.append(credited(path, rated, config, weight))
    groups = [paths[i : i + config.samples] for i in range(0, len(paths), config.samples)]
    return Drawn(groups, sum(len(path.tokens) for path in paths))


def tree_settings(config: SearchConfig, samples: int) -> SearchConfig:
    """The search of a round: the run's own, with the policy's plain distribution and its programs' verdicts alone.

    A baseline grows no tree: in its place comes the search that the run would do without.
    """
    return dataclasses.replace(
        dataclasses.replace(config, baseline=BaselineConfig()).resolved(),
        preset="own",
        rollouts=samples,
        value_weight=0.0,
        stop_when_solved=False,
        double_headers=False,
        sampling=SamplingConfig(),
    )


def grown_groups(
    session: Session, policy: Policy, rate: Rater, problems: Sequence[Problem], tests: Tests, weight: float, salt: int
) -> Drawn:
    """The visited paths of a tree for each problem, grown with the generator's tests."""
    config, settings = session.config.rl, tree_settings(session.config.search, session.config.rl.samples)
    asked = [dataclasses.replace(problem, tests=tests[problem.id]) for problem in problems]
    search = Search(
        policy, asked, session.judging.judge, settings, session.mesh, seed=session.config.seed, iteration=salt
    )
    origin = Provenance(session.config.name, salt, policy.fingerprint, policy.tokenizer.fingerprint)
    own = {tree.problem.id: (harvest(tree, origin), tree.tokens, tree.infra_errors) for tree in search}
    grown: dict[str, list[ProcessRecord]] = {}
    tokens = lost = 0
    for part in gather(own):
        for name, (found, count, unchecked) in part.items():
            grown[name] = found
            tokens, lost = tokens + count, lost + unchecked
    records = list(itertools.chain.from_iterable(grown[problem.id] for problem in problems))
    scores = iter(rate([[*r.prompt_tokens, *itertools.chain(*(s.tokens for s in r.steps))] for r in records]))
    groups = [[record_path(record, next(scores), config, weight) for record in grown[one.id]] for one in problems]
    return Drawn(groups, tokens, lost)


def record_path(record: ProcessRecord, score: np.ndarray, config: RLConfig, weight: float) -> Path:
    """A tree's path with what its steps earn; `score` is r after each token."""
    ends = [end - 1 for end in itertools.accumulate(len(step.tokens) for step in record.steps)]
    path = Path(
        prompt=record.prompt_tokens,
        tokens=[token for step in record.steps for token in step.tokens],
        ends=ends,
        credits=(),
        outcome=float(record.correct),
        process=0.0,
        usable=record.verdict is not Verdict.INFRA_ERROR,
        nodes=[step.node for step in record.steps],
        log_probability=record.log_probability,
    )
    return credited(path, [float(score[len(path.prompt) + end]) for end in ends], config, weight)


def marks(groups: Sequence[Group]) -> list[list[float | None]]:
    """R of each path, group by group; None where it could not be checked."""
    return [[path.outcome if path.usable else None for path in group] for group in groups]


def figures(drawn: Drawn) -> dict[str, float]:
    """The parts of the rewards, over the paths that could be checked, and how many could not."""
    paths = [path for group in drawn.groups for path in group]
    usable = [path for path in paths if path.usable]

    def mean(values: Sequence[float]) -> float:
        return float(np.mean(values)) if values else 0.0

    return {
        "reward": mean([path.reward for path in usable]),
        "outcome": mean([path.outcome for path in usable]),
        "process": mean([path.process for path in usable]),
        "steps": mean([float(len(path.ends)) for path in usable]),
        "answer_tokens": mean([float(len(path.tokens)) for path in usable]),
        "masked": float(len(paths) - len(usable) + drawn.lost),
    }
