"""Ablations: what identifies a cell, what its settings may be, and the cells of the project."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import yaml

from o1coder_jax.config import parse
from o1coder_jax.errors import UserError
from tests.train.ablations import CELLS, TINY, ablation
from tests.train.world import ROOT
from train.ablate.config import LATER, NO_MATTER, SECTIONS, AblateConfig, Cell, cell_key, start_key
from train.ablate.runner import Planned, plan
from train.config import Config, load_config


def keys(one: AblateConfig, seeds: int = 1) -> dict[str, str]:
    return {planned.name: planned.key for planned in plan(one, seeds)}


# What identifies a cell.


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ({"evaluate": {"samples": 4}}, {"loop", "rl", "rejection"}),
        ({"stopping": {"patience": 4}}, {"loop", "rejection"}),
        ({"rl": {"samples": 4}}, {"loop", "rl", "rejection"}),
        ({"prm": {"updates": 4}}, {"loop", "rl", "rejection"}),
        ({"name": "other"}, set()),
        ({"sandbox": {"workers": 3}}, set()),
    ],
)
def test_key_depends_on_what_decides_the_result(settings, changed):
    before, after = keys(ablation()), keys(ablation(settings=settings))
    assert {name for name in before if before[name] != after[name]} == changed


def test_setting_that_is_its_default_makes_no_result_old():
    before, after = keys(ablation()), keys(ablation(settings={"tcg": {"compared_problems": 0}}))
    assert before == after
    assert before != keys(ablation(settings={"tcg": {"compared_problems": 1}}))


def test_section_that_is_put_where_there_is_none_counts():
    adapted = ablation(settings={"prm": {"adapter": {"rank": 8}}})
    assert keys(ablation())["loop"] != keys(adapted)["loop"]


def test_key_of_a_rival_depends_on_the_cell_whose_costs_it_may_spend():
    longer = {**CELLS, "loop": {**CELLS["loop"], "settings": {"rl": {"updates": 9}}}}
    before, after = keys(ablation()), keys(ablation(longer))
    assert {name for name in before if before[name] != after[name]} == {"loop", "rejection"}


def test_seeds_have_keys_of_their_own():
    assert len({one.key for one in plan(ablation(), 3)}) == 9


def test_seeds_go_on_from_the_first():
    later = plan(ablation(first_seed=2), 1)
    assert [(one.seed, one.config.seed, one.path.name) for one in later] == [(2, 2, "seed-2.json")] * 3
    assert [one.key for one in later] == [one.key for one in plan(ablation(), 3) if one.seed == 2]


def test_starting_points_are_shared_by_what_they_depend_on():
    config = load_config(TINY)
    rl = dataclasses.replace(config, rl=dataclasses.replace(config.rl, updates=99), name="x", runs="y")
    tcg = dataclasses.replace(config, tcg=dataclasses.replace(config.tcg, dpo_updates=7))
    seed = dataclasses.replace(config, seed=1)
    for stage in ("bootstrap", "tcg", "001-prm"):
        assert start_key(config, stage) == start_key(rl, stage) != start_key(seed, stage)
    assert start_key(config, "bootstrap") == start_key(tcg, "bootstrap")
    assert start_key(config, "tcg") != start_key(tcg, "tcg") and start_key(config, "001-prm") != start_key(
        tcg, "001-prm"
    )


@pytest.mark.parametrize(
    ("part", "own"),
    [
        ("tcg", {"trace": "clauses"}),
        ("tcg", {"split_values": True}),
        ("tcg", {"template": "{input} -> {output}"}),
        ("tcg", {"checkpoint": "a"}),
        ("prm", {"checkpoint": "a"}),
    ],
)
def test_a_base_is_not_shared_with_another_vocabulary_or_other_models(part: str, own: dict[str, Any]):
    """The vocabulary is fitted to tests as they are written, and the bootstrap takes models over."""
    config = load_config(TINY)
    policy = dataclasses.replace(config.policy, checkpoint="b")  # without it a reward model has none
    config = dataclasses.replace(config, policy=policy)
    other = dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **own)})
    assert start_key(config, "bootstrap") != start_key(other, "bootstrap")
    assert start_key(config, "001-prm") != start_key(other, "001-prm")
    measured = Cell("base", "measure", "bootstrap")
    assert cell_key(measured, config, config, samples=8) != cell_key(measured, other, other, samples=8)


def test_methods_of_search_meet_the_policy_that_the_usual_search_made():
    def planned(own: dict[str, Any], **changes: Any) -> Planned:
        cell = {"title": "s", "procedure": "search", "start": "001-prm", "settings": own}
        return plan(ablation({"s": cell}, **changes), 1)[0]

    usual, puct = planned({}), planned({"search": {"preset": "puct"}, "sft": {"updates": 3}})
    assert (usual.config.search.preset, puct.config.search.preset) == ("boltzmann", "puct")
    assert puct.start.search == usual.start.search and puct.start.sft.updates == 3
    other = {"search": {"rollouts": 3}}
    assert start_key(planned({}, settings=other).start, "001-prm") != start_key(usual.start, "001-prm")
    assert start_key(planned(other).start, "001-prm") == start_key(usual.start, "001-prm")
    assert len({planned({}).key, planned(other).key, planned({}, settings=other).key}) == 3


def test_every_part_of_a_configuration_has_its_place():
    """A new section of the settings has to be named: a starting point that ignores it would be shared wrongly."""
    named = [name for names in SECTIONS.values() for name in names] + [*LATER, *NO_MATTER]
    assert sorted(named) == sorted(field.name for field in dataclasses.fields(Config))


# Mistakes.


@pytest.mark.parametrize(
    ("cell", "line"),
    [
        ({"procedure": "dance"}, "cells.rl: procedure is 'dance'"),
        ({"start": "003-rl"}, "cells.rl: start is '003-rl'"),
        ({"equal_to": "rejection"}, "cells.rl: equal_to is 'rejection'; name a cell that stands before it"),
        ({"colour": "red"}, "cells.rl: unknown key colour"),
        ({"settings": "none"}, "cells.rl: settings is none; expected keys"),
        ({"like": "loop", "settings": "none"}, "cells.rl: settings is none; expected keys"),
        ({"like": "rejection"}, "cells.rl: like is 'rejection'; name a cell that stands before it"),
        ({"like": ["loop"]}, "cells.rl: like is .*; name a cell that stands before it"),
        ({"limit_seconds": -1}, "cells.rl: limit_seconds is -1; it must not be negative"),
        ({"limit_seconds": True}, "cells.rl: limit_seconds is true; expected int"),
    ],
)
def test_mistake_in_a_cell_is_named(cell, line: str):
    with pytest.raises(UserError, match=line):
        ablation({**CELLS, "rl": {**CELLS["rl"], **cell}})


def test_cell_like_another_differs_where_it_says_so():
    cells = {
        "rl": {**CELLS["rl"], "options": {"judge": "coins"}, "settings": {"rl": {"updates": 1, "samples": 4}}},
        "more": {"like": "rl", "title": "more", "options": {"share": 0.5}, "settings": {"rl": {"updates": 2}}},
        "most": {"like": "more", "start": "001-sft"},
    }
    one = ablation(cells)
    _, more, most = one.all_cells().values()
    assert (more.title, more.procedure, more.start) == ("more", "rl", "001-prm")
    assert more.options == {"judge": "coins", "share": 0.5}
    config = one.run_config(more, "")
    assert (config.rl.updates, config.rl.samples) == (2, 4)
    assert most == dataclasses.replace(more, start="001-sft")
    written = {"title": "x", "procedure": "rl", "start": "001-prm", "options": more.options}
    plain = ablation({"more": {**written, "settings": {"rl": {"updates": 2, "samples": 4}}}})
    assert keys(one)["more"] == keys(plain)["more"]  # however it is written


def test_cell_with_a_base_of_its_own_has_none_of_the_settings():
    cells = {
        "usual": {"title": "a", "procedure": "measure"},
        "own": {"title": "b", "procedure": "measure", "base": TINY, "settings": {"rl": {"updates": 3}}},
    }
    one = ablation(cells, settings={"rl": {"samples": 4}})
    usual, own = (one.run_config(cell, "") for cell in one.all_cells().values())
    tiny = load_config(TINY)
    assert usual.rl.samples == 4 != tiny.rl.samples == own.rl.samples
    assert own.rl.updates == 3 != usual.rl.updates == tiny.rl.updates


def test_setting_that_does_not_exist_is_refused_in_one_line():
    wrong = ablation({**CELLS, "rl": {**CELLS["rl"], "settings": {"rl": {"algoritm": "ppo"}}}})
    with pytest.raises(UserError, match=r"^cells.rl: unknown option --rl.algoritm") as raised:
        plan(wrong, 1)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("comparison", "line"),
    [
        ({"better": "loop", "than": "nothing"}, "there is no cell 'nothing'"),
        ({"better": "loop", "than": "rl", "budgets": "some"}, "budgets is 'some'; use last or all"),
        ({"better": "loop", "than": "rl", "budgets": "all"}, "budgets is all, but loop is no search"),
        ({"better": "long", "than": "short", "budgets": "all"}, "give long and short the same options.rollouts"),
    ],
)
def test_comparison_that_cannot_be_made_is_refused(comparison: dict[str, Any], line: str):
    searches = {
        name: {"title": name, "procedure": "search", "start": "001-prm", "options": {"rollouts": rollouts}}
        for name, rollouts in (("long", [2, 4]), ("short", [2]))
    }
    with pytest.raises(UserError, match=line):
        ablation(cells=CELLS | searches, comparisons=[comparison])


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ({"cell": "nothing", "measure": "greedy", "at_least": 1}, "targets: there is no cell 'nothing'"),
        ({"cell": "loop", "measure": "greedy"}, "targets, entry 1: give at_least or at_most"),
        (
            {"cell": "loop", "measure": "seconds", "at_most": 1, "cores": -1},
            "targets, entry 1: cores is -1; it must not be negative",
        ),
        (
            {"cell": "loop", "measure": "greedy", "at_least": "1"},
            "targets, entry 1: at_least is '1'; expected a number",
        ),
        ({"cell": "loop", "measure": "greedy", "at_least": True}, "at_least is true; expected a number"),
    ],
)
def test_impossible_targets_are_refused(target: dict[str, Any], line: str):
    with pytest.raises(UserError, match=line):
        ablation(targets=[target])


def of_the_project(name: str) -> AblateConfig:
    one = AblateConfig(**yaml.safe_load((ROOT / "configs" / name).read_text()))
    bases = {name: {"base": str(ROOT / cell["base"])} for name, cell in one.cells.items() if "base" in cell}
    cells = {name: cell | bases.get(name, {}) for name, cell in one.cells.items()}
    return dataclasses.replace(one, base=str(ROOT / one.base), cells=cells)


@pytest.mark.parametrize("name", ["ablate.yaml", "confirm.yaml"])
def test_cells_of_the_project_can_be_planned(name: str):
    """Every override exists, every comparison has its cells, and one claim is the primary one."""
    one = of_the_project(name)
    assert len(plan(one, 1)) == len(one.cells)
    assert [claim.primary for claim in one.all_comparisons()].count(True) == 1
    assert not any(name in one.run_config(cell, "").rivals.run for name, cell in one.all_cells().items())


def test_the_longer_generator_of_the_report_is_that_of_its_file():
    one = of_the_project("ablate.yaml")
    files = [f"--config={ROOT / 'configs' / name}" for name in ("tcg.yaml", "tcg-longer.yaml")]
    cell, file = one.run_config(one.all_cells()["tcg_longer_sft"], ""), parse(Config, files)
    assert dataclasses.replace(cell, name=file.name, runs=file.runs) == file


def test_what_is_confirmed_is_what_was_found():
    """The same settings and costs on other seeds, with more problems to judge by."""
    found, again = of_the_project("ablate.yaml"), of_the_project("confirm.yaml")
    assert again.first_seed > 10 and not found.first_seed  # settings were chosen on seed 10
    known = {(one.name, one.seed): one.key for one in plan(found, 1)}
    fewer = again.settings | {"problems": {"curriculum": {"selfplay": 600, "heldout": 400}}}
    same = dataclasses.replace(again, settings=fewer, first_seed=0, sampled_problems=0)
    later = {(one.name, one.seed): one.key for one in plan(same, 1)}
    both = {(name, 0) for name in again.cells if name in found.cells}
    assert {("loop", 0), ("rejection", 0)} <= both and {one: known[one] for one in both}.items() <= later.items()
    # More of them, or other ones to sample for, are other results.
    others = [dataclasses.replace(again, first_seed=0), dataclasses.replace(same, sampled_problems=8)]
    for other in others:
        assert not {(one.name, one.seed): one.key for one in plan(other, 1)}.items() & known.items()
