"""Who holds which pages, without a device."""

from __future__ import annotations

import dataclasses

import numpy as np

from search.expansion import Ended, Expansion
from search.plans import Sizes
from search.slots import Part
from search.tree import Node, Tree
from tests.search.scripted import CONFIG, PROBLEMS

SIZES = Sizes(rows=4, paths=3, turnover=4, openings=2, prompts=1, pages=12)


def plan() -> dict[str, np.ndarray]:
    """As `Device` prepares it: out of range."""
    rows, openings = SIZES.turnover, SIZES.openings
    nowhere = SIZES.pages * CONFIG.page_tokens
    shapes = {"kept": (rows,), "row": (rows,), "path": (rows,), "lane": (rows,), "seeds": (rows, 2)}
    shapes |= dict.fromkeys(("slot", "last", "length", "last_path_place", "end_page"), (openings,))
    shapes |= {"last_place": (openings, 1)}
    shapes |= dict.fromkeys(("table", "filled"), (openings, CONFIG.path_pages))
    return {name: np.zeros(shape, np.int64) for name, shape in shapes.items()} | {
        "kept_places": np.full((rows, CONFIG.step_tokens), nowhere)
    }


def test_step_whose_pages_were_released_is_not_kept():
    """They may hold something else by then: what is read before a wave is written before the wave keeps its steps."""
    part = Part(dataclasses.replace(CONFIG, merge_identical=False), SIZES, 0, rated=False)
    tree = Tree(0, PROBLEMS[0], (0, 1, 2))
    part.read_prompt(tree, 0)
    expansion = Expansion.begin(0, tree, 0, number=0, seed=np.zeros(2, np.uint32), width=CONFIG.samples)
    part.waiting.append(expansion)
    part.fill(plan(), 0)
    for k in range(CONFIG.samples):
        part.take(Ended(expansion, k, k), Node(parent=0, depth=1, tokens=(1 + k, 1, 7)), 1)
    part.adopt(expansion, [1, -1, 2])  # the second was not taken into the tree
    wave = plan()
    part.fill(wave, 1)
    kept = {row for row, places in enumerate(wave["kept_places"]) if places[0] < SIZES.pages * CONFIG.page_tokens}
    assert kept == {0, 2} and [*wave["kept"][[0, 2]]] == [0, 2]
