"""Training steps with Tunix's SFT trainer: what `benchmarks.models` compares with.

Runs in an interpreter that has google-tunix (it is no dependency of ours), and imports nothing of ours:

    TUNIX_PYTHON benchmarks/model_tunix.py FOLDER

FOLDER is that of `model_torch.py`, and so are the lines that it answers; KIND is PARTS, in how many parts a batch is
taken. The model is Tunix's Llama of equal shape with weights of its own, so the first line says nothing of logits.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


class Rival:
    """A trainer for each number of parts."""

    def __init__(self, folder: Path):
        import jax
        import optax
        from flax import nnx
        from tunix.models.llama3 import model as llama
        from tunix.sft import peft_trainer

        self.tunix = peft_trainer
        about = json.loads((folder / "model.json").read_text())
        shape, settings = about["model"], about["work"]["optimizer"]
        self.config = llama.ModelConfig(
            num_layers=shape["num_hidden_layers"],
            vocab_size=shape["vocab_size"],
            embed_dim=shape["hidden_size"],
            hidden_dim=shape["intermediate_size"],
            num_heads=shape["num_attention_heads"],
            head_dim=shape["head_dim"],
            num_kv_heads=shape["num_key_value_heads"],
            rope_theta=int(shape["rope_parameters"]["rope_theta"]),
            norm_eps=shape["rms_norm_eps"],
            weight_tying=True,
        )
        self.fresh = lambda: llama.Llama3(self.config, rngs=nnx.Rngs(0))
        self.optimizer = lambda: optax.chain(
            optax.clip_by_global_norm(settings["clip_norm"]),
            optax.adamw(settings["learning_rate"], b2=settings["beta2"], weight_decay=settings["weight_decay"]),
        )
        with np.load(folder / "weights.npz") as stored:
            self.tokens = stored["input.train"]
        self.trainers: dict[int, Any] = {}
        self.block = lambda model: jax.block_until_ready(nnx.state(model))
        self.versions = f"tunix, jax {jax.__version__}"

    def trainer(self, parts: int) -> Any:
        if parts not in self.trainers:
            config = self.tunix.TrainingConfig(
                eval_every_n_steps=10**9,
                gradient_accumulation_steps=parts if parts > 1 else None,
                pbar_description=None,
            )
            length = self.tokens.shape[1]

            def inputs(given: Any) -> dict[str, Any]:
                rows = len(given.input_tokens)
                causal = np.broadcast_to(np.tri(length, dtype=bool), (rows, length, length))
                positions = np.broadcast_to(np.arange(length), (rows, length))
                return {
                    "input_tokens": given.input_tokens,
                    "input_mask": given.input_mask,
                    "positions": positions,
                    "attention_mask": causal,
                }

            trainer = self.tunix.PeftTrainer(self.fresh(), self.optimizer(), config)
            self.trainers[parts] = trainer.with_gen_model_input_fn(inputs)
        return self.trainers[parts]

    def train(self, parts: int, count: int) -> int:
        trainer = self.trainer(parts)
        rows = np.split(self.tokens, parts)
        batches = [self.tunix.TrainingInput(part, np.ones(part.shape, bool)) for part in rows] * count
        steps = trainer.train_steps
        trainer.train(itertools.chain(batches[:1] * trainer.iter_steps, batches))  # it skips as many as it has seen
        self.block(trainer.model)
        assert trainer.train_steps == steps + count
        return count * int(self.tokens.size)


def main() -> None:
    rival = Rival(Path(sys.argv[1]))
    print(0.0, rival.versions, flush=True)
    for line in sys.stdin:
        _, kind, count = line.split()
        before = time.process_time()
        tokens = rival.train(int(kind), int(count))
        print(tokens, time.process_time() - before, 0.0, flush=True)


if __name__ == "__main__":
    main()
