"""A node of the graph: one run of one stage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Node:
    """One run of one stage.

    Attributes:
        stage: Name of the stage.
        condition: For which condition; empty for the whole study.
        seed: For which seed; -1 for the whole study.
    """

    stage: str
    condition: str = ""
    seed: int = -1

    @property
    def id(self) -> str:
        """`train:e4-villain:42`, or `aggregate`."""
        return f"{self.stage}:{self.condition}:{self.seed}" if self.condition else self.stage
