"""Models in checkpoints: whole, or what an adapter trained, beside the base that it was trained on.

A whole model's checkpoint holds all weights. An adapter's holds the adapter (and the value head) alone; its facts name
the checkpoint of its base, in the same folder, with the base's fingerprint.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from o1coder_jax import checkpoint
from o1coder_jax import config as configuration
from o1coder_jax.adapters import AdapterConfig, BaseKind, adapt, freeze, merged, trained
from o1coder_jax.errors import UserError
from o1coder_jax.mesh import host_copy, parameter_shardings, shard_parameters
from o1coder_jax.model_config import ModelConfig
from o1coder_jax.transformer import Transformer

Graph = nnx.GraphDef[Transformer]
Bases = MutableMapping[tuple[Path, BaseKind], tuple[Graph, Any]]
_LARGEST_PART_BYTES = 2**28  # of what a fingerprint holds on the host


@dataclass(frozen=True)
class Base:
    """What an adapter was trained on: a checkpoint's name, and the fingerprint of its weights."""

    checkpoint: str
    fingerprint: str


@dataclass(frozen=True)
class Model:
    """A model, in training's layout on a mesh.

    Attributes:
      graph, weights: the two halves of an `nnx.split` Transformer.
      fingerprint: identifies the weights as they were stored.
      adapter, base: of a model that has an adapter.
    """

    graph: Graph
    weights: Any
    fingerprint: str = ""
    adapter: AdapterConfig | None = None
    base: Base | None = None

    def with_head(self, mesh: Mesh) -> Model:
        """The same arrays with a value head of zeros beside them, so that every score is 0.5."""
        model = nnx.merge(self.graph, self.weights)
        head = {"value": jnp.zeros(model.config.width), "value_bias": jnp.zeros(())}
        for name, value in shard_parameters(mesh, head).items():
            setattr(model, name, nnx.Param(value))
        graph, weights = nnx.split(model)
        return dataclasses.replace(self, graph=graph, weights=weights)

    def with_answers(self, answers: tuple[int, int]) -> Model:
        """The same arrays, whose scores of two tokens stand in place of a value head (`Transformer.answers`)."""
        model = nnx.merge(self.graph, self.weights)
        model.answers = answers
        graph, weights = nnx.split(model)
        return dataclasses.replace(self, graph=graph, weights=weights)

    def plain(self, mesh: Mesh) -> Model:
        """As a whole model, its adapter merged into its weights, in float32."""
        if self.adapter is None:
            return self
        graph, weights = merged(self.graph, self.weights)
        weights = jax.tree.map(lambda x: x.astype(jnp.float32), weights)  # a frozen base may be kept in less
        return Model(graph, shard_parameters(mesh, weights), self.fingerprint)


@dataclass
class Store:
    """The models of one folder of checkpoints, on a mesh.

    Attributes:
      folder: as RUN/checkpoints.
      vocab_size, tokenizer: of the run's vocabulary, and its fingerprint.
      config: takes the place of what a checkpoint tells of itself, where given; it must be of the same shape. A store
        that writes needs one.
      bases: the frozen bases that are in use: models that are adapted from one base share its arrays. `release`
        forgets them.
    """

    folder: Path
    vocab_size: int
    tokenizer: str
    mesh: Mesh
    config: ModelConfig | None = None
    bases: Bases = field(default_factory=dict)

    def load(self, name: str, *, value_head: bool = False) -> Model:
        """A model as it was stored.

        Args:
          value_head: it is to score steps, with its value head, or with the two `answers` that its facts name.

        Raises:
          UserError: there is no such checkpoint, it is damaged or of another vocabulary, or its base is another.
        """
        facts = self._facts(name)
        if value_head and "answers" in facts:
            good, bad = facts["answers"]
            return self.load(name).with_answers((good, bad))
        if "adapter" not in facts:
            graph, shapes = self._abstract(facts, value_head)
            return Model(graph, self._restore(name, shapes), facts["fingerprint"])
        base, adapter = Base(**facts["base"]), AdapterConfig.from_dict(facts["adapter"])
        if not (self.folder / base.checkpoint).exists():
            raise UserError(
                f"{self.folder / name} is an adapter on {base.checkpoint}, which is not in that folder; put it there"
            )
        model = self.adapted(base.checkpoint, adapter, key=jax.random.key(0))
        if model.base != base:
            raise UserError(
                f"{self.folder / name} was trained on {base.checkpoint} {base.fingerprint}, which is another now; "
                "restore it, or do the stage again"
            )
        model = model.with_head(self.mesh) if value_head else model
        weights = nnx.merge_state(model.weights, self._restore(name, trained(model.weights)))
        return dataclasses.replace(model, weights=weights, fingerprint=facts["fingerprint"])

    def adapted(self, name: str, adapter: AdapterConfig, *, key: jax.Array) -> Model:
        """A whole model's weights as a frozen base, with a new adapter; of a model that has one, its base."""
        facts = self._facts(name)
        if "adapter" in facts:
            return self.adapted(facts["base"]["checkpoint"], adapter, key=key)
        place = (self.folder / name, adapter.base)
        if place not in self.bases:
            whole = self.load(name)
            graph, weights = freeze(whole.graph, whole.weights, adapter.base)
            self.bases[place] = graph, shard_parameters(self.mesh, weights)
        graph, weights = adapt(*self.bases[place], adapter, key)
        return Model(
            graph, shard_parameters(self.mesh, weights), adapter=adapter, base=Base(name, facts["fingerprint"])
        )

    def trainable(self, name: str, adapter: AdapterConfig | None, key: jax.Array) -> Model:
        """A model for training: all its weights, or an adapter.

        A model that has this adapter keeps it; another begins a new one, drawn from `key`, on its base. Without an
        adapter to train, one that it has is merged.
        """
        if adapter is None:
            return self.load(name).plain(self.mesh)
        if self._facts(name).get("adapter") == configuration.to_dict(adapter):
            return self.load(name)
        return self.adapted(name, adapter, key=key)

    def save(self, name: str, weights: Any, start: Model | None = None, **facts: Any) -> str:
        """Writes weights, or what an adapter trained of them; returns the fingerprint of that.

        Args:
          start: the model that they were trained from, if it has an adapter.
          facts: to be written beside the usual ones.
        """
        assert self.config is not None
        metadata = {"model": configuration.to_dict(self.config), "tokenizer": self.tokenizer, **facts}
        base = ""
        if start is not None and start.adapter is not None and start.base is not None:
            weights, base = trained(weights), start.base.fingerprint
            metadata |= {"adapter": configuration.to_dict(start.adapter), "base": dataclasses.asdict(start.base)}
        print_of = fingerprint(weights, base)
        checkpoint.save(self.folder / name, nnx.to_pure_dict(weights), metadata | {"fingerprint": print_of})
        return print_of

    def release(self) -> None:
        """Forgets the bases, so that they leave the device with the last model that uses them.

        Models refer to themselves: their arrays stay until such cycles are collected, which knows no device's memory.
        """
        self.bases.clear()
        gc.collect()

    def _facts(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        facts = checkpoint.metadata(path)
        if not {"model", "tokenizer", "fingerprint"} <= facts.keys():
            raise UserError(f"{path} is no checkpoint of a policy or reward model; give RUN/checkpoints/NAME")
        if facts["tokenizer"] != self.tokenizer:
            raise UserError(f"{path} was made with another tokenizer than that of its run")
        return facts

    def _abstract(self, facts: dict[str, Any], value_head: bool) -> tuple[Graph, Any]:
        config = self.config or ModelConfig.from_dict(facts["model"])

        def build() -> Transformer:
            return Transformer(config, self.vocab_size, value_head=value_head, rngs=nnx.Rngs(0))

        return nnx.split(nnx.eval_shape(build))

    def _restore(self, name: str, like: Any) -> Any:
        places = parameter_shardings(self.mesh, like)
        shapes = jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), like, places)
        restored = checkpoint.restore(self.folder / name, nnx.to_pure_dict(shapes))
        nnx.replace_by_pure_dict(shapes, restored)
        return shapes


def fingerprint(weights: Any, base: str = "") -> str:
    """Sixteen hexadecimal digits that identify weights, bit for bit, with those of the base that they adapt; every
    process must ask."""
    digest = hashlib.sha256(base.encode())
    for leaf in jax.tree.leaves(weights):
        for part in _parts(leaf):
            digest.update(np.ascontiguousarray(host_copy(part)).view(np.uint8).data)
    return digest.hexdigest()[:16]


def _parts(array: Any) -> Iterator[Any]:
    """An array along its first axis in parts of little memory."""
    count = -(-array.nbytes // _LARGEST_PART_BYTES)
    if array.ndim < 2 or count < 2:
        yield array
        return
    rows = -(-array.shape[0] // count)
    yield from (array[start : start + rows] for start in range(0, array.shape[0], rows))
