"""Energy of a stage: what the GPUs' own counters say (NVML), and how much several stages took.

A card counts the energy that it has taken since its driver was loaded, in millijoules (Volta and
later). A stage's energy is the difference over its run of all cards that its process sees: what the
card took, whoever used it, idle time and stages beside it included. Other parts of the machine,
and parts of a card (MIG), are not counted.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

#: Of a manifest.
FIELD = "energy"
#: Joules of a kilowatt hour.
KILOWATT_HOUR = 3.6e6


class Use(BaseModel):
    """What one card counted while a stage ran.

    Attributes:
        card: Its UUID.
        began: Seconds since 1970.
        ended: The same, at the stage's end.
        first: The card's counter at the beginning, millijoules.
        last: The counter at the end.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    card: str
    began: float
    ended: float
    first: int = Field(ge=0)
    last: int = Field(ge=0)

    @property
    def joules(self) -> float:
        """What the card took meanwhile."""
        return max(0, self.last - self.first) / 1000


class Meter:
    """Reads the counters from when it is made.

    Args:
        nvml: What speaks to the driver: the module `pynvml`, or in tests one with its functions;
            None: the module, if it is installed.
    """

    def __init__(self, nvml: Any = None) -> None:
        self._nvml = nvml if nvml is not None else _module()
        self._began = time.time()
        self._first = self._read()

    def uses(self) -> list[dict[str, Any]]:
        """What each card took until now, for a manifest; empty where no card tells."""
        now, last = time.time(), self._read()
        return [
            Use(
                card=card,
                began=round(self._began, 3),
                ended=round(now, 3),
                first=first,
                last=last[card],
            ).model_dump()
            # A counter that went back: the driver was loaded again meanwhile.
            for card, first in self._first.items()
            if card in last and last[card] >= first
        ]

    def _read(self) -> dict[str, int]:
        """Each visible card's counter by its UUID; without those that have none."""
        nvml = self._nvml
        if nvml is None:
            return {}
        found = {}
        try:
            nvml.nvmlInit()
        except nvml.NVMLError:  # no driver, so no card
            return {}
        try:
            for handle in _visible(nvml):
                try:
                    counter = nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
                    found[_text(nvml.nvmlDeviceGetUUID(handle))] = int(counter)
                except nvml.NVMLError:  # before Volta, or a part of a card
                    continue
        except nvml.NVMLError:
            return {}
        finally:
            nvml.nvmlShutdown()
        return found


def _module() -> Any:
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _visible(nvml: Any) -> list[Any]:
    """The cards that CUDA shows to this process, by its own rule: up to the first it cannot read.

    Without starting CUDA, which takes memory of a card.
    """
    every = [nvml.nvmlDeviceGetHandleByIndex(n) for n in range(nvml.nvmlDeviceGetCount())]
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return every
    names = [_text(nvml.nvmlDeviceGetUUID(handle)) for handle in every]
    found: list[Any] = []
    for part in (part.strip() for part in named.split(",")):
        if part.isdecimal() and int(part) < len(every):
            found.append(every[int(part)])
        elif part.startswith("GPU-") and sum(name.startswith(part) for name in names) == 1:
            found.append(next(h for h, n in zip(every, names, strict=True) if n.startswith(part)))
        else:
            break
    return found


def taken(uses: Iterable[Use]) -> float:
    """Joules of stages together: what a card took while several ran on it counts once.

    Counters are compared among uses of one card that overlap in time; a driver that is loaded
    again counts from zero, so that equal counters may be of other times.
    """
    return sum(_of_card(mine) for mine in _by_card(uses))


def seconds_in_use(uses: Iterable[Use]) -> float:
    """Seconds in which cards had a stage, over all cards: several at once on a card count once."""
    seconds = 0.0
    for mine in _by_card(uses):
        until = float("-inf")
        for use in mine:
            seconds += max(0.0, use.ended - max(use.began, until))
            until = max(until, use.ended)
    return seconds


def _by_card(uses: Iterable[Use]) -> list[list[Use]]:
    """The uses of each card, in the order in which they began."""
    cards: dict[str, list[Use]] = defaultdict(list)
    for use in uses:
        cards[use.card].append(use)
    return [sorted(mine, key=lambda use: use.began) for mine in cards.values()]


def _of_card(uses: Sequence[Use]) -> float:
    joules, until = 0.0, float("-inf")
    together: list[Use] = []
    for use in uses:
        if use.began > until:
            joules += _union(together)
            together = []
        together.append(use)
        until = max(until, use.ended)
    return joules + _union(together)


def _union(uses: Sequence[Use]) -> float:
    total, until = 0, 0
    for use in sorted(uses, key=lambda use: use.first):
        total += max(0, use.last - max(use.first, until))
        until = max(until, use.last)
    return total / 1000
