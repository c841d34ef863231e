"""Opening a run folder: is it one, is it this run's, and what becomes of an earlier run in it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from o1coder_jax.errors import UserError
from train.run_files import LOCK, PART, clean, write_text, writing

CONFIG, ENVIRONMENT = "config.yaml", "environment.json"
_MARKS = [ENVIRONMENT, CONFIG]
_OWN = re.compile(r"stages|checkpoints|hosts|tensorboard|.*\.jsonl")  # what a run writes to, and takes back
_SHOWN_DIFFERENCES = 3


def prepare(
    folder: Path, config: dict[str, Any], usual: dict[str, Any], fresh: bool, may_differ: Collection[str]
) -> None:
    """Makes `folder` that of a run with this configuration, given as plain values; refuses another run's, and one in
    which something else lies where a run keeps its own.

    Args:
      folder: exists and is locked by this process.
      config: plain values by key, sections nested.
      usual: the defaults of these; a run that was made before there was such a key had its default.
      fresh: remove what an earlier run left there.
      may_differ: dotted keys, or sections, in which an earlier session may have differed.
    """
    names = sorted(path.name for path in folder.iterdir())
    if not {*_MARKS} & {*names} and (own := [name for name in names if _OWN.fullmatch(name)]):
        raise _no_run(folder, own[0])  # what an unfinished stage leaves in a run would be taken back there
    if fresh:
        _clear(folder)
    _check_config(folder, config, usual, may_differ)
    write_text(folder / CONFIG, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def _clear(folder: Path) -> None:
    """Removes what a run left in `folder`; last the files that mark the folder as a run's."""
    entries = [path for path in folder.iterdir() if path.name != LOCK]
    entries.sort(key=lambda path: _MARKS.index(path.name) if path.name in _MARKS else -1)
    names = [path.name for path in entries if path.name.removesuffix(PART) not in _MARKS]
    found = {path.name for path in entries}
    if names and not (CONFIG in found and {ENVIRONMENT, "stages"} & found):  # by itself it may be another program's
        raise _no_run(folder, names[0])
    with writing(folder):
        for path in entries:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _no_run(folder: Path, name: str) -> UserError:
    return UserError(f"{folder} holds {name} but no run; nothing is removed, choose another folder")


def _check_config(folder: Path, config: dict[str, Any], usual: dict[str, Any], may_differ: Collection[str]) -> None:
    path = folder / CONFIG
    if not path.exists():
        return
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path} ({error}); restore it, or start the run afresh") from error
    new = _flat(clean(config))
    old = {key: value for key, value in _flat(clean(usual)).items() if key in new} | _flat(clean(stored))
    changes = [
        f"{key} = {old.get(key, 'absent')} there and {new.get(key, 'absent')} now"
        for key in dict.fromkeys([*new, *old])
        if (key not in old or key not in new or old[key] != new[key]) and not _covered(key, may_differ)
    ]
    if changes:
        more = f" and {len(changes) - _SHOWN_DIFFERENCES} more" if len(changes) > _SHOWN_DIFFERENCES else ""
        shown = ", ".join(changes[:_SHOWN_DIFFERENCES])
        raise UserError(
            f"{folder} was made with another configuration: {shown}{more}; "
            "use that one, choose another run folder, or start afresh"
        )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted keys and their values; an empty section is a value."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    return {
        dotted: leaf
        for key, item in value.items()
        for dotted, leaf in _flat(item, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def _covered(key: str, names: Collection[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)
