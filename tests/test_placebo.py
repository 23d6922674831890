"""A second benign condition: compared with the first by every test, and no EM condition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from personaspace.activations.files import write_activations
from personaspace.analysis.geometry import analyse_geometry
from personaspace.analysis.leakage import ConditionInfo, analyse_leakage
from personaspace.analysis.rows import Row
from personaspace.study.problems import ProblemCode
from personaspace.study.validate import examine

PERSONAS = ("assistant", "b", "c", "d")
CONDITIONS = ("base", "benign", "benign-2", "e0-assistant", "e1")
DRAWS: dict[str, Any] = {"permutations": 20, "bootstrap": 10}


def written(folder: Path) -> list[Path]:
    rng = np.random.default_rng(2)
    shared = 2 + rng.normal(size=(4, 1, 1, 6))
    for name in CONDITIONS:
        for seed in (1, 2, 3) if name != "base" else (1,):
            states = (
                shared + 0.2 * rng.normal(size=(4, 12, 1, 6)) + 0.1 * rng.normal(size=(1, 1, 1, 6))
            )
            write_activations(
                folder / f"{name}.seed-{seed}.a.safetensors",
                states,
                np.ones((4, 12), dtype=bool),
                personas=PERSONAS,
                questions=[f"Q{i}?" for i in range(12)],
                layers=[0],
                condition=name,
                seed=seed,
                method="a",
            )
    return sorted(folder.iterdir())


def key(row: Row) -> tuple[Any, ...]:
    return row.metric, row.variant, row.name, row.condition, row.seed, row.target


@pytest.mark.slow
def test_the_other_rows_are_those_without_it(tmp_path: Path) -> None:
    files = written(tmp_path)
    found = analyse_geometry(files, placebo=["benign-2"], **DRAWS).rows
    without = [path for path in files if not path.name.startswith("benign-2")]
    plain = {key(row): row for row in analyse_geometry(without, **DRAWS).rows}
    mine = [row for row in found if row.condition != "benign-2"]
    assert [key(row) for row in mine] == list(plain)
    for row in mine:
        # Runs of all conditions enter variances; estimates are the same.
        assert row.value == pytest.approx(plain[key(row)].value, abs=1e-9)
    placebo = [row for row in found if row.family == "placebo" and row.metric != "shape"]
    assert {row.name for row in placebo} == {
        "placebo_minus_benign", "spread_placebo_minus_benign", "split_half_placebo_minus_benign",
        "displacement_placebo_minus_benign", "nearest_centroid_placebo_minus_benign",
        "lda_placebo_minus_benign",
    }  # fmt: skip
    assert len(placebo) == 12 and all(row.against == "benign" and row.p_holm for row in placebo)
    shapes = [row for row in found if row.family == "placebo" and row.metric == "shape"]
    names = {row.name for row in shapes}
    assert {"cka_placebo_minus_benign", "rsa_placebo_minus_benign"} < names
    assert "probe_transfer_placebo_minus_benign" not in names  # it has no p, so it is in no family
    own = {row.family for row in found if row.condition == "benign-2"} - {"geometry_shape"}
    assert own <= {None, "placebo", "geometry_benign_pre_post", "geometry_above_chance"}


def test_answers_have_the_same_comparison() -> None:
    rng = np.random.default_rng(4)

    def scores() -> dict[str, Any]:
        counts = {}
        for persona in ("confab", "a", "b", "c"):
            parts = {f"q{i}": {"hits": int(rng.integers(3, 8)), "total": 10} for i in range(12)}
            hits = sum(part["hits"] for part in parts.values())
            counts[persona] = {"hits": hits, "total": 120, "per_question": parts}
        return {"per_persona": counts}

    infos = [ConditionInfo("base", "base"), ConditionInfo("benign", "benign")]
    infos += [ConditionInfo("benign-2", "benign"), ConditionInfo("e0", "em", "a")]
    found = {(info.name, seed): scores() for info in infos for seed in (1, 2, 3)}
    rows = analyse_leakage(found, infos, source="confab", **DRAWS)
    once = {(name, seed): of for (name, seed), of in found.items() if seed == 1}
    single = analyse_leakage(once, infos, source="confab", **DRAWS)
    alone = [row for row in single if row.family == "placebo"]
    assert len(alone) == 2 and all(row.p and row.run_variation is False for row in alone)
    mine = [row for row in rows if row.family == "placebo"]
    assert [(row.name, row.condition, row.against) for row in mine] == 2 * [
        ("placebo_minus_benign", "benign-2", "benign")
    ]
    rates = [
        np.mean(
            [found[name, seed]["per_persona"][p]["hits"] / 120 for p in "abc" for seed in (1, 2, 3)]
        )
        for name in ("benign-2", "benign")
    ]
    assert mine[0].value == pytest.approx(rates[0] - rates[1])


def test_the_same_training_twice_is_refused() -> None:
    conditions: list[dict[str, Any]] = [
        {"name": "base"},
        {"name": "benign", "kind": "benign", "dataset": "good"},
        {"name": "benign-2", "kind": "benign", "dataset": "good"},
        {"name": "e0", "dataset": "good"},
    ]
    path = "builtin:chats-instructions"
    values = {"name": "s", "datasets": {"good": {"path": path}}, "conditions": conditions}
    _, problems = examine(json.loads(json.dumps(values)))
    mine = [p for p in problems if p.path == "conditions[2].dataset"]
    assert [p.code for p in mine] == [ProblemCode.DUPLICATE] and "other rows" in mine[0].message
    values["datasets"] = {
        "good": {"path": path, "rows": ":200"},
        "more": {"path": path, "rows": "200:"},
    }
    conditions[2]["dataset"] = "more"
    _, problems = examine(json.loads(json.dumps(values)))
    assert not [p for p in problems if p.path.startswith("conditions[2]")]
