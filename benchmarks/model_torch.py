"""Training steps and generation with transformers and torch: what `benchmarks.models` compares with.

Runs in an interpreter that has torch and transformers (they are no dependency of ours), and imports nothing of ours:

    TORCH_PYTHON benchmarks/model_torch.py FOLDER

FOLDER holds `model.json` (a Llama configuration and the sizes of the work) and `weights.npz` (weights and tokens). The
first line that it writes is the largest difference of its logits from those in `weights.npz`, and its versions. Then it
answers each line `train KIND COUNT` or `generate KIND COUNT` with the tokens that it processed, the seconds of CPU time
that it took and the first batch's loss (0 for generation).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


class Rival:
    """The model, its optimisers and its inputs."""

    def __init__(self, folder: Path):
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        self.torch = torch
        about = json.loads((folder / "model.json").read_text())
        self.work = about["work"]
        with np.load(folder / "weights.npz") as stored:
            weights = {name: torch.from_numpy(stored[name].copy()) for name in stored.files}
        self.inputs = {name: weights.pop(name) for name in list(weights) if name.startswith("input.")}
        self.models = {}
        for kind in ("sdpa", "eager"):
            config = transformers.LlamaConfig(**about["model"])
            config._attn_implementation = kind
            self.models[kind] = transformers.LlamaForCausalLM(config)
            self.models[kind].load_state_dict(weights)
        self.optimizers: dict[str, Any] = {}
        self.versions = f"torch {torch.__version__}, transformers {transformers.__version__}"

    def difference(self) -> float:
        """The largest difference of the logits from those of the other side."""
        with self.torch.no_grad():
            logits = self.models["sdpa"].eval()(self.inputs["input.train"][:1].long()).logits
        return float((logits - self.inputs["input.logits"]).abs().max())

    def train(self, kind: str, count: int) -> tuple[int, float]:
        """Updates of AdamW with the gradient's norm clipped, as ours; KIND is ATTENTION-OPTIMIZER-PARTS-THREADS.

        A batch is taken in PARTS, whose gradients are added.
        """
        torch, settings = self.torch, self.work["optimizer"]
        attention, form, parts, threads = kind.split("-")
        torch.set_num_threads(int(threads))
        model = self.models[attention].train()
        if kind not in self.optimizers:
            self.optimizers[kind] = torch.optim.AdamW(
                model.parameters(),
                lr=settings["learning_rate"],
                betas=(0.9, settings["beta2"]),
                weight_decay=settings["weight_decay"],
                fused=form == "fused",
                foreach=form == "foreach",
            )
        optimizer = self.optimizers[kind]
        tokens = self.inputs["input.train"].long()
        first: float | None = None
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            for rows in tokens.chunk(int(parts)):
                loss = model(input_ids=rows, labels=rows, use_cache=False).loss / int(parts)
                loss.backward()
                first = float(loss.detach()) if first is None else first
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clip_norm"])
            optimizer.step()
        return count * tokens.numel(), (first or 0.0) * int(parts)

    def generate(self, kind: str, count: int) -> tuple[int, float]:
        """Batches of sampled answers of one length; KIND is ATTENTION-CACHE-THREADS."""
        attention, cache, threads = kind.split("-")
        self.torch.set_num_threads(int(threads))
        tokens = self.inputs["input.prompts"].long()
        model, new = self.models[attention].eval(), self.work["new_tokens"]
        options = {} if cache == "dynamic" else {"cache_implementation": "static", "disable_compile": cache == "static"}
        with self.torch.no_grad():
            for _ in range(count):
                out = model.generate(
                    tokens,
                    attention_mask=self.torch.ones_like(tokens),
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    max_new_tokens=new,
                    eos_token_id=None,
                    pad_token_id=0,
                    **options,
                )
                assert out.shape[1] == tokens.shape[1] + new
        return count * len(tokens) * new, 0.0


def main() -> None:
    rival = Rival(Path(sys.argv[1]))
    print(rival.difference(), rival.versions, flush=True)
    for line in sys.stdin:
        what, kind, count = line.split()
        before = time.process_time()
        tokens, loss = (rival.train if what == "train" else rival.generate)(kind, int(count))
        print(tokens, time.process_time() - before, loss, flush=True)


if __name__ == "__main__":
    main()
