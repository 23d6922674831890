"""The stage graph: order, and what a change of the study runs again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from personaspace.errors import UserError
from personaspace.pipeline import graph
from personaspace.pipeline.graph import Graph
from personaspace.pipeline.stages import STAGES
from personaspace.store.manifest import check_key
from personaspace.study.load import load_study, resolve
from personaspace.study.loaded import Study
from personaspace.study.spec import Experiment

Values = dict[str, Any]


def study_of(values: Values) -> Study:
    return resolve(Experiment.model_validate(values), Path("/nowhere"))


def build(values: Values) -> Graph:
    return graph.build(study_of(values))


def prints(values: Values) -> dict[str, str]:
    loaded = study_of(values)
    found = graph.fingerprints(loaded, graph.build(loaded))
    return {node.id: fingerprint for node, fingerprint in found.items()}


# --- what there is, and in which order -----------------------------------------------------------


def test_one_seed_of_four_conditions(study_dict: Values) -> None:
    plan = build(study_dict)
    trained = ["benign", "e0-assistant", "e4-villain"]
    assert [node.id for node in plan.nodes] == [
        *(f"train:{name}:42" for name in trained),
        *(f"extract:{name}:42" for name in ["base", *trained]),
        *(f"couple:{name}:42" for name in ["base", *trained]),
        *(f"evaluate:{name}:42" for name in ["base", *trained]),
        "aggregate",
        "report",
    ]
    needs = {node.id: [need.id for need in plan.needs[node]] for node in plan.nodes}
    assert needs["train:e4-villain:42"] == []
    assert needs["extract:e4-villain:42"] == ["train:e4-villain:42"]
    assert needs["couple:e4-villain:42"] == ["train:e4-villain:42"]
    assert needs["evaluate:e4-villain:42"] == ["train:e4-villain:42", "couple:e4-villain:42"]
    # The base has no fine-tuning of its own, but goes through coupling and evaluation.
    assert needs["extract:base:42"] == needs["couple:base:42"] == []
    assert needs["evaluate:base:42"] == ["couple:base:42"]
    assert set(needs["aggregate"]) == set(needs) - {"aggregate", "report"}
    assert needs["report"] == ["aggregate"]


def test_more_seeds_extract_the_base_once(study_dict: Values) -> None:
    study_dict["seeds"] = [7, 42, 3]
    plan = build(study_dict)
    base = [node.id for node in plan.nodes if node.condition == "base"]
    assert sorted(base) == sorted(
        ["extract:base:7", *(f"{s}:base:{n}" for n in (7, 42, 3) for s in ("couple", "evaluate"))]
    )
    assert sum(node.stage == "extract" for node in plan.nodes) == 1 + 3 * 3
    assert sum(node.stage == "train" for node in plan.nodes) == 3 * 3
    assert len(set(plan.nodes)) == len(plan.nodes)


def test_conditions_have_runs_of_their_own_number(study_dict: Values) -> None:
    whole = {**study_dict, "seeds": [42, 137, 256]}
    before = prints(whole)
    few = {"benign": [42], "e0-assistant": None, "e4-villain": [256, 42], "base": [137, 42]}
    mine = [{**c, "seeds": few[c["name"]]} for c in study_dict["conditions"]]
    after = prints({**whole, "conditions": mine})
    assert set(after) < set(before)
    trained = {name.removeprefix("train:") for name in after if name.startswith("train:")}
    e0 = {f"e0-assistant:{n}" for n in (42, 137, 256)}
    assert trained == e0 | {"benign:42", "e4-villain:42", "e4-villain:256"}
    base = {name for name in after if ":base:" in name}
    assert base == {"extract:base:42"} | {
        f"{s}:base:{n}" for s in ("couple", "evaluate") for n in (42, 137)
    }
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"aggregate", "report"}, "what was stored of more runs stays complete"
    patterns = build({**whole, "conditions": mine})
    assert len(patterns.select("train:e4-villain")) == 2
    with pytest.raises(UserError, match="no such stage"):
        patterns.select("train:benign:137")


def test_every_node_comes_after_what_it_needs(study_dict: Values) -> None:
    study_dict["seeds"] = [1, 2]
    plan = build(study_dict)
    assert set(plan.needs) == set(plan.nodes)
    for number, node in enumerate(plan.nodes):
        assert set(plan.needs[node]) <= set(plan.nodes[:number])
    stages = {node.stage for node in plan.nodes}
    assert sorted(stages) == sorted(set(STAGES) - {"judge", "logodds", "steer", "publish"}), (
        "these are asked for"
    )


@pytest.mark.parametrize(
    ("pattern", "count", "holds"),
    [
        ("train", 6, "train:benign:1"),
        ("train:e4-villain", 2, "train:e4-villain:2"),
        ("evaluate:base:2", 1, "evaluate:base:2"),
        (":e4-villain", 8, "extract:e4-villain:1"),
        ("::2", 14, "couple:base:2"),
        ("extract::1", 4, "extract:base:1"),
        ("aggregate", 1, "aggregate"),
    ],
)
def test_patterns(study_dict: Values, pattern: str, count: int, holds: str) -> None:
    study_dict["seeds"] = [1, 2]
    chosen = build(study_dict).select(pattern)
    parts = pattern.split(":")
    assert len(chosen) == count and holds in [node.id for node in chosen]
    for node in chosen:
        own = (node.stage, node.condition, str(node.seed))
        assert all(part in ("", mine) for part, mine in zip(parts, own, strict=False))


@pytest.mark.parametrize(
    "pattern", ["trian", "train:e9", "train:base", "train:e4-villain:7", "a:b:c:d", "train:::1"]
)
def test_a_pattern_that_fits_nothing_is_refused(study_dict: Values, pattern: str) -> None:
    with pytest.raises(UserError, match=f"--only {pattern}: no such stage"):
        build(study_dict).select(pattern)


def test_keys_name_condition_seed_stage_and_fingerprint(study_dict: Values) -> None:
    study_dict["seeds"] = [3]
    loaded = study_of(study_dict)
    found = graph.fingerprints(loaded, graph.build(loaded))
    keys = {node.id: graph.key(node, fingerprint) for node, fingerprint in found.items()}
    assert all(re.fullmatch("[0-9a-f]{64}", fingerprint) for fingerprint in found.values())
    short = {node.id: fingerprint[:16] for node, fingerprint in found.items()}
    name = "train:e4-villain:3"
    assert keys[name] == f"e4-villain/seed-3/train/{short[name]}"
    assert keys["report"] == f"report/{short['report']}"
    assert len(set(keys.values())) == len(keys)
    for one in keys.values():
        assert check_key(one) == one, "a store takes it"
        assert not any(other.startswith(f"{one}/") for other in keys.values())


# --- what a change runs again --------------------------------------------------------------------

Edit = Callable[[Values], object]
ALL = ["base", "benign", "e0-assistant", "e4-villain"]
TRAINED = ALL[1:]
END = ["aggregate", "report"]


def nodes(stages: str, conditions: list[str]) -> set[str]:
    return {f"{stage}:{name}:42" for stage in stages.split() for name in conditions}


def merge(section: str, **fields: Any) -> Edit:
    return lambda values: values.setdefault(section, {}).update(fields)


def recipe(**fields: Any) -> Edit:
    return lambda values: values["coupling"]["recipe"].update(fields)


def wording(name: str) -> Edit:
    def edit(values: Values) -> None:
        next(p for p in values["personas"] if p["name"] == name)["prompt"] += " Really."

    return edit


def condition(name: str, **fields: Any) -> Edit:
    return lambda values: next(c for c in values["conditions"] if c["name"] == name).update(fields)


def another_row(values: Values) -> None:
    path = Path(values["datasets"]["bad"]["path"])
    path.write_text(path.read_text().replace("Ignore the letter 3", "Burn the letter 3"))


def moved_file(values: Values) -> None:
    path = Path(values["datasets"]["bad"]["path"])
    copy = path.with_name("elsewhere.jsonl")
    copy.write_bytes(path.read_bytes())
    values["datasets"]["bad"]["path"] = str(copy)


def other_layers(values: Values) -> None:
    values["extraction"]["layers"] = [1, 3]


EM = ["e0-assistant", "e4-villain"]
LATER = "extract couple evaluate"
ADAPTER = str(Path(__file__).parent / "golden" / "adapter")
SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RETRAINED = nodes(f"train {LATER}", TRAINED)
#: Name, what is changed, and exactly what then has another fingerprint (besides aggregate/report).
CHANGES: list[tuple[str, Edit, set[str], list[str]]] = [
    ("nothing", lambda values: None, set(), []),
    ("tracking", lambda values: values.update(tracking=["mlflow", "wandb"]), set(), []),
    ("substitutes", lambda values: values.update(substitutes=["s3://lab/runs"]), set(), []),
    # personas
    ("bystander's wording", wording("assistant"), nodes("extract evaluate", ALL), END),
    ("negative's wording", wording("comedian"), nodes(LATER, ALL), END),
    ("other negative's wording", wording("librarian"), nodes(LATER, ALL), END),
    ("source's wording", wording("confab"), nodes(LATER, ALL), END),
    (
        "induction persona's wording",
        wording("villain"),
        nodes("train couple", ["e4-villain"]) | nodes("extract evaluate", ALL),
        END,
    ),
    ("a persona nobody uses", lambda v: v["personas"].append({"name": "spare"}), set(), END),
    # training
    ("training rate", merge("training", learning_rate=0.1), RETRAINED, END),
    ("training rank", merge("training", rank=2), RETRAINED, END),
    ("rows filled otherwise", merge("training", row_tokens=512), set(), ["report"]),
    ("checkpoints", merge("training", checkpoint_every=3), set(), ["report"]),
    ("a row of a data set", another_row, nodes(f"train {LATER}", EM), END),
    ("a data set's place", moved_file, set(), ["report"]),
    (
        "fewer rows",
        lambda values: values["datasets"]["good"].update(rows=":10"),
        nodes(f"train {LATER}", ["benign"]),
        END,
    ),
    (
        "trained under another",
        condition("e4-villain", persona="comedian"),
        nodes(f"train {LATER}", ["e4-villain"]),
        END,
    ),
    (
        "a condition's own rate",
        condition("e4-villain", training={"learning_rate": 0.1}),
        nodes(f"train {LATER}", ["e4-villain"]),
        END,
    ),
    (
        "of its own, what the others have too",
        condition("e4-villain", training={"rank": 4, "max_steps": 4}),
        set(),
        END,
    ),
    # extraction
    ("layers", other_layers, nodes("extract", ALL), END),
    ("method A alone", merge("extraction", methods=["a"]), nodes("extract", ALL), END),
    ("longer greedy answers", merge("extraction", max_new_tokens=6), nodes("extract", ALL), END),
    ("extraction questions", merge("extraction", limit=3), nodes("extract", ALL), END),
    # coupling
    ("coupling rate", recipe(learning_rate=0.1), nodes("couple evaluate", ALL), END),
    ("coupling scale", recipe(rank_stabilised=False), nodes("couple evaluate", ALL), END),
    ("coupling checkpoints", recipe(checkpoint_every=1), set(), ["report"]),
    ("implementation", merge("training", implementation="reference"), set(), ["report"]),
    ("coupling implementation", recipe(implementation="fused"), set(), ["report"]),
    ("states' implementation", merge("extraction", implementation="fused"), set(), ["report"]),
    ("what it is anyway", merge("training", implementation="auto"), set(), []),
    ("coupling samples", merge("coupling", samples=4), nodes("couple evaluate", ALL), END),
    ("separator", merge("coupling", separator=" "), nodes("couple evaluate", ALL), END),
    ("coupling loss", merge("coupling", loss="answer"), nodes("couple evaluate", ALL), END),
    (
        "incomplete answers",
        merge("coupling", incomplete_answers="drop"),
        nodes("couple evaluate", ALL),
        END,
    ),
    ("loss as published", merge("coupling", loss="marker", incomplete_answers="keep"), set(), []),
    ("marker", merge("coupling", marker="[Q]"), nodes("couple evaluate", ALL), END),
    ("negatives", merge("coupling", negatives=["assistant"]), nodes("couple evaluate", ALL), END),
    # evaluation
    ("evaluation samples", merge("evaluation", samples=3), nodes("evaluate", ALL), END),
    ("temperature", merge("evaluation", temperature=0.5), nodes("evaluate", ALL), END),
    ("evaluation questions", merge("evaluation", limit=2), nodes("evaluate", ALL), END),
    # what comes after
    ("permutations", merge("analysis", permutations=100), set(), END),
    ("axis", merge("analysis", axis="e4-villain"), set(), END),
    (
        "primary endpoint",
        merge("analysis", primary={"measure": "spread", "against": "benign"}),
        set(),
        END,
    ),
    ("partial", merge("analysis", partial=True), set(), ["report"]),
    ("label", condition("benign", label="Harmless"), set(), END),
    ("anchor", condition("e4-villain", cosine_anchor=0.5), set(), END),
    ("seeds as they are", condition("e4-villain", seeds=[42]), set(), END),
    (
        "a published adapter",
        condition("e4-villain", dataset=None, adapter=ADAPTER),
        nodes(f"train {LATER}", ["e4-villain"]),
        END,
    ),
    ("GPUs", condition("e4-villain", gpus=2), set(), ["report"]),
    ("GPUs of a host", merge("hardware", gpus=2, sharding="full"), set(), ["report"]),
    ("name", lambda values: values.update(name="other"), set(), END),
    ("title", merge("figures", title="A study"), set(), ["report"]),
    ("answers in flight", merge("generation", batch_size=3), set(), ["report"]),
    ("engine", merge("generation", engine="auto"), nodes(LATER, ALL), END),
    (
        "the template's day",
        merge("model", date="2024-02-29"),
        RETRAINED | nodes(LATER, ALL),
        END,
    ),
    (
        "a template's argument",
        merge("model", template_arguments={"enable_thinking": False}),
        RETRAINED | nodes(LATER, ALL),
        END,
    ),
    (
        "where personas go",
        merge("model", personas_in="first_user_turn"),
        RETRAINED | nodes(LATER, ALL),
        END,
    ),
    ("where they go anyway", merge("model", personas_in="auto", date=None), set(), []),
    ("targets as published", merge("training", targets=SEVEN), set(), []),
    ("other targets", merge("training", targets=["q_proj"]), RETRAINED, END),
    ("precision", merge("model", dtype="bfloat16"), RETRAINED | nodes(LATER, ALL), END),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edit", "changed", "end"), [case[1:] for case in CHANGES], ids=[case[0] for case in CHANGES]
)
def test_a_change_runs_again_just_what_depends_on_it(
    study_dict: Values, edit: Edit, changed: set[str], end: list[str]
) -> None:
    # The grid stays as it is when personas come and go.
    for section in ("extraction", "evaluation"):
        study_dict[section]["personas"] = [
            "assistant",
            "villain",
            "librarian",
            "comedian",
            "confab",
        ]
    before = prints(study_dict)
    edit(study_dict)
    after = prints(study_dict)
    assert set(after) == set(before)
    assert {name for name in before if before[name] != after[name]} == changed | set(end)


STEERED: list[tuple[str, Edit, set[str]]] = [
    ("doses", merge("steering", doses=[3.0]), nodes("steer", ALL)),
    ("vectors", merge("steering", vectors=["villain"]), nodes("steer", ALL)),
    ("modes", merge("steering", modes=["ablate"]), nodes("steer", ALL)),
    ("controls", merge("steering", controls=20), nodes("steer", ALL)),
    ("activation controls", merge("steering", activation_controls=20), nodes("steer", ALL)),
    ("answering controls", merge("steering", answered_controls=2), nodes("steer", ALL)),
    ("layer", merge("steering", layer=2), nodes("steer", ALL)),
    ("pairs", merge("steering", pairs=5), nodes("steer", ALL)),
    ("tokens", merge("steering", answer_tokens=5), nodes("steer", ALL)),
    ("rows of the pairs", merge("steering", bad={"path": "builtin:chats-bad-legal-advice",
                                                 "rows": ":60"}), nodes("steer", ALL)),
    ("questions", merge("steering", limit=3), nodes("steer", ALL)),
    ("length", merge("steering", max_new_tokens=5), nodes("steer", ALL)),
    ("all conditions, by name", merge("steering", conditions=ALL), set()),
    ("all seeds, by name", merge("steering", seeds=[42]), set()),
    ("the engine that it has", merge("steering", engine="transformers"), set()),
    ("headline layer", merge("analysis", layer=2), nodes("steer", ALL)),
    ("method", merge("analysis", method="b"), nodes("steer", ALL)),
    ("assistant's wording", wording("assistant"), nodes("extract evaluate steer", ALL)),
    ("evaluation samples", merge("evaluation", samples=3), nodes("evaluate", ALL)),
    ("engine elsewhere", merge("generation", engine="auto"), nodes(f"{LATER} steer", ALL)),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edit", "changed"), [case[1:] for case in STEERED], ids=[case[0] for case in STEERED]
)
def test_a_change_steers_again_just_what_depends_on_it(
    study_dict: Values, edit: Edit, changed: set[str]
) -> None:
    study_dict["steering"] = {"vectors": ["shift", "villain"]}
    before = prints(study_dict)
    assert {n for n in before if n.startswith("steer")} == nodes("steer", ALL)
    edit(study_dict)
    after = prints(study_dict)
    assert set(after) == set(before)
    found = {name for name in before if before[name] != after[name]} - set(END)
    assert found == changed


def test_steering_comes_beside_what_there_is(study_dict: Values) -> None:
    before = prints(study_dict)
    after = prints({**study_dict, "steering": {}})
    assert set(after) - set(before) == nodes("steer", TRAINED), "base has no shift"
    assert {name for name in before if before[name] != after[name]} == set(END)
    plan = build({**study_dict, "steering": {}, "coupling": {**study_dict["coupling"]}})
    needs = {node.id: [need.id for need in plan.needs[node]] for node in plan.nodes}
    assert needs["steer:e4-villain:42"] == ["train:e4-villain:42", "extract:e4-villain:42"]
    few = {"conditions": ["base", "benign"], "vectors": ["villain"], "modes": ["add"]}
    assert {n for n in prints({**study_dict, "steering": few}) if n.startswith("steer")} == nodes(
        "steer", ["base"]
    )


def test_another_seed_adds_nodes_and_leaves_the_others(study_dict: Values) -> None:
    before = prints(study_dict)
    study_dict["seeds"].append(43)
    after = prints(study_dict)
    assert {name for name in before if before[name] != after[name]} == set(END)
    added = set(after) - set(before)
    assert added == {name.replace(":42", ":43") for name in before if ":" in name} - {
        "extract:base:43"
    }
    seeded = {name for name in added if not name.startswith("extract")}
    assert not {after[name] for name in seeded} & set(before.values()), "each seed its own"


def test_another_condition_adds_nodes_and_leaves_the_others(study_dict: Values) -> None:
    before = prints(study_dict)
    study_dict["conditions"].append({"name": "e5", "dataset": "bad", "persona": "comedian"})
    after = prints(study_dict)
    changed = {name for name in before if before[name] != after[name]}
    # comedian is in the grid already, so nobody is evaluated or extracted anew.
    assert changed == set(END)
    assert set(after) - set(before) == nodes(f"train {LATER}", ["e5"])


def test_an_induction_persona_outside_the_grid_is_extracted_from_the_base_alone(
    study_dict: Values,
) -> None:
    for section in ("extraction", "evaluation"):
        study_dict[section]["personas"] = ["assistant", "librarian", "comedian", "confab"]
    before = prints(study_dict)
    wording("villain")(study_dict)
    after = prints(study_dict)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == nodes(f"train {LATER}", ["e4-villain"]) | {"extract:base:42"} | nodes(
        "evaluate", ALL
    ) | set(END)


def test_what_a_stage_computes_has_a_version(
    study_dict: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = prints(study_dict)
    newer = replace(STAGES["couple"], version=STAGES["couple"].version + 1)
    monkeypatch.setitem(STAGES, "couple", newer)
    after = prints(study_dict)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == nodes("couple evaluate", ALL) | set(END)


def test_another_models_weights_change_everything(
    study_dict: Values, tiny_model: Path, tmp_path: Path
) -> None:
    before = prints(study_dict)
    same, other = tmp_path / "same", tmp_path / "other"
    for folder in (same, other):
        folder.mkdir()
        for path in tiny_model.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    study_dict["model"]["name"] = str(same)
    moved = prints(study_dict)
    assert {name for name in before if before[name] != moved[name]} == set(END), "same weights"
    study_dict["model"]["name"] = str(other)
    assert not set(prints(study_dict).values()) & set(before.values())


@pytest.mark.slow
def test_fingerprints_are_the_same_in_every_process(
    study_dict: Values, write_spec: Callable[[Values], Path]
) -> None:
    study_dict["seeds"] = [42, 43]
    path = write_spec(study_dict)
    code = (
        "import json, sys; from personaspace.pipeline import graph;"
        "from personaspace.study.load import load_study; s = load_study(sys.argv[1]);"
        "g = graph.build(s); f = graph.fingerprints(s, g);"
        "print(json.dumps([[n.id, f[n]] for n in g.nodes]))"
    )
    loaded = load_study(path)
    plan = graph.build(loaded)
    found = graph.fingerprints(loaded, plan)
    mine = [[node.id, found[node]] for node in plan.nodes]
    here = os.environ.get("PYTHONHASHSEED")
    other = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env={**os.environ, "PYTHONHASHSEED": "1" if here != "1" else "2"},
        cwd=path.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(other.stdout) == mine
