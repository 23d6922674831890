"""What a measure is: a kind of row, and what it shows and cannot show."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from personaspace.analysis.results_parts import MeasureInfo
from personaspace.analysis.rows import Variant


@dataclass(frozen=True)
class Measure:
    """One kind of row.

    Attributes:
        metric: M1, M2, M3, shape, bystander_mean, bystander_contrast, length, persona_text,
            log_odds, divergence, steering, H1, H2 or H3.
        variant: `published` or `recommended`.
        name: Tells apart the measures of one metric.
        title: Short name for people.
        shows: What a row of it shows, to follow "Shows".
        cannot: What it cannot show, to follow "cannot".
        null: Null hypothesis of p; None: no test.
        effect: What the effect size is; None: none.
    """

    metric: str
    variant: Variant
    name: str | None
    title: str
    shows: str
    cannot: str
    null: str | None = None
    effect: str | None = None

    @property
    def note(self) -> str:
        """Both in one sentence."""
        return f"Shows {self.shows}; cannot {self.cannot}."

    def info(self) -> MeasureInfo:
        """As `results.json` has it, with whole sentences."""
        sentences = {"shows": f"Shows {self.shows}.", "cannot": f"Cannot {self.cannot}."}
        return MeasureInfo(**(asdict(self) | sentences))
