"""Fingerprints as they were: a store made by an earlier version of the code is still complete.

What changes one on purpose writes them anew, and says so in CHANGELOG.md:
python tests/test_fingerprints.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from personaspace.pipeline import graph
from personaspace.study.load import load_study, resolve
from personaspace.study.spec import Experiment

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden" / "fingerprints.json"

RERUN = [
    {"stage": "couple", "condition": "benign", "seed": 137},
    {"stage": "train", "nonce": "again"},
    {"stage": "aggregate", "nonce": "2"},
]
#: Studies that between them reach every branch of what stages read.
CASES: dict[str, dict[str, Any]] = {
    "published": {},
    "three-seeds": {"seeds": [42, 137, 256]},
    "rerun": {"seeds": [42, 137], "rerun": RERUN},
    "method-a": {"extraction": {"methods": ["a"], "layers": [20]}},
    "method-b": {"extraction": {"methods": ["b"]}, "generation": {"engine": "vllm"}},
    "base-alone": {"conditions": [{"name": "base"}]},
    "partial": {"analysis": {"partial": True, "permutations": 100}},
}
#: Studies that ship with the tool.
FILES = ("examples/demo.yaml", "examples/smollm2-gpu.yaml")
CHART = "charts/experiment/values-tiny.yaml"


def found(case: str) -> dict[str, list[Any]]:
    """Every node in order: its fingerprint, and what it needs."""
    if case in FILES:
        study = load_study(ROOT / case)
    elif case == CHART:
        values = yaml.safe_load((ROOT / CHART).read_text(encoding="utf-8"))["experiment"]
        study = resolve(Experiment.model_validate(values), ROOT)
    else:
        study = resolve(Experiment.model_validate(CASES[case]), Path("/nowhere"))
    built = graph.build(study)
    prints = graph.fingerprints(study, built)
    return {n.id: [prints[n], [need.id for need in built.needs[n]]] for n in built.nodes}


@pytest.mark.parametrize("case", [*FILES, CHART, *CASES])
def test_nodes_needs_and_fingerprints_are_what_they_were(case: str) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))[case]
    now = found(case)
    assert list(now) == list(golden), "the same nodes in the same order"
    assert now == golden


if __name__ == "__main__":
    cases = {case: found(case) for case in (*FILES, CHART, *CASES)}
    lines = [
        f" {json.dumps(case)}: {{\n"
        + ",\n".join(f"  {json.dumps(node)}: {json.dumps(row)}" for node, row in nodes.items())
        + "\n }"
        for case, nodes in cases.items()
    ]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
