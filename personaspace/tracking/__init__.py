"""Experiment trackers: what a stage does, told to W&B, MLflow, trackio or TensorBoard.

A tracker is told in a thread of its own. One that fails, or does not answer, is named once and left
out; the stage goes on, and ends at most `PATIENCE` seconds later.
"""

from __future__ import annotations

from personaspace.tracking.backends import BACKENDS
from personaspace.tracking.trackers import PATIENCE, Run, Tracking, tracked

__all__ = ["BACKENDS", "PATIENCE", "Run", "Tracking", "tracked"]
