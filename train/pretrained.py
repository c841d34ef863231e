"""Downloaded checkpoints: in place of the bootstrap, and as what the process reward model and the generator start from.

    python -m train.selfplay --config configs/checkpoint.yaml --policy.checkpoint DIR --problems.path FILE

DIR is a folder as transformers writes it: `config.json`, safetensors, `tokenizer.json`. Model shape, vocabulary and
chat template come from there; a prompt file with worked examples says what is asked of it. The run keeps a copy of its
own of the weights (`policy-000`, `prm-base`, `tcg-base`, 4 bytes a number), of the vocabularies, and of the prompts as
they were rendered (`prompts.json`): what a template says of today's date stays as it was. Adapters are trained on these
copies.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flax import nnx

from o1coder_jax import hf, weights
from o1coder_jax.adapters import AdapterConfig
from o1coder_jax.chat import FILES, chat_of, opening_of
from o1coder_jax.errors import UserError
from o1coder_jax.model_config import ModelConfig
from o1coder_jax.prompts import Prompt, Prompts, render
from o1coder_jax.transformer import Transformer, parameter_count
from o1coder_jax.vocabulary import ByteLevelVocabulary, Vocabulary

if TYPE_CHECKING:
    from train.config import Config
    from train.session import Session

DEFAULT_PROMPT = Path(__file__).resolve().parent.parent / "configs" / "prompts" / "steps.yaml"
OWN_FIELDS = ("dtype", "attention", "rematerialize")  # of `model`, which say how it is computed and not what it is


def check_sections(config: Config) -> None:
    """Refuses settings that contradict each other, with a `UserError`."""
    policy, prm, tcg = config.policy.checkpoint, config.prm.checkpoint, config.tcg.checkpoint
    if policy and config.tokenizer.file:
        raise UserError("tokenizer.file is given, but policy.checkpoint brings its own tokenizer; leave one out")
    if prm and not policy:
        raise UserError(
            "prm.checkpoint is given without policy.checkpoint; the process reward model reads the policy's tokens, so "
            "give both, with the same tokenizer"
        )
    if config.policy.prompt and not (policy or tcg):
        raise UserError("policy.prompt is given, but no checkpoint that would be asked; give policy.checkpoint")


def check_adapters(config: Config) -> None:
    """Raises a `UserError` for an adapter that its model cannot have, where the settings tell the model's shape."""
    for role, adapter in _adapters(config).items():
        if adapter is not None and not source_of(config, role):
            adapter.check(config.model)


def resolved(config: Config) -> tuple[Config, str]:
    """The configuration with the shape of `policy.checkpoint` as its `model`.

    Returns:
      The configuration, and a line about the settings of `model` that the checkpoint replaced; empty if there are none.
    """
    replaced, folder = [], config.policy.checkpoint
    if folder:
        theirs, default = model_of(folder, config.model), ModelConfig()
        for field in dataclasses.fields(ModelConfig):
            ours, its = getattr(config.model, field.name), getattr(theirs, field.name)
            if ours not in (its, getattr(default, field.name)):
                replaced.append(f"{field.name} {its} (not {ours})")
        config = dataclasses.replace(config, model=theirs)
    for role, adapter in _adapters(config).items():
        if adapter is not None and (source := source_of(config, role)):
            adapter.check(model_of(source, config.model))
    return config, f"model: the shape is that of {folder}: {', '.join(replaced)}" if replaced else ""


def own_checkpoint(config: Config, role: str) -> str | None:
    """The folder that a role other than the policy starts from; None if it starts from the policy."""
    return {"prm": config.prm.checkpoint, "tcg": config.tcg.checkpoint}.get(role)


def source_of(config: Config, role: str) -> str | None:
    """The folder that a role's model came from in the end; None for one that the bootstrap trains."""
    return own_checkpoint(config, role) or config.policy.checkpoint


def _adapters(config: Config) -> dict[str, AdapterConfig | None]:
    return {
        "policy": config.policy.adapter,
        "prm": config.prm.adapter,
        "tcg": config.tcg.adapter,
        "critic": config.rl.ppo.critic.adapter,
    }


def shape_of(session: Session, role: str) -> tuple[ModelConfig, Vocabulary]:
    """The shape and the vocabulary of a role's model."""
    if role == "tcg":
        return session.generator.model, session.generator.vocabulary
    folder, model = own_checkpoint(session.config, role), session.config.model
    return model_of(folder, model) if folder else model, session.tokenizer


@dataclass(frozen=True)
class Speaker:
    """A decoder without its weights: its structure and shape, its vocabulary, and how it is asked."""

    graph: nnx.GraphDef[Transformer]
    model: ModelConfig
    vocabulary: Vocabulary
    prompt: Prompt


def generator_of(session: Session) -> Speaker:
    """The test case generator: that of `tcg.checkpoint`, or one that is made as the policy is."""
    folder, prompt = session.config.tcg.checkpoint, session.asking.tcg
    if not folder:
        return Speaker(session.graph, session.config.model, session.tokenizer, prompt)
    model = model_of(folder, session.config.model)
    vocabulary = ByteLevelVocabulary.load(session.generator_tokenizer_path)
    return Speaker(session.sampler_graph(model, vocabulary.vocab_size), model, vocabulary, prompt)


def model_of(folder: str, own: ModelConfig) -> ModelConfig:
    """The shape of a checkpoint; how it is computed (`OWN_FIELDS`) is taken from `own`."""
    return dataclasses.replace(hf.model_config(Path(folder)), **{name: getattr(own, name) for name in OWN_FIELDS})


def vocabulary_of(folder: str) -> ByteLevelVocabulary:
    return ByteLevelVocabulary.load(Path(folder) / "tokenizer.json")


def prompts_of(config: Config) -> Prompts:
    """The prompt file as the checkpoints read it, each by its own chat template; plain prompts for other models."""
    roles = {"policy": config.policy.checkpoint, "tcg": config.tcg.checkpoint or config.policy.checkpoint}
    path, found = Path(config.policy.prompt or DEFAULT_PROMPT), {}
    for role, folder in roles.items():
        if folder:
            chat = chat_of(Path(folder))
            rendered = render(path, chat, "" if chat else opening_of(Path(folder)))
            found[role] = getattr(rendered, role)
    return Prompts(**found)


def prepare(session: Session) -> None:
    """Reads all of the checkpoints but their weights, so that faults are said before the work; writes the prompts, the
    vocabularies, and the bases of roles with a checkpoint of their own (`prm-base`, `tcg-base`)."""
    config = session.config
    policy, prm, tcg = config.policy.checkpoint, config.prm.checkpoint, config.tcg.checkpoint
    for folder in filter(None, (prm, tcg)):
        model_of(folder, config.model)
        vocabulary_of(folder)
    if policy and prm:
        check_same(vocabulary_of(policy), vocabulary_of(prm), prm)
    if policy or tcg:
        session.once(lambda: prompts_of(config).save(session.prompts_path))
    if policy:
        session.once(functools.partial(_keep_tokenizer, Path(policy), session.tokenizer_path))
    if tcg:
        session.once(functools.partial(_keep_tokenizer, Path(tcg), session.generator_tokenizer_path))
    for name, base in (("prm-base", prm), ("tcg-base", tcg)):
        if base:
            take(session, name, base)


def take(session: Session, name: str, folder: str) -> tuple[str, int]:
    """Copies a checkpoint's weights into the run, in float32, as the checkpoint `name`.

    Returns:
      Their fingerprint and their number.
    """
    store = session.store_of(name)
    assert store.config is not None
    _, loaded = weights.load(Path(folder), store.config, session.mesh, "float32", vocab_size=store.vocab_size)
    return store.save(name, loaded), parameter_count(loaded)


def start(session: Session, name: str) -> tuple[dict[str, Any], str]:
    """Takes `policy.checkpoint` into the run as its base policy, the checkpoint `name`.

    Returns:
      What the stage came to, and the line that says so.
    """
    folder = session.config.policy.checkpoint
    assert folder is not None
    examples = session.tokenizer.encode(session.asking.policy.before)
    print_of, count = take(session, name, folder)
    result = {
        "checkpoint": folder,
        "vocab_size": session.tokenizer.vocab_size,
        "parameters": count,
        "chat_template": chat_of(Path(folder)) is not None,
        "example_tokens": len(examples),
        "weights": print_of,
    }
    line = (
        f"bootstrap: nothing to train, {name} is a copy of {folder} ({count:,} numbers); "
        f"{len(examples)} tokens of instructions and examples before each statement, "
        f"{'by its chat template' if result['chat_template'] else 'as plain text: it has no chat template'}"
    )
    return result, line


def _keep_tokenizer(folder: Path, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    vocabulary_of(str(folder)).save(path)
    for name in FILES:
        if (folder / name).exists():
            shutil.copyfile(folder / name, path.with_name(name))


def check_same(policy: Vocabulary, other: ByteLevelVocabulary, folder: str) -> None:
    """Raises a `UserError` if ids of the policy's vocabulary mean something else in the other."""
    if not isinstance(policy, ByteLevelVocabulary) or policy.pieces() != other.pieces():
        raise UserError(
            f"prm.checkpoint {folder} has another tokenizer than policy.checkpoint; the process reward model reads the "
            "policy's tokens: take one of the same family"
        )
