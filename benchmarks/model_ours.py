"""Training steps and generation with this project's own functions: our side of `benchmarks.models`.

    python -m benchmarks.model_ours FOLDER DEVICES

FOLDER and the lines that it answers are those of `model_torch.py`. A training KIND is `optimizer.microbatches`;
generation has one KIND, `-`. DEVICES is `mesh.cpu_devices`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before JAX is imported

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.baseline import llama_form, llama_settings
from o1coder_jax import losses
from o1coder_jax.generate import generate
from o1coder_jax.mesh import MeshConfig, make_mesh, prepare_cpu
from o1coder_jax.sampling import SamplingConfig
from o1coder_jax.stopping import stop_ids
from o1coder_jax.transformer import ModelConfig, Transformer
from train.data import HostBatch
from train.step import Objective, OptimizerConfig, Trainer

WITHOUT_END = 10**9  # updates planned: the learning rate stays at its peak


def model_of(vocabulary: int) -> Transformer:
    return Transformer(ModelConfig(), vocabulary, rngs=nnx.Rngs(0))


def training_batch(tokens: np.ndarray) -> HostBatch:
    """Rows of one sequence each; all tokens but a row's first carry loss."""
    weight = np.ones(tokens.shape, np.float32)
    weight[:, 0] = 0
    positions = np.tile(np.arange(tokens.shape[1], dtype=np.int32), (len(tokens), 1))
    return {"tokens": tokens, "segments": np.ones_like(tokens), "positions": positions, "weight": weight}


def write(folder: Path, *, vocabulary: int, rows: int, length: int, prompts: int, prompt: int, new: int) -> None:
    """What all sides read: the model, its weights, the tokens of a batch and of prompts, and logits to agree on."""
    model = model_of(vocabulary)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, vocabulary, (rows, length), dtype=np.int32)
    batch = training_batch(tokens[:1])
    hidden = model.read(
        tokens=jnp.asarray(batch["tokens"]),
        positions=jnp.asarray(batch["positions"]),
        segments=jnp.asarray(batch["segments"]),
    )
    inputs = {
        "input.train": tokens,
        "input.prompts": rng.integers(0, vocabulary, (prompts, prompt), dtype=np.int32),
        "input.logits": np.asarray(model.logits(hidden)),
    }
    np.savez(folder / "weights.npz", **llama_form(model), **inputs)  # type: ignore[arg-type]
    optimizer = OptimizerConfig()
    about = {
        "model": llama_settings(model),
        "work": {
            "optimizer": {
                "learning_rate": optimizer.learning_rate,
                "beta2": optimizer.beta2,
                "weight_decay": optimizer.weight_decay,
                "clip_norm": optimizer.clip_norm,
            },
            "new_tokens": new,
        },
    }
    (folder / "model.json").write_text(json.dumps(about))


class Ours:
    """The model, a trainer for each number of microbatches, and the prompts."""

    def __init__(self, folder: Path, devices: int):
        prepare_cpu(MeshConfig(cpu_devices=devices))
        self.mesh = make_mesh(MeshConfig())
        about = json.loads((folder / "model.json").read_text())
        self.vocabulary, self.new = about["model"]["vocab_size"], about["work"]["new_tokens"]
        with np.load(folder / "weights.npz") as stored:
            self.batch = training_batch(stored["input.train"])
            self.prompts = stored["input.prompts"].tolist()
        self.graph, self.weights = nnx.split(model_of(self.vocabulary))
        self.trainers: dict[int, Trainer] = {}

    def train(self, kind: str, count: int) -> tuple[int, float]:
        parts = int(kind)
        if parts not in self.trainers:
            optimizer = OptimizerConfig(warmup=0, schedule="constant", microbatches=parts)
            self.trainers[parts] = Trainer(
                self.graph, self.weights, Objective.of(losses.sft), optimizer, self.mesh, updates=WITHOUT_END
            )
        found = [self.trainers[parts].step(self.batch)["loss"] for _ in range(count)]
        jax.block_until_ready(self.trainers[parts].state)
        return count * self.batch["tokens"].size, float(found[0])

    def generate(self, kind: str, count: int) -> tuple[int, float]:
        tokens = 0
        for number in range(count):
            found = generate(
                self.graph,
                self.weights,
                self.prompts,
                samples=1,
                stops=stop_ids(self.vocabulary, []),
                rows=len(self.prompts),
                answer_tokens=self.new,
                sampling=SamplingConfig(),
                mesh=self.mesh,
                seed=(number,),
            )
            tokens += sum(len(sample.tokens) for answers in found for sample in answers)
        return tokens, 0.0


def main() -> None:
    side = Ours(Path(sys.argv[1]), int(sys.argv[2]))
    print(0.0, f"jax {jax.__version__}", flush=True)
    for line in sys.stdin:
        what, kind, count = line.split()
        before = time.process_time()
        tokens, loss = (side.train if what == "train" else side.generate)(kind, int(count))
        print(tokens, time.process_time() - before, loss, flush=True)


if __name__ == "__main__":
    main()
