"""The leakage analysis: scores of all conditions and seeds in, rows of H1, H2 and H3 out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from personaspace.analysis.leakage import across, published, recommended
from personaspace.analysis.leakage.pooled import contrast_rows
from personaspace.analysis.leakage.scores import (
    ConditionInfo,
    Key,
    Scores,
    check_scores,
    common_bystanders,
    only_seed,
    with_themes,
    wordings_of,
)
from personaspace.analysis.metrics import described
from personaspace.analysis.ranges import in_range
from personaspace.analysis.rows import Row
from personaspace.analysis.stats import adjust
from personaspace.analysis.themes import Themes
from personaspace.analysis.wordings import held, unheld
from personaspace.errors import UserError


def analyse_leakage(
    scores: Mapping[Key, Scores],
    conditions: Sequence[ConditionInfo],
    *,
    source: str,
    negatives: Sequence[str] = (),
    unseen: set[str] | None = None,
    measured: Mapping[str, float] | None = None,
    themes: Themes | None = None,
    permutations: int = 10_000,
    bootstrap: int = 2_000,
    seed: int = 42,
) -> list[Row]:
    """Mean bystander leakage of every condition, and H1–H3 over the EM conditions.

    Published rows come for each training seed, recommended ones with all seeds together (their
    `seed` is None unless there is only one).

    Args:
        scores: Output of `scoring.score_answers` by condition and training seed; counts by
            question are used where every file has them.
        conditions: Those of the study, in the order of the rows; not all need scores.
        source: Persona that the marker was coupled to; never a bystander.
        negatives: Personas that coupling trained to answer without the marker.
        unseen: Questions that coupling did not use; None: not known, no rows for it.
        measured: Cosine to the assistant by EM condition, measured in this base model: what H3's
            recommended test uses; None: the conditions' own, which are this model's then.
        themes: Of the questions, which are then the clusters of the recommended analysis.
        permutations: Draws of the permutation tests.
        bootstrap: Draws of H2's interval.
        seed: Of all random draws.

    Returns:
        No scores: no rows. Without EM conditions only the means are described.

    Raises:
        UserError: Scores of a condition that is not in `conditions`, or malformed scores.
    """
    _check(scores, conditions)
    seeds = sorted({training_seed for _, training_seed in scores})
    rows: list[Row] = []
    for training_seed in seeds:
        mine = {name: entry for (name, s), entry in scores.items() if s == training_seed}
        rows.extend(
            published.analyse_seed(mine, conditions, training_seed, source, permutations, seed)
        )
    there = [c for c in conditions if any(name == c.name for name, _ in scores)]
    scores = with_themes(scores, themes)
    rows.extend(
        _recommended(
            scores,
            there,
            source=source,
            negatives=negatives,
            unseen=unseen,
            measured=measured,
            permutations=permutations,
            bootstrap=bootstrap,
            seed=seed,
            training_seed=only_seed(scores),
        )
    )
    return [described(in_range(row)) for row in adjust(rows)]


def _recommended(
    scores: Mapping[Key, Scores],
    there: Sequence[ConditionInfo],
    *,
    source: str,
    negatives: Sequence[str],
    unseen: set[str] | None,
    measured: Mapping[str, float] | None,
    permutations: int,
    bootstrap: int,
    seed: int,
    training_seed: int | None,
) -> list[Row]:
    """Rows over all seeds together, of conditions that have scores."""
    rows: list[Row] = []
    em = [c for c in there if c.kind == "em"]
    common = common_bystanders(scores, em, source)
    for condition in there:
        rows.extend(
            recommended.bystander_rows(
                scores,
                condition,
                common,
                source=source,
                negatives=negatives,
                unseen=unseen,
                seed=training_seed,
            )
        )
    for condition in em:
        rows.extend(
            recommended.h1_rows(scores, condition, em, common, source=source, seed=training_seed)
        )
    rows.extend(contrast_rows(scores, there, source, training_seed))
    several = wordings_of(scores) > 1
    rows = held(rows) if several else rows
    if not em:
        return rows
    tests = [
        *across.h2_rows(
            scores,
            em,
            common,
            negatives=negatives,
            unseen=unseen,
            permutations=permutations,
            bootstrap=bootstrap,
            seed=seed,
            training_seed=training_seed,
        ),
        *across.h3_rows(
            scores,
            em,
            common,
            measured=measured,
            permutations=permutations,
            seed=seed,
            training_seed=training_seed,
        ),
    ]
    return [*rows, *(unheld(tests) if several else tests)]


def _check(scores: Mapping[Key, Scores], conditions: Sequence[ConditionInfo]) -> None:
    known = {condition.name for condition in conditions}
    for name, training_seed in sorted(scores):
        check_scores(scores[name, training_seed], f"scores of {name}, seed {training_seed}")
        if name not in known:
            raise UserError(f"scores of a condition {name!r} that the spec does not have")
