"""Configuration: what is accepted, how it is resolved, and how mistakes are said."""

from __future__ import annotations

import dataclasses
import enum
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import yaml

from o1coder_jax import config
from o1coder_jax.errors import UserError


class Kind(enum.Enum):
    SMALL = "s"
    LARGE = "l"


@dataclasses.dataclass(frozen=True)
class Search:
    """A section.

    Attributes:
      trees: how many trees.
    """

    trees: int = 4
    decay: Literal["constant", "linear"] = "constant"
    exploration: float | None = None
    sizes: tuple[int, ...] = (1, 2)
    bounds: tuple[int, float] = (1, 0.5)

    def __post_init__(self) -> None:
        if self.trees < 1:
            raise UserError(f"search.trees = {self.trees}: at least 1")


@dataclasses.dataclass(frozen=True)
class Root:
    """A whole configuration."""

    name: str = "tiny"
    kind: Kind = Kind.SMALL
    rate: float = 1e-3
    fast: bool = False
    limits: dict[str, int] = dataclasses.field(default_factory=dict)
    search: Search = dataclasses.field(default_factory=lambda: Search(trees=9))
    other: Search | None = None

    def __post_init__(self) -> None:
        if self.fast and self.search.trees > 100:
            raise UserError(f"fast = true with search.trees = {self.search.trees}: at most 100 trees when fast")


@pytest.fixture
def write(tmp_path: Path):
    def write_file(text: str, name: str = "c.yaml") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write_file


def refusal(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        config.parse(Root, list(argv))
    return str(caught.value)


def test_defaults_of_a_section_are_those_of_its_owner():
    assert config.parse(Root, []).search == Search(trees=9)


def test_file_sets_what_it_names_and_leaves_the_rest(write):
    path = write("search: {decay: linear}\n")
    assert config.load(Root, path) == Root(search=Search(trees=9, decay="linear"))


def test_later_arguments_win(write):
    first, second = write("rate: 1\nname: a\n", "1.yaml"), write("rate: 2\n", "2.yaml")
    parsed = config.parse(Root, ["--config", first, f"--config={second}", "--name", "b"])
    assert parsed == Root(rate=2.0, name="b")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--kind", "LARGE"], Root(kind=Kind.LARGE)),
        (["--fast", "true"], Root(fast=True)),
        (["--rate=1e-5"], Root(rate=1e-5)),
        (["--limits", "{a: 1}"], Root(limits={"a": 1})),
        (["--search.sizes", "[3]"], Root(search=Search(trees=9, sizes=(3,)))),
        (["--search.bounds", "[3, 4]"], Root(search=Search(trees=9, bounds=(3, 4.0)))),
        (["--search.exploration", "2"], Root(search=Search(trees=9, exploration=2.0))),
        (["--search.exploration", "null"], Root(search=Search(trees=9))),
        (["--other.trees", "5"], Root(other=Search(trees=5))),
    ],
)
def test_override_reaches_every_kind_of_field(argv: list[str], expected: Root):
    assert config.parse(Root, argv) == expected


def test_small_floats_may_be_written_without_a_point(write):
    assert config.load(Root, write("rate: 1e-3\n")).rate == 1e-3


def test_yaml_comes_back_equal(write):
    original = Root(kind=Kind.LARGE, rate=1e-5, limits={"a": 1}, search=Search(sizes=()), other=Search(exploration=2.0))
    assert config.load(Root, write(config.to_yaml(original))) == original


def test_printed_configuration_is_the_resolved_one_without_the_flags(capsys):
    with pytest.raises(SystemExit) as left:
        config.parse_with_flags(Root, ["--print_config", "--rate", "7"], {"fresh": config.Flag(bool)})
    assert left.value.code in (0, None)
    assert yaml.safe_load(capsys.readouterr().out) == config.to_dict(Root(rate=7.0))


def test_flags_stand_beside_the_configuration():
    flags = {"iteration": config.Flag(int, 1), "fresh": config.Flag(bool, False), "tag": config.Flag(str | None)}
    parsed, options = config.parse_with_flags(Root, ["--iteration", "3", "--fresh", "--name", "x"], flags)
    assert (parsed, options) == (Root(name="x"), {"iteration": 3, "fresh": True, "tag": None})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\nsearch:\n  tress: 3\n", "{file}, line 3: unknown key search.tress; did you mean search.trees?"),
        ("zzz: 3\n", "{file}, line 1: unknown key zzz; known here: name, kind, rate, fast, limits, search, other"),
        ("other: {tress: 3}\n", "{file}, line 1: unknown key other.tress; did you mean other.trees?"),
        ("search:\n  trees: 1\n  trees: 2\n", "{file}, line 3: search.trees is given twice; keep one"),
        ("search: 3\n", "{file}, line 1: search is a section; give its keys below it, or leave it out"),
        ("search: null\n", "{file}, line 1: search is a section; give its keys below it, or leave it out"),
        ("search: {trees: many}\n", "{file}: search.trees = many: expected int"),
        ("search: {trees: 3.0}\n", "{file}: search.trees = 3.0: expected int"),
        ("search: {trees: true}\n", "{file}: search.trees = True: expected int"),
        ("search: {exploration: x}\n", "{file}: search.exploration = x: expected float or null"),
        ("search: {decay: cubic}\n", "{file}: search.decay = cubic: expected one of constant, linear"),
        ("search: {bounds: [1]}\n", "{file}: search.bounds = [1]: expected tuple[int, float]"),
        ("kind: HUGE\n", "{file}: kind = HUGE: expected one of SMALL, LARGE"),
        ("name: 3\n", "{file}: name = 3: expected str"),
        ("search: {trees: 0}\n", "{file}: search.trees = 0: at least 1"),
        ("other: {trees: 0}\n", "{file}: search.trees = 0: at least 1"),
        (
            "fast: true\nsearch: {trees: 101}\n",
            "{file}: fast = true with search.trees = 101: at most 100 trees when fast",
        ),
        ("rate: .nan\n", "{file}: rate = nan: expected a finite number"),
        ("rate: 1e999\n", "{file}: rate = inf: expected a finite number"),
        ("search: {exploration: -.inf}\n", "{file}: search.exploration = -inf: expected a finite number"),
        ("search: {bounds: [1, .inf]}\n", "{file}: search.bounds = inf: expected a finite number"),
        ("", "{file}: holds no keys; write it as `key: value` lines"),
        ("- 1\n", "{file}: holds no keys; write it as `key: value` lines"),
    ],
)
def test_mistake_in_a_file_names_file_and_key(write, text: str, expected: str):
    path = write(text)
    assert refusal("--config", path) == expected.format(file=path)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("--search.tress 3", "unknown option --search.tress; did you mean --search.trees?"),
        ("--search.tree 3", "unknown option --search.tree; did you mean --search.trees?"),
        ("--other.tress 3", "unknown option --other.tress; did you mean --other.trees?"),
        ("--search.trees many", "search.trees = many: expected int"),
        ("--other.trees 0", "search.trees = 0: at least 1"),
        ("--rate .inf", "rate = inf: expected a finite number"),
        ("--other.exploration .nan", "other.exploration = nan: expected a finite number"),
        ("--fast maybe", "fast = maybe: expected bool"),
        ("stray", "unrecognized arguments: stray; --help lists the options"),
        ("--rate", "argument --rate: expected one argument; --help lists the options"),
    ],
)
def test_mistake_on_the_command_line_names_the_option(argv: str, expected: str):
    assert refusal(*argv.split()) == expected


def test_mistake_on_the_command_line_is_not_laid_to_a_file(write):
    path = write("rate: 2\n")
    assert refusal("--config", path, "--search.trees", "0") == "search.trees = 0: at least 1"


def test_second_file_is_blamed_for_its_own_mistake(write):
    good, bad = write("rate: 2\n", "good.yaml"), write("rate: much\n", "bad.yaml")
    assert refusal("--config", good, "--config", bad) == f"{bad}: rate = much: expected float"


def test_missing_file_is_named():
    assert refusal("--config", "no.yaml") == (
        "cannot read no.yaml: No such file or directory; give --config a YAML file"
    )


def test_broken_yaml_is_said_with_its_line(write):
    path = write("name: a\nsearch: [1\nrate: 2\n")
    message = refusal("--config", path)
    assert message.startswith(f"{path}: not YAML (") and "line 3" in message and "<unicode" not in message


def test_file_that_is_no_text_is_refused(tmp_path: Path):
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert refusal("--config", str(path)).startswith(f"{path}: not UTF-8 text")


def test_defect_in_a_dataclass_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        config.parse(Defective, [])


@dataclasses.dataclass(frozen=True)
class Defective:
    """A dataclass with a mistake of its own."""

    size: int = 0

    def __post_init__(self) -> None:
        _ = 1 // self.size


def test_command_says_one_line_and_leaves_with_status_2():
    code = (
        "from tests.test_config import Root\n"
        "from o1coder_jax import config, errors\n"
        "errors.run_command(lambda: print(config.parse(Root)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "--search.trees", "x"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: search.trees = x: expected int\n")
