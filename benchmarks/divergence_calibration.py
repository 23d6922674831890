"""How often tests of the divergence between personas' answers reject what is true.

python -m benchmarks.divergence_calibration --studies 2000 --out docs/calibration-divergence.md

Worlds that its JSON has already, with as many studies, are not computed again.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
sys.path.insert(0, str(Path(__file__).parent))

import kept  # noqa: E402
import numpy as np  # noqa: E402
from scipy.special import rel_entr, softmax  # noqa: E402

from personaspace.analysis.divergence import Divergences, analyse_divergence  # noqa: E402
from personaspace.analysis.leakage.scores import ConditionInfo  # noqa: E402
from personaspace.analysis.stats import generator  # noqa: E402

KINDS = {"base": "base", "benign": "benign", "e1": "em"}
INFOS = tuple(ConditionInfo(name, kind) for name, kind in KINDS.items())
TOKENS, WORDS = 4, 6


@dataclass(frozen=True)
class World:
    """What distributions over the next word look like.

    A persona's logits are a question's own, plus the persona's, plus the persona's to the question,
    plus what the condition does to its answer; a fine-tuned condition multiplies all but the first
    by `shrink`, benign and EM alike. So their divergences have one mean.

    Attributes:
        what: In a sentence.
        shrink: Factor of the fine-tuned conditions.
        personas: How many.
        questions: How many.
        own: Standard deviation of what a condition does to a persona's answer to a question.
        to_personas: The same of what it does to a persona whatever the question.
        heavy: That is Student's t with three degrees of freedom.
        unequal: Factor of the first persona's deviation from the others.
        themes: Questions of each theme; what fine-tuning does belongs to the theme as a whole.
        seeds: Training runs.
        run: Standard deviation of a run's own factor on divergences, around 1.
        noisy: How many times as much EM's runs vary.
        missing: Share of questions that have no common answer.
    """

    what: str
    shrink: float = 1.0
    personas: int = 8
    questions: int = 28
    own: float = 0.3
    to_personas: float = 0.0
    heavy: bool = False
    unequal: float = 1.0
    themes: int = 0
    seeds: int = 1
    run: float = 0.0
    noisy: float = 1.0
    missing: float = 0.0

    def study(self, rng: np.random.Generator) -> dict[tuple[str, int], Divergences]:
        """Divergences of base, benign and e1 by training seed."""
        personas, questions = self.personas, self.questions
        of_question = 1.5 * rng.standard_normal((questions, 1, TOKENS, WORDS))
        of_persona = 0.5 * rng.standard_normal((1, personas, TOKENS, WORDS))
        of_persona[:, 0] *= self.unequal
        both = 0.4 * rng.standard_normal((questions, personas, TOKENS, WORDS))
        there = rng.random(questions) >= self.missing
        names = tuple(f"persona {p}" for p in range(personas))
        moved = {name: self._moved(rng) for name in KINDS}
        found = {}
        for name, own in moved.items():
            factor = 1.0 if name == "base" else self.shrink
            mine = self.to_personas * rng.standard_normal(of_persona.shape)
            logits = of_question + factor * (of_persona + both + own + mine)
            pairs_QN = divergences(softmax(logits, axis=-1))[there]
            asked = [f"q{q}" for q in np.flatnonzero(there)]
            spread = {"base": 0.0, "benign": self.run, "e1": self.run * self.noisy}[name]
            for seed in range(self.seeds):
                scaled = (1 + spread * rng.standard_normal()) * pairs_QN
                by_question = {q: list(row) for q, row in zip(asked, scaled, strict=True)}
                found[name, seed] = Divergences(names, by_question)
        return found

    def _moved(self, rng: np.random.Generator) -> np.ndarray:
        shape = (self.themes or self.questions, self.personas, TOKENS, WORDS)
        drawn = rng.standard_t(3, shape) / np.sqrt(3) if self.heavy else rng.standard_normal(shape)
        places = np.arange(self.questions) * len(drawn) // self.questions
        return np.asarray(self.own * drawn[places])

    @property
    def named(self) -> dict[str, str]:
        """The theme of each question."""
        places = range(self.questions if self.themes else 0)
        return {f"q{q}": f"theme {q * self.themes // self.questions}" for q in places}


def divergences(p_QPTV: np.ndarray) -> np.ndarray:
    """Means over tokens, by question and pair."""
    i, j = np.triu_indices(p_QPTV.shape[1], 1)
    one, other = p_QPTV[:, i], p_QPTV[:, j]
    mean = (one + other) / 2
    found = (rel_entr(one, mean) + rel_entr(other, mean)).sum(axis=-1) / 2
    return np.asarray(found.mean(axis=-1))


WORLDS = {
    "nothing happens": World("Fine-tuning does to every answer what chance does in base."),
    "closer": World("Benign and EM bring personas closer, alike.", shrink=0.6),
    "12 questions": World("Of 12 questions.", shrink=0.6, questions=12),
    "4 personas": World("Of four personas.", shrink=0.6, personas=4),
    "heavy tails": World("What a condition does has Student's t.", own=0.6, heavy=True),
    "one far persona": World("One persona is three times as far off.", shrink=0.6, unequal=3.0),
    "20 % missing": World("A fifth of the questions has no common answer.", missing=0.2),
    "themes act": World("Seven themes of four; a condition acts on themes.", own=0.6, themes=7),
    "each its own": World(
        "Each condition moves each persona in a direction of its own: of these personas conditions "
        "differ, of others they do not on average.",
        to_personas=0.3,
    ),
    "three runs": World("Three runs, each with its own factor.", 0.6, seeds=3, run=0.1),
    "three runs, EM noisy": World(
        "The same; EM's runs vary three times as much.", 0.6, seeds=3, run=0.05, noisy=3.0
    ),
}


def outcomes(world: World, rng: np.random.Generator) -> dict[str, float]:
    """Of one study: each p of what is true."""
    rows = analyse_divergence(world.study(rng), INFOS, themes=world.named or None)
    true = {"common_answers_em_minus_benign": "less benign"}
    if world.shrink == 1.0:
        true["common_answers"] = "change from base"
    found = {}
    for row in rows:
        if row.condition != "e1" or row.name not in true:
            continue
        if world.to_personas and row.target == "these_personas":
            continue
        what = f"{true[row.name]}, {str(row.target).replace('_', ' ')}"
        if row.p is not None:
            found[what] = row.p
    return found


def rejected(world: World, name: str, studies: int) -> dict[str, float]:
    """Share of studies with p ≤ 0.05, by test."""
    found = [outcomes(world, generator(23, name, index)) for index in range(studies)]
    shares = {}
    for test in dict.fromkeys(key for one in found for key in one):
        values = np.array([one[test] for one in found if test in one])
        shares[test] = float((values <= 0.05).mean())
    return shares


def markdown(shares: dict[str, dict[str, float]], studies: int) -> str:
    """The page."""
    error = kept.error(studies)
    lines = [
        "# Divergence of personas' answers: how often tests reject",
        "",
        f"Written by `python -m benchmarks.divergence_calibration --studies {studies} --out "
        f"docs/calibration-divergence.md`, last on {date.today().isoformat()}.",
        "",
        f"{studies} made-up studies a world (at 5 %: ± {error:.1f}) of base, a benign and an EM "
        "condition; 8 personas, 28 questions and one training run where nothing else is said. "
        f"Every answer has {TOKENS} tokens of {WORDS} words, whose divergences scipy computes. EM "
        "and benign have the same mean, and base too where fine-tuning does not shrink what makes "
        "personas differ.",
        "",
        "**Share with p ≤ 0.05, in %** (intervals are of the same t: they miss 0 as often)",
        "",
        *kept.by_world(shares),
        "",
        *kept.legend(shares, WORLDS),
        "",
    ]
    return "\n".join([*lines, "– : not true there.", ""])


if __name__ == "__main__":
    kept.calibrate(__doc__, WORLDS, rejected, markdown)
