"""The other side of the comparison in `benchmarks.search`: its files, its processes, and its best settings."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import scripted
from benchmarks.asked import Asked
from benchmarks.measure import timed
from o1coder_jax.errors import UserError
from o1coder_jax.policy import Policy, encode_prompt
from o1coder_jax.records import Problem
from o1coder_jax.transformer import Transformer
from search.config import SearchConfig

SCRIPT = Path(__file__).parent / "sequential.py"
CACHES = ("dynamic", "kept", "static")
AGREEMENT = 1e-4  # the largest difference of the logits that is taken for the same model
MISSING = "needs torch and transformers (python -m pip install torch transformers) in the interpreter of --torch-python"


def llama_form(model: Transformer) -> dict[str, np.ndarray]:
    """The weights under the names of transformers' Llama, or with norms of queries and keys those of its Qwen3."""

    def array(value: Any) -> np.ndarray:
        return np.asarray(value[...], np.float32)

    blocks, width, layers = model.blocks, model.config.width, model.config.layers
    embedding = array(model.embedding)
    head = embedding if model.config.tied_embeddings else array(model.projection).T
    found = {"model.embed_tokens.weight": embedding, "lm_head.weight": head, "model.norm.weight": array(model.norm)}
    into = {"self_attn.q_proj": blocks.query.weight, "self_attn.k_proj": blocks.key.weight}
    into |= {"self_attn.v_proj": blocks.value.weight}
    into |= {"mlp.gate_proj": blocks.gate.weight, "mlp.up_proj": blocks.up.weight}
    back = {"self_attn.o_proj": blocks.output.weight, "mlp.down_proj": blocks.down.weight}
    norms = {"input_layernorm": blocks.attention_norm, "post_attention_layernorm": blocks.mlp_norm}
    if model.config.qk_norm:
        norms |= {"self_attn.q_norm": blocks.query_norm, "self_attn.k_norm": blocks.key_norm}
    for i in range(layers):
        named = {name: array(weight)[i].reshape(width, -1).T for name, weight in into.items()}
        named |= {name: array(weight)[i].reshape(-1, width).T for name, weight in back.items()}
        named |= {name: array(weight)[i] for name, weight in norms.items()}
        found |= {f"model.layers.{i}.{name}.weight": weight for name, weight in named.items()}
    return {name: np.ascontiguousarray(weight) for name, weight in found.items()}


def llama_settings(model: Transformer) -> dict[str, Any]:
    """The same model in the words of transformers' `LlamaConfig`."""
    c = model.config
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": c.width,
        "intermediate_size": c.mlp_width,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_size,
        "rms_norm_eps": c.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},
        "tie_word_embeddings": c.tied_embeddings,
        "max_position_embeddings": 1024,
    }


def write(folder: Path, policy: Policy, problems: Sequence[Problem], config: SearchConfig, accepted: float) -> None:
    """What the script reads."""
    model = nnx.merge(policy.graph, policy.weights)
    prompts = [encode_prompt(policy.tokenizer, problem, config.prompt_tokens)[0] for problem in problems]
    tokens = jnp.asarray([(prompts[0] * 3)[:48]], jnp.int32)
    logits = jax.jit(
        lambda: model.logits(model.read(tokens, jnp.arange(48)[None], jnp.ones_like(tokens)))  # once
    )()
    check = {"check.tokens": np.asarray(tokens), "check.logits": np.asarray(logits)}
    np.savez(folder / "weights.npz", **llama_form(model), **check)  # type: ignore[arg-type]
    about = {
        "model": llama_settings(model),
        "search": {
            "samples": config.samples,
            "rollouts": config.rollouts,
            "depth": config.depth,
            "step_tokens": config.step_tokens,
            "code_tokens": config.code_tokens,
            "exploration": config.selection.exploration,
            "stops": [scripted.PhraseTokenizer.step_end, scripted.PhraseTokenizer.end],
            "accepted": accepted,
        },
        "pieces": scripted.PIECES,
    }
    (folder / "model.json").write_text(json.dumps(about))
    listed = [{"id": problem.id, "prompt": ids} for problem, ids in zip(problems, prompts, strict=True)]
    (folder / "problems.json").write_text(json.dumps(listed))


class Baseline(Asked):
    """A process that searches when it is told to.

    Attributes:
      difference: of its logits from ours.
    """

    def __init__(self, python: str, folder: Path, policy: str):
        variables = {"OMP_WAIT_POLICY": policy, "OMP_NUM_THREADS": "2"}
        super().__init__([python, str(SCRIPT), str(folder)], variables, needs=MISSING)
        self.difference = float(self.first)
        if not self.difference < AGREEMENT:
            raise UserError(f"the baseline's model is another: its logits differ by {self.difference}")

    def search(self, cache: str, threads: int, first: int, count: int) -> int:
        """Searches so many problems."""
        return int(self.ask(f"{cache} {threads} {first} {count}").split()[0])


@contextlib.contextmanager
def best(
    python: str, policy: Policy, problems: Sequence[Problem], config: SearchConfig, *, accepted: float, trial: int
) -> Iterator[tuple[Callable[[], int], dict[str, Any]]]:
    """A search of `problems` by the fastest of all settings, each tried on `trial` problems; and what was found."""
    rates: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        write(folder, policy, problems, config, accepted)
        servers = {}
        for wait in ("active", "passive"):
            server = servers[wait] = Baseline(python, folder, wait)
            stack.callback(server.close)
            for threads in (1, 2):
                for cache in CACHES:
                    server.search(cache, threads, 0, 1)
                    done = timed(lambda s=server, t=threads, c=cache: s.search(c, t, 0, trial))  # type: ignore[misc]
                    rates[f"{wait} {threads} {cache}"] = round(60 * done.count / done.cpu_seconds, 2)
        chosen = max(rates, key=lambda key: rates[key])
        wait, threads_, cache = chosen.split()
        details = {
            "settings": "OMP_WAIT_POLICY, threads, cache",
            "problems_a_cpu_minute": rates,
            "best": chosen,
            "largest_difference_of_logits": max(server.difference for server in servers.values()),
        }
        yield lambda: servers[wait].search(cache, int(threads_), 0, len(problems)), details
