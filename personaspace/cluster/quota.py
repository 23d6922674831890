"""What a release asks of a ResourceQuota, which counts gated pods as if they ran."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import ROUND_CEILING, Decimal
from typing import Any

from kubernetes.utils.quantity import parse_quantity

#: Amounts by the name that a quota has for them, as text: hashable, small, shared by many Jobs.
Asks = tuple[tuple[str, str], ...]
_EXCEEDED = re.compile(r"exceeded quota: ([\w.-]+), requested: .*, limited: (\S+)")
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


def explain(message: str, need: dict[str, str]) -> str:
    """What to raise, where the API server's refusal names a quota; else its own words.

    Args:
        message: Of the event FailedCreate.
        need: See `needed`, of the release.
    """
    found = _EXCEEDED.search(message)
    if not found:
        return message
    allowed = dict(pair.partition("=")[::2] for pair in found[2].split(","))
    wants = [f"{name}={_find(name, need)} (now {hard})" for name, hard in allowed.items()]
    return (
        f"quota {found[1]} is too small: waiting pods count, and this release needs "
        f"{', '.join(wants)} at once"
    )


def _find(name: str, need: dict[str, str]) -> str:
    """A quota has several names for the same: `cpu` is `requests.cpu`, `count/pods` is `pods`."""
    plain = name.removeprefix("count/")
    return need.get(plain) or need.get(f"requests.{plain}") or "?"
