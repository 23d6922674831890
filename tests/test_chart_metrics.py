"""Where the chart lets pods serve numbers, and who may fetch them."""

from __future__ import annotations

import json
from typing import Any

from helm_charts import CHART, needs_helm, of_kind, refused, render

from personaspace.pipeline import metrics

pytestmark = needs_helm


def test_pods_serve_their_numbers_where_they_are_asked_to() -> None:
    def ports(given: dict[str, Any]) -> dict[str, tuple[int, str] | None]:
        found: dict[str, tuple[int, str] | None] = {}
        for job in of_kind(render(given), "Job").values():
            (container,) = job["spec"]["template"]["spec"]["containers"]
            names = {e["name"]: e.get("value") for e in container["env"]}
            stage = job["metadata"]["labels"].get("personaspace.dev/stage")
            for port in container.get("ports", ()):
                assert (port["name"] == "metrics" and stage not in found) or found[stage]
                found[stage] = (port["containerPort"], names[metrics.PORT])
            if stage and not container.get("ports"):
                assert metrics.PORT not in names
                found[stage] = None
        return found

    off, monitored = ports({}), ports({"podMonitor": {"enabled": True}})
    assert set(off.values()) == {None}
    assert monitored.pop("conductor") == (9400, "9400") and set(monitored.values()) == {None}
    on = ports({"metrics": {"enabled": True, "port": 9500}})
    assert on.pop("conductor") == (9400, "9400")
    assert set(on) == set(monitored) and set(on.values()) == {(9500, "9500")}

    everything = render({
        "metrics": {"enabled": True, "port": 9500}, "podMonitor": {"enabled": True},
        "networkPolicy": {"enabled": True}, "dashboard": {"enabled": True, "labels": {"team": "x"}},
    })  # fmt: skip
    (monitor,) = of_kind(everything, "PodMonitor").values()
    assert "personaspace.dev/stage" not in monitor["spec"]["selector"]["matchLabels"]
    (alone,) = of_kind(render({"podMonitor": {"enabled": True}}), "PodMonitor").values()
    assert alone["spec"]["selector"]["matchLabels"]["personaspace.dev/stage"] == "conductor"
    (policy,) = of_kind(everything, "NetworkPolicy").values()
    assert [port["port"] for port in policy["spec"]["ingress"][0]["ports"]] == [9400, 9500]
    dashboard = of_kind(everything, "ConfigMap")["em205-dashboard"]
    assert dashboard["metadata"]["labels"]["team"] == "x"
    text = (CHART / "dashboard.json").read_text()
    assert json.loads(dashboard["data"]["personaspace.json"]) == json.loads(text)
    plain = of_kind(render({"dashboard": {"enabled": True}}), "ConfigMap")["em205-dashboard"]
    assert plain["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert not any("dashboard" in name for name in of_kind(render({}), "ConfigMap"))
    assert "port" in refused({"metrics": {"enabled": True, "port": 80}})
