"""What a release asks of a ResourceQuota, which counts gated pods as if they ran."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any

from kubernetes.utils.quantity import parse_quantity

#: Amounts by the name that a quota has for them, as text: hashable, small, shared by many Jobs.
Asks = tuple[tuple[str, str], ...]
_GIB = Decimal(1 << 30)


def asks_of(pod_spec: dict[str, Any]) -> Asks:
    """What a pod counts for, as `requests.cpu`, `limits.memory`, `requests.nvidia.com/gpu`."""
    found: dict[str, str] = {}
    for container in pod_spec.get("containers") or ():
        resources = container.get("resources") or {}
        limits = resources.get("limits") or {}
        for name, amount in {**limits, **(resources.get("requests") or {})}.items():
            found[f"requests.{name}"] = str(amount)
        for name, amount in limits.items():
            if "/" not in name:  # of extended resources a quota knows requests alone
                found[f"limits.{name}"] = str(amount)
    return tuple(sorted(found.items()))


def needed(pods: Iterable[Asks]) -> dict[str, str]:
    """What all these pods count for together; `pods` is their number."""
    count, sums = 0, dict[str, Decimal]()
    for asks in pods:
        count += 1
        for name, amount in asks:
            sums[name] = sums.get(name, Decimal(0)) + Decimal(parse_quantity(amount))
    return {"pods": str(count), **{name: _text(name, total) for name, total in sums.items()}}


def _text(name: str, total: Decimal) -> str:
    if name.endswith((".memory", "storage")):
        return f"{(total / _GIB).to_integral_value(ROUND_CEILING)}Gi"
    return f"{total.normalize():f}"


def amount_of(name: str, need: Mapping[str, str]) -> str:
    """What of an amount is needed; a quota may call it `cpu`, `requests.cpu`, `count/pods`."""
    plain = name.removeprefix("count/")
    return need.get(plain) or need.get(f"requests.{plain}") or "?"
