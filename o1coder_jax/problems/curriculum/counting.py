"""How many different problems there are: a lower bound, by behaviour."""

from __future__ import annotations

import collections
import random

from o1coder_jax.problems.curriculum.behaviour import examine, instances
from o1coder_jax.problems.curriculum.parting import Template, draw_template


def count_distinct(limit: int, *, length: int = 4, seed: int = 0) -> int:
    """Counts instances of `length` clauses that differ in what they compute, and stops at `limit`.

    Statements, forms and phrasings are not counted apart. Each instance is examined as in `build`: nearly
    constant ones, and those with a clause that hardly matters, do not count.
    """
    rng = random.Random(f"count/{seed}")
    used: collections.Counter[str] = collections.Counter()
    tried: set[Template] = set()
    signatures: set[bytes] = set()
    while len(signatures) < limit:
        template = draw_template(length, used, rng)
        if template is None or template in tried:
            continue
        tried.add(template)
        kind, names = template
        signatures.update(found.signature for item in instances(names) if (found := examine(kind, item)) is not None)
    return len(signatures)
