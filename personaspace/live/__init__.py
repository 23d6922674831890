"""A page that shows a study while it runs: served from this machine, to be read in a browser.

It reads what it is given a `Source` of, and keeps nothing.
"""

from __future__ import annotations

from personaspace.live.server import Address, LivePage, address
from personaspace.live.snapshot import Cell, Ended, Look, Losses, Snapshot, Source

__all__ = [
    "Address",
    "Cell",
    "Ended",
    "LivePage",
    "Look",
    "Losses",
    "Snapshot",
    "Source",
    "address",
]
