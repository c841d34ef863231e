"""Pairs for DPO from what the generator itself writes.

*Corrected*: an answer with a wrong output loses to the same inputs with right ones. *Compared*: of the tests that it
wrote for a problem the invalid ones lose to valid ones. *Co-evolution*: of several answers to a problem, the one whose
valid tests do best against wrong programs of the policy wins (the solution x test matrix); the better the policy, the
subtler the programs that the tests have to tell from right ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from o1coder_jax import tcg
from o1coder_jax.errors import UserError
from o1coder_jax.problems.curriculum import traces
from o1coder_jax.records import Problem, TestCase
from o1coder_jax.steps import END, STEP_END
from o1coder_jax.vocabulary import Vocabulary
from train.data import example
from train.session import Session
from train.tcg.answers import Answers, read, sampled, true_cases, valid_cases
from train.tcg.examples import Pair, answer, prompt
from train.tcg.measures import kills, wrong_programs

RIVALS = 4  # answers of one problem that meet the same programs


def corrected_pairs(session: Session, weights: Any, problems: Sequence[Problem]) -> tuple[list[Pair], int]:
    """(right outputs, the generator's own) for answers that are well formed and hold a wrong output.

    Returns:
      The pairs, and the tokens that were generated.
    """
    samples = sampled(session, weights, problems, answers=1, salt=11)
    answers = [read(session, problem, drawn) for problem, drawn in zip(problems, samples, strict=True)]
    valid = valid_cases(session, problems, answers)
    right = true_cases(session, problems, [[case.input for case in a.cases] for a in answers])
    pairs = []
    for problem, (sample,), a, fine, cases in zip(problems, samples, answers, valid, right, strict=True):
        whole = sample.ended and not a.malformed and len(cases) == len(a.cases)
        if whole and None not in fine and not all(fine) and readable(session, problem, cases):
            asked, better = prompt(session, problem), answer(session, problem, cases)
            pairs.append(from_difference(asked, better, sample.tokens, session.config.tcg.corrected_tokens))
    return pairs, sum(len(sample.tokens) for (sample,) in samples)


def from_difference(asked: Sequence[int], better: Sequence[int], worse: Sequence[int], tokens: int) -> Pair:
    """Two answers as a pair: whole, or (`tokens` above 0) so many tokens of each from the first that differs.

    What they have in common then counts as asked, and what follows a mistake is not learned from.
    """
    if not tokens:
        return example(asked, better), example(asked, worse)
    alike = itertools.takewhile(lambda both: both[0] == both[1], zip(better, worse, strict=False))
    same = sum(1 for _ in alike)
    before, end = [*asked, *better[:same]], same + tokens
    return example(before, better[same:end]), example(before, worse[same:end])


def readable(session: Session, problem: Problem, cases: Sequence[TestCase]) -> bool:
    """Whether traces can be written for these inputs, where they have to be."""
    if session.config.tcg.trace == "clauses":
        try:
            traces(problem, [case.input for case in cases])
        except UserError:  # the reference took an input that the statement does not allow
            return False
    return True


def compared_pairs(session: Session, weights: Any, problems: Sequence[Problem]) -> tuple[list[Pair], int]:
    """(valid, invalid) single tests of the same problem; a trivial test is never preferred, whatever its output.

    As many for each problem as it has of the rarer.

    Returns:
      The pairs, and the tokens that were generated.
    """
    samples = sampled(session, weights, problems, answers=RIVALS, salt=13)
    vocabulary, config = session.generator.vocabulary, session.config.tcg
    cut = [[one for sample in drawn for one in pieces(vocabulary, sample.tokens)] for drawn in samples]
    cases = [
        [tcg.parse_case(vocabulary.decode(one), problem.form, config.written) for one in of]
        for problem, of in zip(problems, cut, strict=True)
    ]
    judged = valid_cases(session, problems, [Answers([one for one in of if one], 0) for of in cases])
    pairs = []
    for problem, of, read_as, valid in zip(problems, cut, cases, judged, strict=True):
        verdicts = iter(valid)
        right, wrong = [], []
        for tokens, case in zip(of, read_as, strict=True):
            if case is None:
                wrong.append(tokens)
                continue
            good = next(verdicts)
            if good is False:
                wrong.append(tokens)
            elif good and not tcg.trivial(case.input, problem.form):
                right.append(tokens)
        asked = prompt(session, problem)
        pairs += [(example(asked, better), example(asked, worse)) for better, worse in zip(right, wrong, strict=False)]
    return pairs, sum(len(sample.tokens) for drawn in samples for sample in drawn)


def pieces(vocabulary: Vocabulary, tokens: Sequence[int]) -> list[list[int]]:
    """The tokens of each test of an answer, without the marker behind it; a last one without marker is left out."""
    out: list[list[int]] = []
    piece: list[tuple[int, int]] = []  # tokens, and how long the text is with each
    text = ""
    for token in tokens:
        text += vocabulary.decode([token])
        piece.append((token, len(text)))
        if text.endswith((STEP_END, END)):
            length = len(text.removesuffix(END).removesuffix(STEP_END))
            out.append([one for one, upto in piece if upto <= length])
            piece, text = [], ""
    return out


def coevolution_pairs(
    session: Session, weights: Any, problems: Sequence[Problem], policy: str = ""
) -> tuple[list[Pair], int]:
    """(best, worst) of `RIVALS` answers per problem, by `scores`; problems whose answers do equally well give none.

    Args:
      policy: whose wrong programs are to be rejected; empty: the base's.

    Returns:
      The pairs, and the tokens that were generated.
    """
    samples = sampled(session, weights, problems, answers=RIVALS, salt=12)
    flat = [problem for problem in problems for _ in range(RIVALS)]
    answers = [read(session, p, [s]) for p, drawn in zip(problems, samples, strict=True) for s in drawn]
    found, tokens = wrong_programs(session, problems, policy)
    wrong = [codes for codes in found for _ in range(RIVALS)]
    scored = scores(session, flat, answers, wrong)
    pairs = []
    for place, (problem, drawn) in enumerate(zip(problems, samples, strict=True)):
        own = [one for one in scored[place * RIVALS : (place + 1) * RIVALS] if one is not None]
        if len(own) < RIVALS:  # some of them could not be checked
            continue
        best, worst = (own.index(find(own)) for find in (max, min))
        if own[best] > own[worst] and drawn[best].ended:
            asked = prompt(session, problem)
            pairs.append((example(asked, drawn[best].tokens), example(asked, drawn[worst].tokens)))
    return pairs, tokens + sum(len(sample.tokens) for drawn in samples for sample in drawn)


def scores(
    session: Session, problems: Sequence[Problem], answers: Sequence[Answers], wrong: Sequence[Sequence[str]]
) -> list[float | None]:
    """How good each answer's tests are: the share of valid ones, plus the share of wrong programs that these reject.

    Without wrong programs validity alone counts. None where some of it could not be checked.
    """
    valid = valid_cases(session, problems, answers)
    suites = [
        [case for case, good in zip(a.cases, fine, strict=True) if good] for a, fine in zip(answers, valid, strict=True)
    ]
    killed = kills(session, problems, wrong, suites)
    out: list[float | None] = []
    for a, fine, dead in zip(answers, valid, killed, strict=True):
        pieces = len(a.cases) + a.malformed
        if None in (*fine, *dead):
            out.append(None)
        else:
            out.append(fine.count(True) / max(pieces, 1) + dead.count(True) / max(len(dead), 1))
    return out
