"""The report on a study: one HTML page that needs nothing but itself, and a Markdown summary."""

from __future__ import annotations

from personaspace.report.page import build

__all__ = ["build"]
