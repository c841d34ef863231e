"""Run as a program with four virtual devices: loads a checkpoint onto a 2 x 2 mesh; prints JSON.

What comes out: `result`, bytes of the weights; `peak`, bytes by which the process grew meanwhile, at most, files apart
(the devices are the host here); `share`, of each parameter on a device; `equal`, whether each is that of the files.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import safe_open

from o1coder_jax import hf, weights
from o1coder_jax.allocation import keep_freed_memory
from o1coder_jax.mesh import MeshConfig, make_mesh, parameter_name


def private_bytes() -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


class Peak(threading.Thread):
    """The most that the process held, looked at every millisecond."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes = private_bytes()
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.001):
            self.bytes = max(self.bytes, private_bytes())


def main(folder: Path) -> None:
    keep_freed_memory()  # as every command does
    jax.config.update("jax_num_cpu_devices", 4)
    config, mesh = hf.model_config(folder), make_mesh(MeshConfig(data=1, fsdp=2, tensor=2))
    jax.block_until_ready(jax.jit(jnp.sin)(jnp.zeros(8)))  # what JAX itself takes is there before
    before, peak = private_bytes(), Peak()
    peak.start()
    _, loaded = weights.load(folder, config, mesh)
    peak.over.set()
    peak.join()
    share, equal = {}, {}
    with safe_open(folder / weights.WHOLE, "np") as file:
        for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(loaded)):
            name = parameter_name(path)
            share[name] = leaf.addressable_shards[3].data.size / leaf.size
            stored = weights.STORED[name]
            own = np.asarray(leaf)
            parts = weights.stored_tensors(path, leaf.shape)
            equal[name] = all(
                np.array_equal(
                    own[layer] if len(parts) > 1 else own,
                    (file.get_tensor(at).T if stored.transposed else file.get_tensor(at)).reshape(shape),
                )
                for layer, (at, shape) in enumerate(parts)
            )
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(loaded))
    print(json.dumps({"result": size, "peak": peak.bytes - before, "share": share, "equal": equal}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
