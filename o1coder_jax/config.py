"""Configuration: a tree of frozen dataclasses, read from YAML files and dotted overrides.

    python -m train.selfplay --config configs/tiny.yaml --name mine --search.trees 64

Later arguments win over earlier ones. `--print_config` prints the resolved tree and leaves; `--help` lists every
key. Whatever is wrong (an unknown key, a value of another type, a float that is infinite or no number, a file that is
missing or is no YAML, a combination that a dataclass refuses with a `UserError` in its `__post_init__`) is a
`UserError` of one line that names the key, the file and the mend.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import enum
import itertools
import math
import os
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jsonargparse
import yaml

from o1coder_jax.errors import UserError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Flag:
    """An option of one command that is no part of the configuration, as `--iteration 3`.

    Attributes:
      type: what it holds; a `bool` is a switch without a value.
      default: its value when it is not given.
      help: one line for `--help`.
    """

    type: Any
    default: Any = None
    help: str = ""


def parse(cls: type[T], argv: list[str] | None = None, *, prog: str | None = None, description: str = "") -> T:
    """Builds a `cls` from arguments, those of the process when `argv` is None. Bad input is a `UserError`."""
    return parse_with_flags(cls, argv, {}, prog=prog, description=description)[0]


def parse_with_flags(
    cls: type[T], argv: list[str] | None, flags: Mapping[str, Flag], *, prog: str | None = None, description: str = ""
) -> tuple[T, dict[str, Any]]:
    """Like `parse`, for a command with options of its own: the configuration, and those options by name."""
    argv = sys.argv[1:] if argv is None else list(argv)
    files = _config_files(argv)
    for path in files:
        _check_file(cls, path)
    parser = _parser(cls, flags, prog, description)
    try:
        config, options = _build(cls, parser, flags, argv)
    except _Refused as refused:
        raise UserError(_blame(cls, parser, flags, files, str(refused)) + str(refused)) from refused.__cause__
    if options.pop("print_config"):
        print(to_yaml(config), end="")
        sys.exit(0)
    return config, options


def load(cls: type[T], path: str | os.PathLike[str]) -> T:
    """Builds a `cls` from one YAML file."""
    return parse(cls, ["--config", os.fspath(path)])


def to_dict(config: Any) -> dict[str, Any]:
    """The resolved configuration as plain JSON and YAML values: tuples as lists, enums by the name of their member."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def to_yaml(config: Any) -> str:
    """The resolved configuration as YAML text that `load` reads back to an equal one."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


# Arguments.


class _Refused(Exception):
    """A line on what is wrong, before it is known which file is to blame."""


def _parser(cls: type, flags: Mapping[str, Flag], prog: str | None, description: str) -> jsonargparse.ArgumentParser:
    # The library's own --print_config would print the flags among the keys, and values that are not checked yet.
    parser = jsonargparse.ArgumentParser(
        prog=prog, description=description, exit_on_error=False, allow_abbrev=False, print_config=None
    )
    parser.add_argument("--config", action="config", help="YAML file; may be given several times, later ones win")
    parser.add_argument("--print_config", action="store_true", help="print the resolved configuration and leave")
    for name, flag in flags.items():
        if flag.type is bool:
            parser.add_argument(f"--{name}", action="store_true", help=flag.help)
        else:
            parser.add_argument(f"--{name}", type=flag.type, default=flag.default, help=flag.help)
    parser.add_class_arguments(cls, None)
    return parser


def _build(
    cls: type[T], parser: jsonargparse.ArgumentParser, flags: Mapping[str, Flag], argv: list[str]
) -> tuple[T, dict[str, Any]]:
    try:
        values = parser.instantiate(parser.parse_args(argv))
        config = cls(**{name: values[name] for name in _hints(cls)})
    except (argparse.ArgumentError, UserError, ValueError) as error:
        own = _own_error(error)
        if own is None and not isinstance(error, argparse.ArgumentError):
            raise  # a defect, not a mistake in the configuration
        known = {**_keys(cls), **{name: flag.type for name, flag in flags.items()}}
        raise _Refused(str(own) if own else _one_line(str(error), known)) from error
    for key, value in _leaves(to_dict(config)):
        if isinstance(value, float) and not math.isfinite(value):
            raise _Refused(f"{key} = {value}: expected a finite number")
    return config, {name: values[name] for name in [*flags, "print_config"]}


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The single values in plain ones, with their dotted keys; those of a list have the list's."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, key)
    else:
        yield key, value


def _own_error(error: BaseException | None) -> UserError | None:
    """The `UserError` of a `__post_init__`, which the parser wraps where it tries the types of a union."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def _config_files(argv: list[str]) -> list[str]:
    files = [
        value if name == "--config" else name.removeprefix("--config=")
        for name, value in itertools.pairwise([*argv, ""])
        if name == "--config" or name.startswith("--config=")
    ]
    return [path for path in files if path]


def _blame(cls: type, parser: Any, flags: Mapping[str, Flag], files: list[str], message: str) -> str:
    """`FILE: ` for the first file that alone gives the same message; empty when the command line is at fault."""
    for path in files:
        try:
            _build(cls, parser, flags, ["--config", path])
        except _Refused as refused:
            if str(refused) == message:
                return f"{path}: "
    return ""


# Messages.

_KEY = re.compile(r'Parser key "([^"]+)"')
_VALUE = re.compile(r"(?:Got value|Given value): (.*)")
_UNRECOGNIZED = re.compile(r"unrecognized arguments: --([^\s=]+)")
_UNRECOGNIZED_BELOW = re.compile(r"NestedArg\(key='([^']+)'")
_REQUIRED = re.compile(r"the following arguments are required: (.+)")


def _one_line(message: str, known: Mapping[str, Any]) -> str:
    """The parser's message in one line, with the mend."""
    if unknown := _UNRECOGNIZED.search(message):
        return f"unknown option --{unknown[1]}{_suggestion(unknown[1], known, '--')}"
    if required := _REQUIRED.search(message):
        return f"{required[1]} is not given; set it in a --config file or on the command line"
    keys, values = _KEY.findall(message), _VALUE.findall(message)
    if keys and (below := _UNRECOGNIZED_BELOW.search(message)):
        key = f"{keys[-1]}.{below[1]}"
        return f"unknown option --{key}{_suggestion(key, known, '--')}"
    if keys and keys[-1] in known and values:
        return f"{keys[-1]} = {values[-1].strip() or repr('')}: expected {_type_text(known[keys[-1]])}"
    return " ".join(message.split()) + "; --help lists the options"


def _suggestion(key: str, known: Mapping[str, Any], prefix: str = "") -> str:
    close = difflib.get_close_matches(key, known, n=1)
    if close:
        return f"; did you mean {prefix}{close[0]}?"
    section = key.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == section]
    return f"; known here: {', '.join(siblings)}" if siblings else "; --help lists the options"


def _type_text(hint: Any) -> str:
    if hint is type(None):
        return "null"
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(str(value) for value in typing.get_args(hint))
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join(_type_text(part) for part in typing.get_args(hint))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "one of " + ", ".join(hint.__members__)
    if dataclasses.is_dataclass(hint):
        return "a section of keys"
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


# Files, looked at before the parser sees them: it knows no line numbers and takes a key that is given twice.

_YAML_SOURCE = 'in "<unicode string>", '  # what the YAML reader calls a file that it was handed as text


def _check_file(cls: type, path: str) -> None:
    try:
        node = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give --config a YAML file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); give --config a YAML file") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML ({str(error).replace(_YAML_SOURCE, '')}); mend the file") from error
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}: holds no keys; write it as `key: value` lines")
    _check_section(cls, node, path, "")


def _check_section(cls: type, node: yaml.MappingNode, path: str, prefix: str) -> None:
    seen: set[str] = set()
    for key_node, value_node in node.value:
        key, where = f"{prefix}{key_node.value}", f"{path}, line {key_node.start_mark.line + 1}"
        if key in seen:
            raise UserError(f"{where}: {key} is given twice; keep one")
        seen.add(key)
        if key_node.value not in _hints(cls):
            known = {prefix + name: None for name in _hints(cls)}
            raise UserError(f"{where}: unknown key {key}{_suggestion(key, known)}")
        section, optional = _section(_hints(cls)[key_node.value])
        if section is None or (optional and value_node.tag.endswith(":null")):
            continue
        if not isinstance(value_node, yaml.MappingNode):
            raise UserError(f"{where}: {key} is a section; give its keys below it, or leave it out")
        _check_section(section, value_node, path, f"{key}.")


def _hints(cls: type) -> dict[str, Any]:
    """The fields that a configuration may set, with their types."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _section(hint: Any) -> tuple[type | None, bool]:
    """The dataclass that a field holds, if any, and whether it may be null instead."""
    parts = typing.get_args(hint) or (hint,)
    sections = [part for part in parts if isinstance(part, type) and dataclasses.is_dataclass(part)]
    return (sections[0] if sections else None), type(None) in parts


def _keys(cls: type, prefix: str = "") -> dict[str, Any]:
    """Every dotted key, sections included, with its type."""
    return dict(_walk(cls, prefix))


def _walk(cls: type, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, hint in _hints(cls).items():
        yield prefix + name, hint
        section, _ = _section(hint)
        if section is not None:
            yield from _walk(section, f"{prefix}{name}.")
