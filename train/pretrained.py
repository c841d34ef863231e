"""Downloaded checkpoints: in place of the bootstrap, and as what the process reward model and the generator start from.

    python -m train.selfplay --config configs/checkpoint.yaml --policy.checkpoint DIR --problems.path FILE

DIR is a folder as transformers writes it: `config.json`, safetensors, `tokenizer.json`. Model shape, vocabulary and
chat template come from there; a prompt file with worked examples says what is asked of it. The run keeps a copy of its
own of the weights (`policy-000`, 4 bytes a number), of the vocabulary, and of the prompts as they were rendered
(`prompts.json`): what a template says of today's date stays as it was.
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flax import nnx

from o1coder_jax import hf, weights
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


@dataclass(frozen=True)
class PolicyConfig:
    """Where the policy comes from.

    Attributes:
      checkpoint: folder of a pretrained model, which takes the place of the bootstrap; null: the bootstrap trains one.
      prompt: prompt file for pretrained models (see o1coder_jax/prompts.py); null: configs/prompts/steps.yaml.
    """

    checkpoint: str | None = None
    prompt: str | None = None


@dataclass(frozen=True)
class Loaded:
    """A pretrained model: the two halves of an `nnx.split` Transformer, and its shape."""

    graph: nnx.GraphDef[Transformer]
    weights: Any
    model: ModelConfig


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


def resolved(config: Config) -> Config:
    """The configuration with the shape of `policy.checkpoint` as its `model`; one that contradicts it is refused."""
    if not config.policy.checkpoint:
        return config
    theirs, default = model_of(config.policy.checkpoint, config.model), ModelConfig()
    for field in dataclasses.fields(ModelConfig):
        ours, its = getattr(config.model, field.name), getattr(theirs, field.name)
        if ours not in (its, getattr(default, field.name)):
            raise UserError(
                f"model.{field.name} is {ours}, but that of policy.checkpoint {config.policy.checkpoint} is {its}; "
                f"a checkpoint brings its own shape: leave model.{field.name} out, or make it {its}"
            )
    return dataclasses.replace(config, model=theirs)


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
    model, vocabulary = model_of(folder, session.config.model), vocabulary_of(folder)
    shape = nnx.eval_shape(lambda: Transformer(model, vocabulary.vocab_size, rngs=nnx.Rngs(0)))
    return Speaker(nnx.graphdef(shape), model, vocabulary, prompt)


def model_of(folder: str, own: ModelConfig) -> ModelConfig:
    """The shape of a checkpoint; how it is computed (`OWN_FIELDS`) is taken from `own`."""
    return dataclasses.replace(hf.model_config(Path(folder)), **{name: getattr(own, name) for name in OWN_FIELDS})


def load(session: Session, folder: str, vocabulary: Vocabulary | None = None) -> Loaded:
    """A checkpoint's weights on the session's mesh, in float32, as training wants them.

    `vocabulary` is that of the run's policy unless another is given.
    """
    model = model_of(folder, session.config.model)
    ids = (vocabulary or session.tokenizer).vocab_size
    return Loaded(*weights.load(Path(folder), model, session.mesh, "float32", vocab_size=ids), model)


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
    """Writes the prompts, and reads all of the checkpoints but their weights: faults are said before the work."""
    config = session.config
    policy, prm, tcg = config.policy.checkpoint, config.prm.checkpoint, config.tcg.checkpoint
    for folder in filter(None, (prm, tcg)):
        model_of(folder, config.model)
        vocabulary_of(folder)
    if policy and prm:
        check_same(vocabulary_of(policy), vocabulary_of(prm), prm)
    if policy or tcg:
        session.once(lambda: prompts_of(config).save(session.prompts_path))


def start(session: Session, name: str) -> tuple[dict[str, Any], str]:
    """Takes `policy.checkpoint` into the run as its base policy, the checkpoint `name`.

    Returns:
      What the stage came to, and the line that says so.
    """
    folder = session.config.policy.checkpoint
    assert folder is not None
    vocabulary = vocabulary_of(folder)
    session.once(lambda: _keep_tokenizer(vocabulary, Path(folder), session.tokenizer_path))
    loaded = load(session, folder)
    examples = vocabulary.encode(session.asking.policy.before)
    result = {
        "checkpoint": folder,
        "vocab_size": vocabulary.vocab_size,
        "parameters": parameter_count(loaded.weights),
        "chat_template": chat_of(Path(folder)) is not None,
        "example_tokens": len(examples),
        "weights": session.save_model(name, loaded.weights),
    }
    line = (
        f"bootstrap: nothing to train, {name} is a copy of {folder} ({result['parameters']:,} numbers); "
        f"{len(examples)} tokens of instructions and examples before each statement, "
        f"{'by its chat template' if result['chat_template'] else 'as plain text: it has no chat template'}"
    )
    return result, line


def _keep_tokenizer(vocabulary: ByteLevelVocabulary, folder: Path, path: Path) -> None:
    vocabulary.save(path)
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
