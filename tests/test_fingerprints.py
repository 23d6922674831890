"""Which change of the spec reruns what: the table in the README, and more."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from personaspace import graph, study
from personaspace.graph import Node
from personaspace.spec import Experiment
from personaspace.validation import check

Change = Callable[[dict[str, Any]], Any]
ENDS = {"aggregate", "report"}
EM = ("e0-assistant", "e4-villain")
ALL = ("base", "benign", *EM)


def prints(values: dict[str, Any], folder: Path) -> dict[str, str]:
    spec, problems = check(values)
    assert spec is not None, problems
    loaded = study.resolve(spec, folder)
    found = graph.fingerprints(loaded, graph.build(loaded))
    return {node.id: fingerprint for node, fingerprint in found.items()}


def of(stages: str, conditions: tuple[str, ...] = ALL) -> set[str]:
    return {f"{s}:{c}:42" for s in stages.split() for c in conditions} - {"train:base:42"}


def prompt(name: str) -> Change:
    def change(s: dict[str, Any]) -> None:
        next(p for p in s["personas"] if p["name"] == name)["prompt"] = "Other words entirely."

    return change


CHANGES: dict[str, tuple[Change, set[str]]] = {
    "bystander": (prompt("assistant"), of("extract evaluate") | ENDS),
    "induction persona": (
        prompt("villain"),
        of("train couple", ("e4-villain",)) | of("extract evaluate") | ENDS,
    ),
    "negative": (prompt("librarian"), of("extract couple evaluate") | ENDS),
    "source": (prompt("confab"), of("extract couple evaluate") | ENDS),
    "training rate": (
        lambda s: s["training"].update(learning_rate=0.1),
        of("train extract couple evaluate", ("benign", *EM)) | ENDS,
    ),
    "coupling rate": (
        lambda s: s["coupling"]["recipe"].update(learning_rate=0.1),
        of("couple evaluate") | ENDS,
    ),
    "layers": (lambda s: s["extraction"].update(layers=[1]), of("extract") | ENDS),
    "samples": (lambda s: s["evaluation"].update(samples=3), of("evaluate") | ENDS),
    "permutations": (lambda s: s["analysis"].update(permutations=77), ENDS),
    "label": (lambda s: s["conditions"][1].update(label="Harmless"), ENDS),
    "anchor": (lambda s: s["conditions"][3].update(cosine_anchor=0.5), ENDS),
    "title": (lambda s: s["figures"].update(title="New"), {"report"}),
    "batch in flight": (lambda s: s["generation"].update(batch_size=3), {"report"}),
    "checkpoints": (lambda s: s["training"].update(checkpoint_every=9), {"report"}),
    "dtype": (
        lambda s: s["model"].update(dtype="bfloat16"),
        of("train extract couple evaluate") | ENDS,
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_reruns_what_reads_it_and_nothing_else(
    name: str, study_dict: dict[str, Any], tmp_path: Path
) -> None:
    change, expected = CHANGES[name]
    study_dict.setdefault("figures", {})
    before = prints(study_dict, tmp_path)
    changed = copy.deepcopy(study_dict)
    change(changed)
    after = prints(changed, tmp_path)
    assert {node for node in before if after[node] != before[node]} == expected


def test_another_file_of_chats_reruns_its_conditions(
    study_dict: dict[str, Any], tmp_path: Path
) -> None:
    before = prints(study_dict, tmp_path)
    good = Path(study_dict["datasets"]["good"]["path"])
    good.write_text(good.read_text().replace("Here", "There"))
    after = prints(study_dict, tmp_path)
    changed = {node for node in before if after[node] != before[node]}
    assert changed == of("train extract couple evaluate", ("benign",)) | ENDS


def test_a_second_seed_adds_nodes_and_keeps_the_first(
    study_dict: dict[str, Any], tmp_path: Path
) -> None:
    before = prints(study_dict, tmp_path)
    study_dict["seeds"] = [42, 7]
    after = prints(study_dict, tmp_path)
    assert {node for node in before if after[node] != before[node]} == ENDS
    # The base model's activations do not depend on the seed.
    assert "extract:base:7" not in after
    assert {"train:benign:7", "extract:benign:7", "couple:base:7", "evaluate:base:7"} <= set(after)


def test_order_and_needs(study_dict: dict[str, Any], tmp_path: Path) -> None:
    loaded = study.resolve(Experiment.model_validate(study_dict), tmp_path)
    plan = graph.build(loaded)
    for index, node in enumerate(plan.nodes):
        assert set(plan.needs[node]) <= set(plan.nodes[:index])
    train, couple = Node("train", "benign", 42), Node("couple", "benign", 42)
    assert plan.needs[Node("evaluate", "benign", 42)] == (train, couple)
    assert plan.needs[Node("couple", "base", 42)] == ()
    assert len(plan.needs[Node("aggregate")]) == 3 + 4 + 4 + 4
    assert plan.descendants(train) == {
        Node("extract", "benign", 42),
        couple,
        Node("evaluate", "benign", 42),
        Node("aggregate"),
        Node("report"),
    }


def test_fingerprints_are_the_same_in_every_process(
    study_dict: dict[str, Any], write_spec: Callable[..., Path], tmp_path: Path
) -> None:
    spec = write_spec(study_dict)
    code = (
        "import sys; from personaspace import graph, study; s = study.load(sys.argv[1]);"
        "print(sorted(graph.fingerprints(s, graph.build(s)).values()))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, str(spec)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {str(sorted(prints(study_dict, tmp_path).values())) + "\n"}
