"""What the chart hands to Kubernetes, in Kubernetes' own words: what passes here, its server takes.

A value names one of Kubernetes' definitions; `with_definitions` puts these, from the package
kubernetes-validate, into the schema that has names alone. Rules that the API server has in code and
no definition holds stand beside the names: a volume has one source, a mount's path no colon.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import WithJsonSchema

_CORE = "io.k8s.api.core.v1"
#: Key under which a part of the schema says which definition it follows.
_FOLLOWS = "follows"
_QUANTITY = r"^[0-9]+(\.[0-9]*)?([KMGTPE]i|[numkMGTPE]|[eE][-+]?[0-9]+)?$"
_SUBDOMAIN = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)?$"
_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_KEY = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
_LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"
_ENV_NAME = r"^[-._a-zA-Z][-._a-zA-Z0-9]*$"
_DATA_KEY = r"^[-._a-zA-Z0-9]+$"
_UPWARDS = r"(^|/)\.\.(/|$)"
#: Kubernetes' definitions that say less than its server: an amount is no free text.
_STRICTER = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {
        "anyOf": [{"type": "string", "pattern": _QUANTITY}, {"type": "number", "minimum": 0}]
    },
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {
        "anyOf": [
            {"type": "integer", "minimum": 1, "maximum": 65535},
            {"type": "string", "pattern": _LABEL, "maxLength": 15},
        ]
    },
}
_IN_FOLDER = {"not": {"pattern": _UPWARDS}}
_CODES_IN = {"properties": {"operator": {"const": "In"}, "values": {"contains": {"const": 0}}}}
_FOREVER = {"properties": {"effect": {"not": {"const": "NoExecute"}}}}
_BATCH, _NETWORK = "io.k8s.api.batch.v1", "io.k8s.api.networking.v1"
#: What the server asks of fields beside their types, and of objects as a whole.
_ALSO: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    f"{_CORE}.EnvVarSource": ({}, {"minProperties": 1, "maxProperties": 1}),
    f"{_CORE}.SecretKeySelector": ({"key": {"pattern": _DATA_KEY}}, {}),
    f"{_CORE}.ConfigMapKeySelector": ({"key": {"pattern": _DATA_KEY}}, {}),
    f"{_CORE}.HostPathVolumeSource": ({"path": {"minLength": 1, **_IN_FOLDER}}, {}),
    f"{_CORE}.VolumeMount": ({"subPath": {"not": {"pattern": f"^/|{_UPWARDS}"}}}, {}),
    f"{_CORE}.Toleration": (
        {},
        {
            "anyOf": [
                {"required": ["key"]},
                {"required": ["operator"], "properties": {"operator": {"const": "Exists"}}},
            ],
            "not": {"required": ["tolerationSeconds"], **_FOREVER},
        },
    ),
    f"{_CORE}.TopologySpreadConstraint": (
        {
            "maxSkew": {"minimum": 1},
            "topologyKey": {"pattern": _KEY},
            "whenUnsatisfiable": {"enum": ["DoNotSchedule", "ScheduleAnyway"]},
        },
        {},
    ),
    f"{_CORE}.NodeSelector": ({"nodeSelectorTerms": {"minItems": 1}}, {}),
    f"{_CORE}.PodAffinityTerm": ({"topologyKey": {"pattern": _KEY}}, {}),
    f"{_BATCH}.PodFailurePolicyRule": ({"action": {"enum": ["Ignore", "FailJob", "Count"]}}, {}),
    f"{_BATCH}.PodFailurePolicyOnExitCodesRequirement": (
        {
            "containerName": {"enum": ["stage"]},
            "operator": {"enum": ["In", "NotIn"]},
            "values": {"minItems": 1, "maxItems": 255, "uniqueItems": True},
        },
        {"not": _CODES_IN},
    ),
    f"{_NETWORK}.NetworkPolicyPort": ({"protocol": {"enum": ["TCP", "UDP", "SCTP"]}}, {}),
    f"{_NETWORK}.IPBlock": ({"cidr": {"pattern": r"^[0-9a-fA-F:.]+/[0-9]{1,3}$"}}, {}),
}


def _of(definition: str, **rules: Any) -> Any:
    """A dict that follows a definition, and rules beside it."""
    schema = {"type": "object", _FOLLOWS: definition, **rules}
    return Annotated[dict[str, Any], WithJsonSchema(schema)]


def _with(**patterns: Any) -> dict[str, Any]:
    return {name: {"type": "string", **rule} for name, rule in patterns.items()}


def _map(values: dict[str, Any]) -> Any:
    schema = {
        "type": "object",
        "propertyNames": {"pattern": _KEY, "maxLength": 317},
        "additionalProperties": {"type": "string", **values},
    }
    return Annotated[dict[str, str], WithJsonSchema(schema)]


Env = _of(
    f"{_CORE}.EnvVar",
    properties=_with(name={"pattern": _ENV_NAME}),
    **{"not": {"required": ["value", "valueFrom"]}},
)
EnvFrom = _of(f"{_CORE}.EnvFromSource")
#: Its name and one source.
Volume = _of(
    f"{_CORE}.Volume",
    properties=_with(name={"pattern": _LABEL, "maxLength": 63}),
    minProperties=2,
    maxProperties=2,
)
Mount = _of(f"{_CORE}.VolumeMount", properties=_with(mountPath={"pattern": "^/[^:]*$"}))
Toleration = _of(
    f"{_CORE}.Toleration",
    properties=_with(
        operator={"enum": ["Exists", "Equal", "Lt", "Gt"]},
        effect={"enum": ["", "NoSchedule", "PreferNoSchedule", "NoExecute"]},
    ),
)
Affinity = _of(f"{_CORE}.Affinity")
Spread = _of(f"{_CORE}.TopologySpreadConstraint")
Resources = _of(f"{_CORE}.ResourceRequirements")
PullSecret = _of(f"{_CORE}.LocalObjectReference", required=["name"])
PodSecurity = _of(f"{_CORE}.PodSecurityContext")
ContainerSecurity = _of(f"{_CORE}.SecurityContext")
FailurePolicy = _of("io.k8s.api.batch.v1.PodFailurePolicy")
Egress = _of("io.k8s.api.networking.v1.NetworkPolicyEgressRule")
Labels = _map({"pattern": _LABEL_VALUE})
Annotations = _map({})
#: An amount; empty: none.
Amount = Annotated[str, WithJsonSchema({"type": "string", "pattern": f"{_QUANTITY[:-1]}$|^$"})]
#: A key of a secret's or ConfigMap's data; empty: none.
DataKey = Annotated[
    str, WithJsonSchema({"type": "string", "pattern": f"{_DATA_KEY}|^$", "maxLength": 253})
]
#: Name of an object; empty: none.
ObjectName = Annotated[
    str, WithJsonSchema({"type": "string", "pattern": _SUBDOMAIN, "maxLength": 253})
]


def _definitions() -> dict[str, Any]:
    """Kubernetes' definitions of the newest version that the package knows."""
    from importlib.resources import files

    import kubernetes_validate

    newest = f"v{kubernetes_validate.latest_version()}-local-strict"
    folder = files("kubernetes_validate").joinpath("kubernetes-json-schema", newest)
    found = json.loads(folder.joinpath("_definitions.json").read_text(encoding="utf-8"))
    known = {**found["$defs"], **_STRICTER}
    for name, (fields, rules) in _ALSO.items():
        own = known[name]["properties"]
        stricter = {field: {**own[field], **rule} for field, rule in fields.items()}
        known[name] = {**known[name], **rules, "properties": {**own, **stricter}}
    return known


def _bare(part: Any) -> Any:
    """Without what people read of it, which is twenty times as long."""
    if isinstance(part, dict):
        return {
            name: _bare(value)
            for name, value in part.items()
            if not (name == "description" and isinstance(value, str)) and name[:2] != "x-"
        }
    return [_bare(item) for item in part] if isinstance(part, list) else part


def _names(part: Any) -> Iterator[str]:
    """Definitions that a part of a schema names."""
    yield from re.findall(r'"\$ref": "[^"]*?([\w.]+)"', json.dumps(part))


def with_definitions(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with each part that follows a definition of Kubernetes tied to it.

    Raises:
        ImportError: The package kubernetes-validate (extra `dev`) is not installed.
    """
    wanted: list[str] = []

    def tie(part: Any) -> Any:
        if isinstance(part, list):
            return [tie(item) for item in part]
        if not isinstance(part, dict):
            return part
        found = {name: tie(value) for name, value in part.items() if name != _FOLLOWS}
        if isinstance(part.get(_FOLLOWS), str):
            wanted.append(part[_FOLLOWS])
            # Beside a `$ref` draft 7 sees nothing.
            found["allOf"] = [{"$ref": f"#/$defs/{part[_FOLLOWS]}"}]
        return found

    tied: dict[str, Any] = tie(schema)
    known, used = _definitions(), {}
    while wanted:
        name = wanted.pop()
        if name not in used:
            used[name] = _bare(known[name])
            wanted += _names(used[name])
    tied["$defs"] = {**tied["$defs"], **dict(sorted(used.items()))}
    return tied
