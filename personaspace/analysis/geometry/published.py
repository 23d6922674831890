"""M1, M2 and M3 as the study computed them, faults and all (P personas, K pairs of personas)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from personaspace.analysis.geometry.cells import Cell, Roles, cosine_matrix
from personaspace.analysis.rows import Row
from personaspace.analysis.stats import (
    Array,
    Draws,
    bootstrap_draws,
    generator,
    label_draws,
    percentile_interval,
    published_p,
    sign_draws,
    tail_count,
)

EXTRA = "Not part of the published analysis, which reported this for EM conditions only."
ON_ITSELF = "This condition defines the axis, which is then tested on the same questions."


@dataclass(frozen=True)
class PublishedDraws:
    """Random numbers for all published tests of one number of personas.

    Attributes:
        signs: Over pairs of personas.
        resamples: Over pairs of personas.
        labels: Over the personas but the assistant, of base and of a condition.
    """

    signs: Draws
    resamples: Draws
    labels: Draws

    @classmethod
    def make(cls, personas: int, permutations: int, bootstrap: int, seed: int) -> PublishedDraws:
        """Draws for at least two personas."""
        pairs = personas * (personas - 1) // 2
        others = personas - 1
        return cls(
            sign_draws(pairs, permutations, generator(seed, "M1 signs", pairs)),
            bootstrap_draws(pairs, bootstrap, generator(seed, "M1 resamples", pairs)),
            label_draws(others, others, permutations, generator(seed, "M2 labels", others)),
        )


def pair_cosines(cell: Cell, condition: str) -> Array:
    """Cosines of all pairs of persona vectors, `[K]`, row by row of the upper triangle."""
    cosines = cell.cosines(condition)
    return np.asarray(cosines[np.triu_indices(len(cosines), 1)])


def sign_flip_p(differences: Array, signs: Draws) -> float:
    """Two-sided: share of sign patterns whose |mean| reaches the observed |mean|."""
    null = signs.null(differences)
    count = int(tail_count(null, differences.mean(), two_sided=True))
    return published_p(count, len(null))


def m1(cell: Cell, roles: Roles, draws: PublishedDraws) -> list[Row]:
    """Mean pairwise cosine against base and against benign.

    p: sign flips of the pair differences. Interval: percentiles of resampled pairs of the
    condition's own mean. Effect: share of what base lacks to 1 that is gone.
    """
    pairs = {name: pair_cosines(cell, name) for name in cell.conditions}
    base = pairs[roles.base]
    rows = []
    for name in cell.conditions[1:]:
        mine = pairs[name]
        value, before = float(mine.mean()), float(base.mean())
        row = Row(
            "M1",
            "published",
            cell.method,
            cell.layer,
            name,
            cell.seed,
            value=value,
            base=before,
            delta=value - before,
            p=sign_flip_p(mine - base, draws.signs),
            ci95=percentile_interval(draws.resamples.null(mine)),
            n=len(mine),
            family=pre_post_family(name, roles),
            effect=(value - before) / (1 - before) if before < 1 else None,
            name="raw_cosine",
        )
        rows.append(row)
        if roles.benign is not None and roles.benign in pairs and name not in roles.harmless:
            other = pairs[roles.benign]
            rows.append(
                replace(
                    row,
                    base=float(other.mean()),
                    delta=value - float(other.mean()),
                    p=sign_flip_p(mine - other, draws.signs),
                    ci95=None,
                    family="geometry_em_vs_benign",
                    effect=None,
                    name="em_vs_benign",
                )
            )
    return rows


def pre_post_family(condition: str, roles: Roles) -> str:
    """The family of a condition's comparisons with base."""
    benign = condition in roles.harmless
    return "geometry_benign_pre_post" if benign else "geometry_em_pre_post"


def axis_cosines(vectors_PH: Array, axis_H: Array) -> Array:
    """|cosine| of each vector with the axis, `[P]`."""
    dots = vectors_PH @ axis_H
    lengths = np.linalg.norm(vectors_PH, axis=1) * np.linalg.norm(axis_H)
    return np.asarray(np.abs(dots) / lengths)


def m2(cell: Cell, roles: Roles, draws: PublishedDraws) -> list[Row]:
    """|cosine| with the axis, mean over the personas but the assistant.

    p, one-sided: permutation of the labels of base's and the condition's vectors. Effect:
    difference in pooled standard deviations (Cohen's d). No rows where there is no axis.
    """
    if roles.axis not in cell.conditions or roles.assistant not in cell.personas:
        return []
    assistant = cell.personas.index(roles.assistant)
    axis = cell.vectors(roles.axis)[assistant] - cell.vectors(roles.base)[assistant]
    if not axis.any():
        return []
    others = [index for index in range(len(cell.personas)) if index != assistant]
    before = axis_cosines(cell.vectors(roles.base)[others], axis)
    rows = []
    for name in cell.conditions[1:]:
        after = axis_cosines(cell.vectors(name)[others], axis)
        delta = float(after.mean() - before.mean())
        null = draws.labels.null(np.concatenate([before, after]))
        count = int(tail_count(null, delta, two_sided=False))
        benign = name in roles.harmless
        rows.append(
            Row(
                "M2",
                "published",
                cell.method,
                cell.layer,
                name,
                cell.seed,
                value=float(after.mean()),
                base=float(before.mean()),
                delta=delta,
                p=published_p(count, len(null)),
                n=len(others),
                family=None if benign else pre_post_family(name, roles),
                effect=_cohens_d(before, after),
                name="axis_shift",
                note=EXTRA if benign else ON_ITSELF if name == roles.axis else None,
            )
        )
    return rows


def _cohens_d(before: Array, after: Array) -> float | None:
    if len(before) < 2:
        return None
    spread = float(np.sqrt((before.var(ddof=1) + after.var(ddof=1)) / 2))
    return float(after.mean() - before.mean()) / spread if spread > 0 else None


def nearest_other_accuracy(vectors_PH: Array) -> float:
    """The study's M3: how often a vector's nearest *other* vector is itself. Always 0."""
    cosines = cosine_matrix(vectors_PH)
    np.fill_diagonal(cosines, -np.inf)
    return float((cosines.argmax(axis=1) == np.arange(len(cosines))).mean())


def m3(cell: Cell, roles: Roles) -> list[Row]:
    """Leave-one-out nearest centroid that leaves out the right answer; p is 1 by construction."""
    rows = []
    for name in cell.conditions[1:]:
        benign = name in roles.harmless
        value = nearest_other_accuracy(cell.vectors(name))
        before = nearest_other_accuracy(cell.vectors(roles.base))
        rows.append(
            Row(
                "M3",
                "published",
                cell.method,
                cell.layer,
                name,
                cell.seed,
                value=value,
                base=before,
                delta=value - before,
                p=1.0,
                n=len(cell.personas),
                family=None if benign else pre_post_family(name, roles),
                name="nearest_centroid",
                note=EXTRA if benign else None,
            )
        )
    return rows
