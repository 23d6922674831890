"""The matrix of values, by both Helms and by Kubernetes' own definitions."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from chart_matrix import MATRIX, SMALL
from helm_charts import PROGRAMS, needs_helm, render

pytestmark = [*needs_helm, pytest.mark.slow]


@pytest.mark.long
def test_both_helms_and_kubernetes_take_them() -> None:
    import kubernetes_validate

    assert len(MATRIX) >= 30
    newest = kubernetes_validate.latest_version()
    valid: set[str] = set()
    with ThreadPoolExecutor(2) as pool:
        for name, values in MATRIX.items():
            given = {"experiment": SMALL, **values}
            found = list(pool.map(lambda at: render(given, program=at), PROGRAMS.values()))  # noqa: B023
            assert all(objects == found[0] for objects in found), name
            for item in found[0]:
                spec = json.dumps([item["kind"], item.get("spec")])
                if spec not in valid:  # what differs in names alone is looked at once
                    valid.add(spec)
                    kubernetes_validate.validate(item, newest, strict=True)
    assert len(valid) > 100
