"""A sequential tree search over transformers' `generate`: what `benchmarks.search` compares with.

Runs in an interpreter that has torch and transformers (they are no dependency of ours), and imports nothing of ours:

    TORCH_PYTHON benchmarks/sequential.py FOLDER

FOLDER holds `model.json` (a Qwen3 configuration and the search's settings), `weights.npz` and `problems.json`. The
first line that it writes is the largest difference of its logits from those in `weights.npz`; then it answers each line
`CACHE THREADS FIRST COUNT` with `COUNT TOKENS` once that many problems are searched. A tree is plain UCT with random
simulation, K candidates from one call (a batch of K rows), one problem at a time, as the published systems do it.
"""

from __future__ import annotations

import copy
import json
import math
import random
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np


class Searcher:
    """The model, and the search over it."""

    def __init__(self, folder: Path):
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        self.torch, self.transformers = torch, transformers
        about = json.loads((folder / "model.json").read_text())
        self.search, self.pieces = about["search"], about["pieces"]
        self.problems = json.loads((folder / "problems.json").read_text())
        with np.load(folder / "weights.npz") as stored:
            weights = {name: torch.from_numpy(stored[name].copy()) for name in stored.files}
        self.check = weights.pop("check.tokens"), weights.pop("check.logits")
        config = transformers.Qwen3Config(**about["model"])
        config._attn_implementation = "sdpa"
        self.model = transformers.Qwen3ForCausalLM(config).eval()
        self.model.load_state_dict(weights)
        self.tokens = 0

    def difference(self) -> float:
        """The largest difference of the logits from those of the other side."""
        tokens, expected = self.check
        with self.torch.no_grad():
            return float((self.model(tokens.long()).logits - expected).abs().max())

    def candidates(self, path: list[int], held: Any, cache: str) -> tuple[list[list[int]], Any]:
        """K steps after a path, and the keys and values of the path where they are kept."""
        torch, settings = self.torch, self.search
        width = settings["samples"]
        options: dict[str, Any] = {}
        if cache == "kept":  # the path's keys and values are those of its parent's, and of the last step
            held = self.transformers.DynamicCache() if held is None else copy.deepcopy(held)
            missing = torch.tensor([path[held.get_seq_length() : -1]])
            if missing.shape[1]:
                self.model(missing, past_key_values=held, use_cache=True)
            rows = copy.deepcopy(held)
            rows.batch_repeat_interleave(width)
            options["past_key_values"] = rows
        elif cache == "static":
            options["cache_implementation"] = "static"
        ids = torch.tensor([path] * width)
        with torch.no_grad():
            out = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                top_k=0,
                max_new_tokens=settings["code_tokens"],
                eos_token_id=settings["stops"],
                pad_token_id=settings["stops"][-1],
                **options,
            )
        drawn = [cut(row, settings["stops"]) for row in out[:, len(path) :].tolist()]
        self.tokens += sum(map(len, drawn))
        return drawn, held

    def ended(self, step: list[int], depth: int) -> tuple[bool, bool]:
        """Whether no step may follow, and whether it is a program."""
        settings = self.search
        text = "".join(self.pieces[i] if i < len(self.pieces) else " ?" for i in step)
        code = text.startswith("1. code:\n```python\n") and step[-1] == settings["stops"][1]
        fine = text.startswith(("1. define: ", "1. refine: ")) and step[-1] == settings["stops"][0]
        return code or not fine or len(step) > settings["step_tokens"] or depth >= settings["depth"], code

    def grow(self, problem: dict[str, Any], cache: str, chance: random.Random) -> None:
        """One tree."""
        settings = self.search
        root: dict[str, Any] = {"path": problem["prompt"], "held": None, "parent": None, "depth": 0, "ended": False}
        root |= {"visits": 0, "total": 0.0, "children": [], "closed": False}
        for _ in range(settings["rollouts"]):
            if root["closed"]:
                return
            node = root
            while not node["ended"]:
                if not node["children"]:
                    self.expand(node, cache)
                node = select(node, settings["exploration"], chance)
            reward = float(node["code"] and accepted(problem["id"], node["path"], settings["accepted"]))
            node["closed"] = True
            while node is not None:
                node["visits"], node["total"] = node["visits"] + 1, node["total"] + reward
                node["closed"] = node["closed"] or all(c["closed"] for c in node["children"] or [{"closed": False}])
                node = node["parent"]

    def expand(self, node: dict[str, Any], cache: str) -> None:
        drawn, node["held"] = self.candidates(node["path"], node["parent"] and node["parent"]["held"], cache)
        for step in drawn:
            ended, code = self.ended(step, node["depth"] + 1)
            child = {"path": node["path"] + step, "held": None, "parent": node, "depth": node["depth"] + 1}
            child |= {"ended": ended, "code": code, "visits": 0, "total": 0.0, "children": [], "closed": False}
            node["children"].append(child)


def cut(step: list[int], stops: list[int]) -> list[int]:
    """A step up to its stop; what follows is padding."""
    for i, token in enumerate(step):
        if token in stops:
            return step[: i + 1]
    return step


def select(node: dict[str, Any], exploration: float, chance: random.Random) -> dict[str, Any]:
    """UCT; never-visited children first, at random."""
    open_ = [child for child in node["children"] if not child["closed"]]
    fresh = [child for child in open_ if not child["visits"]]
    if fresh:
        return chance.choice(fresh)
    log = math.log(max(node["visits"], 1))
    return max(open_, key=lambda c: c["total"] / c["visits"] + exploration * math.sqrt(log / c["visits"]))


def accepted(problem: str, path: list[int], share: float) -> bool:
    """A judge that decides by the last tokens alone, at once."""
    return zlib.crc32(f"{problem} {path[-16:]}".encode()) % 1000 < 1000 * share


def main() -> None:
    folder = Path(sys.argv[1])
    searcher = Searcher(folder)
    print(searcher.difference(), flush=True)
    for line in sys.stdin:
        cache, threads, first, count = line.split()
        searcher.torch.set_num_threads(int(threads))
        searcher.torch.manual_seed(int(first))
        searcher.tokens = 0
        with searcher.torch.no_grad():
            for problem in searcher.problems[int(first) : int(first) + int(count)]:
                searcher.grow(problem, cache, random.Random(problem["id"]))
        print(count, searcher.tokens, flush=True)


if __name__ == "__main__":
    main()
