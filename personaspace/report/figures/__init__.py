"""The study's figures, from an aggregate folder: `draw`.

Every figure comes in two widths (page and phone), with alt text and the tidy data behind it.
Drawing the same folder twice gives the same bytes.
"""

from __future__ import annotations

from personaspace.report.figures.draw import Figure, Settings, draw

__all__ = ["Figure", "Settings", "draw"]
