"""The rules of the house: who may import whom, what modules may be called, what files may name."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("o1coder_jax", "sandbox", "search", "train")
OURS = (*ROOMS, "benchmarks", "tests")
# What each room may import of ours, its own modules apart.
ALLOWED = {
    "o1coder_jax": (),
    "sandbox": ("o1coder_jax.records", "o1coder_jax.errors"),
    "search": ("o1coder_jax",),
    "train": ROOMS,
}
# Command modules that bring rooms together: they may import all, and no room may import them.
COMMANDS = ("search.run", "search.compare", "search.relabel")
NO_ACCELERATOR = ("jax", "jaxlib", "flax", "optax", "orbax", "numpy", "transformers")
TEXTS = (".py", ".toml", ".txt", ".md", ".yaml", ".yml", ".json", ".jsonl", ".sh", ".cfg", "")
PRIVATE_PATHS = ("/" + "work/", "../" + "shared")


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a module imports at any depth, `from a import b` as `a.b`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def product_files() -> list[Path]:
    """Every file that git knows or would add, as text files only; all files where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    names = (
        listed.stdout.splitlines()
        if listed.returncode == 0
        else [
            str(path.relative_to(ROOT))
            for room in (*OURS, "configs", "docs", ".ci")
            for path in (ROOT / room).rglob("*")
        ]
    )
    return [ROOT / name for name in names if (ROOT / name).is_file() and Path(name).suffix in TEXTS]


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_only_what_it_may(room: str):
    broken = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(room)
        for name in imports(path)
        if within(name, OURS) and not within(name, ROOMS if module_name(path) in COMMANDS else (room, *ALLOWED[room]))
    ]
    assert broken == []


def test_no_module_imports_a_command_that_brings_rooms_together():
    broken = [
        f"{path.relative_to(ROOT)} imports {name}"
        for room in ROOMS
        for path in modules(room)
        for name in imports(path)
        if within(name, COMMANDS) and module_name(path) not in COMMANDS
    ]
    assert broken == []


def test_sandbox_names_no_array_library():
    broken = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules("sandbox")
        for name in imports(path)
        if within(name, NO_ACCELERATOR)
    ]
    assert broken == []


@pytest.mark.parametrize("room", ROOMS)
def test_imports_are_absolute(room: str):
    broken = [f"{path.relative_to(ROOT)}: {name}" for path in modules(room) for name in imports(path) if name[0] == "."]
    assert broken == []


def test_no_module_is_named_like_one_of_the_standard_library():
    named = [path for room in OURS for path in modules(room) if path.stem in sys.stdlib_module_names - {"__main__"}]
    assert [str(path.relative_to(ROOT)) for path in named if path.stem not in ("__init__", "__main__")] == []


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_judging_loads_no_array_library():
    assert loaded_by("import sandbox.pool").isdisjoint(NO_ACCELERATOR)


def test_library_loads_without_the_data_packages():
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in modules("o1coder_jax")
        if path.stem != "__main__"
    ]
    hidden = "sys.modules.update(dict.fromkeys(['grain', 'datasets']))"
    assert "jax" in loaded_by(f"{hidden}\nimport {', '.join(names)}")


def test_no_file_names_a_path_of_its_makers():
    broken = [
        f"{path.relative_to(ROOT)} names {private}"
        for path in product_files()
        if path.relative_to(ROOT) != Path(".ci/run")
        for private in PRIVATE_PATHS
        if private in path.read_text(encoding="utf-8", errors="replace")
    ]
    assert broken == []


def test_commands_that_change_settings_of_the_experiment_name_a_run_of_their_own():
    """`make selfplay` has made runs/tiny, which keeps its settings: the command would be refused there."""
    from train.session import MAY_DIFFER

    may = {*MAY_DIFFER, "config", "name", "iteration", "again", "fresh", "print_config", "help"}
    broken = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in product_files()
        for line in path.read_text(encoding="utf-8", errors="replace").replace("\\\n", " ").splitlines()
        if "python -m train." in line
        and "configs/tiny.yaml" in line
        and "--name" not in line
        and {
            flag
            for flag in re.findall(r"--([a-z_]+[a-z_.]*)", line)
            if flag.split(".")[0] not in may and flag not in may
        }
    ]
    assert broken == []


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_configuration_file_builds(path: Path):
    from o1coder_jax.config import load
    from search.comparison import CompareConfig
    from train.ablate.config import AblateConfig
    from train.config import Config

    kinds = {"compare": CompareConfig, "ablate": AblateConfig, "confirm": AblateConfig}
    load(kinds.get(path.stem, Config), path)
