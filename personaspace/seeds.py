"""Seeds that follow from what they are for."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: object) -> int:
    """A seed 0 ≤ n < 2⁶³ from printable parts; the same in every process, on every machine."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
