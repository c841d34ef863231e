"""A run's model as a folder that transformers and vLLM load.

    python -m train.export runs/tiny --role policy -o DIR
    python -m train.export runs/tiny --role prm --checkpoint prm-001 --dtype bfloat16 -o DIR

    DIR/config.json, generation_config.json    the shape; those of the checkpoint that the role began from, if it did
    DIR/model.safetensors                      the weights (in parts, with an index, where they are large)
    DIR/tokenizer.json, ...                    the vocabulary and its chat template
    DIR/value_head.safetensors                 of a process reward model: `v_head.summary.weight` (1, width) and
                                               `v_head.summary.bias` (1,); r is the sigmoid of their product with the
                                               last layer's normed state

With --adapter a model that was trained as an adapter is written for peft, to be put on its base:

    DIR/adapter_config.json, adapter_model.safetensors    and value_head.safetensors

The embedded vocabulary is sentencepiece's (`tokenizer.model`), with markers and newlines of its own:
`o1coder_jax.tokenizer.Tokenizer.load` reads it, transformers does not.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
from pathlib import Path
from typing import Any

from flax import nnx

from o1coder_jax import checkpoint, hf_export
from o1coder_jax.errors import UserError, run_command
from o1coder_jax.tokenizer import Tokenizer
from o1coder_jax.vocabulary import ByteLevelVocabulary, Vocabulary
from search.models import load_reward_model
from train.best import BEST
from train.config import Config
from train.pretrained import source_of
from train.session import GENERATOR_TOKENIZER
from train.trained import Trained

ROLES = ("policy", "prm", "tcg")
DTYPES = ("float32", "bfloat16", "float16")
COPIES = ("policy-000", "prm-base", "tcg-base")  # of downloaded models, see train/pretrained.py


def export(
    run: Path,
    role: str,
    out: Path,
    *,
    dtype: str = "float32",
    name: str | None = None,
    like: Path | None = None,
    adapter: bool = False,
) -> str:
    """Writes a model of a run; returns what was written in one line.

    Args:
      run: the run folder.
      role: one of `ROLES`.
      out: the folder to make; a `UserError` if there is something already.
      dtype: of the files, one of `DTYPES`.
      name: of the checkpoint; None for the role's best or latest.
      like: folder of the checkpoint that the model came from, for what a run does not keep of it; None for the one
        that the role began from, if any.
      adapter: writes the adapter alone, for peft; otherwise it is merged into its base.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already; remove it, or give another folder")
    trained = Trained.open(run)
    name = name or checkpoint_name(run, role)
    source = like or _source(trained.config, role)
    partial = out.with_name(out.name + ".partial")  # the folder appears when it is whole
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if adapter:
        fingerprint = _write_adapter(partial, run / "checkpoints" / name, like, source)
    else:
        model = _model(trained, run, role, name)
        vocabulary = trained.tokenizer if role == "prm" else model.tokenizer
        config, fingerprint = nnx.merge(model.graph, model.weights).config, model.fingerprint
        rows = model.weights["embedding"].shape[0]
        hf_export.write_config(partial, config, rows, dtype, like=source, end_ids=_end_ids(vocabulary))
        if not (source and hf_export.copy_tokenizer(source, partial)):
            own = role == "tcg" and trained.config.tcg.checkpoint
            hf_export.copy_tokenizer((run / GENERATOR_TOKENIZER).parent if own else run, partial)
        hf_export.write_weights(partial, model.weights, dtype)
    if out.exists():
        out.rmdir()
    os.rename(partial, out)
    size = sum(file.stat().st_size for file in out.iterdir())
    return f"{out}: {name} of {run} ({fingerprint}){'' if adapter else f' in {dtype}'}, {size:,} bytes"


def _model(trained: Trained, run: Path, role: str, name: str) -> Any:
    """The model of a checkpoint; a value head that was trained alone, with the policy that it was fitted on."""
    if role != "prm":
        return trained.generator(name) if role == "tcg" else trained.policy(name)
    saved = run / "checkpoints" / name
    if "head_of" not in checkpoint.metadata(saved):
        return load_reward_model(saved, trained.tokenizer, trained.mesh)
    kind, _, round_number = name.partition("-")
    policy = trained.policy(f"{'policy' if kind == 'head' else 'sft'}-{round_number}")
    return trained.rater(name, policy)[0]


def _write_adapter(folder: Path, saved: Path, like: Path | None, source: Path | None) -> str:
    """Writes what an adapter trained; returns its fingerprint. Numbers are those of the checkpoint.

    peft wants the folder of its base: `like`, or the downloaded `source`, where the base is a copy of that.
    """
    facts = checkpoint.metadata(saved)
    if "adapter" not in facts:
        raise UserError(f"{saved} was trained without an adapter; leave --adapter out")
    settings, adapted = facts["adapter"], facts["base"]["checkpoint"]
    base = like or (source if adapted in COPIES else None)
    if base is None:
        raise UserError(
            f"{saved} adapts {adapted} of this run; export that first (--checkpoint {adapted} -o FOLDER), and name its "
            f"folder with --like FOLDER"
        )
    hf_export.write_adapter(
        folder,
        checkpoint.restore(saved),
        rank=settings["rank"],
        alpha=settings["alpha"],
        dropout=settings["dropout"],
        base=str(base),
    )
    return str(facts["fingerprint"])


def checkpoint_name(run: Path, role: str) -> str:
    """The best policy (before the evaluation the latest), the latest process reward model, the latest generator."""
    names = sorted(path.name for path in (run / "checkpoints").glob("*"))
    if role == "policy" and BEST in names:
        return BEST
    found = [name for name in names if re.fullmatch(rf"{role}(-\d+)?", name)]  # the first generator has no number
    if not found:
        raise UserError(f"{run} has no checkpoint of a {role} yet; it has {', '.join(names) or 'none at all'}")
    return found[-1]


def _source(config: Config, role: str) -> Path | None:
    """The checkpoint that a role's model came from, where it still lies there."""
    folder = source_of(config, role)
    return Path(folder) if folder and Path(folder).is_dir() else None


def _end_ids(vocabulary: Vocabulary) -> tuple[int, ...]:
    if isinstance(vocabulary, ByteLevelVocabulary):
        return vocabulary.ends
    assert isinstance(vocabulary, Tokenizer)
    return (vocabulary.end,)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m train.export", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, help="the run folder, as runs/tiny")
    parser.add_argument("--role", choices=ROLES, default="policy")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--checkpoint", help="a name in RUN/checkpoints; the role's best or latest if not given")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the files")
    parser.add_argument("--like", type=Path, help="folder of the checkpoint that the model came from")
    parser.add_argument("--adapter", action="store_true", help="write the adapter alone, for peft; it is not merged")
    options = parser.parse_args()
    print(
        export(
            options.run,
            options.role,
            options.out,
            dtype=options.dtype,
            name=options.checkpoint,
            like=options.like,
            adapter=options.adapter,
        )
    )


if __name__ == "__main__":
    run_command(main)
