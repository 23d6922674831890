"""M3, recommended: can the persona be told from one answer's activation, on unseen questions.

Two classifiers of single (persona, question) activations, cross-validated by question, so that no
question is both learnt from and tested on: the study's nearest centroid by cosine, and linear
discriminant analysis with Ledoit–Wolf shrinkage. LDA costs the cube of the dimension; it works on
leading principal components of the differences between personas' answers to one question, all
conditions of the cell together. That basis sees no persona labels and is the same for base and
conditions.

Shape suffixes: F folds, P personas, Q questions, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from sklearn.covariance import ledoit_wolf
from threadpoolctl import threadpool_limits

from personaspace.analysis.crossed import two_way_estimate
from personaspace.analysis.geometry.cells import Cell, Floats, Roles
from personaspace.analysis.geometry.compare import Pseudo
from personaspace.analysis.rows import Row
from personaspace.analysis.stats import (
    Array,
    clustered_wilson,
    generator,
    permutation_p,
    tail_count,
)
from personaspace.analysis.themes import (
    Places,
    by_theme,
    of_used,
    samples,
    shuffled_hits,
    sums,
)

if TYPE_CHECKING:
    from personaspace.analysis.geometry.tables import Kept

FOLDS = 5
#: Principal components that LDA works on, at most.
COMPONENTS = 64
#: Activations that the components are found from, at most.
_BASIS_ROWS = 600
#: Label permutations for the test against chance, at most: it is not adjusted for multiplicity.
_CHANCE_DRAWS = 2000

BLURRED = "In base, personas are told apart in less than 90 % of cases: there is little to lose."

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Design:
    """What is random in the cross-validation of one group of files.

    Attributes:
        folds: `[Q]`, fold of each question; those of a theme are in one.
        shuffled: `[draw, Q, P]`: usable personas of each question in random order, then −1; where
            questions have themes, `[draw, T, P]`: all personas in random order.
        places: `[Q]`, each question's theme; None: questions are the samples.
    """

    folds: Ints
    shuffled: NDArray[np.int16]
    places: Places | None = None

    @classmethod
    def make(
        cls,
        valid_PQ: NDArray[np.bool_],
        permutations: int,
        seed: int,
        places: Places | None = None,
    ) -> Design:
        """For at least two questions, or themes."""
        personas, questions = valid_PQ.shape
        count = samples(questions, places)
        order = generator(seed, "M3 folds", count).permutation(count)
        folds = np.empty(count, dtype=np.int64)
        folds[order] = np.arange(count) % min(FOLDS, count)
        rng = generator(seed, "M3 labels", personas, count)
        draws = min(permutations, _CHANCE_DRAWS)
        if places is not None:
            names = np.broadcast_to(np.arange(personas, dtype=np.int16), (draws, count, personas))
            return cls(folds[places], rng.permuted(names, axis=2), places)
        shuffled = np.empty((draws, questions, personas), dtype=np.int16)
        for draw in range(draws):
            keys = np.where(valid_PQ.T, rng.random((questions, personas)), np.inf)
            shuffled[draw] = np.where(np.isinf(np.sort(keys)), -1, keys.argsort(axis=1))
        return cls(folds, shuffled)


def nearest_centroid(states_PQH: Floats, valid_PQ: NDArray[np.bool_], folds_Q: Ints) -> Ints:
    """Predicted persona `[P, Q]` by the largest cosine with the other folds' persona means."""
    personas, questions, hidden = states_PQH.shape
    member = (folds_Q == np.arange(folds_Q.max() + 1)[:, None]).astype(np.float32)  # [F, Q]
    sums = np.matmul(member, states_PQH)  # [P, F, H]
    centroids = (sums.sum(axis=1, keepdims=True) - sums).transpose(1, 0, 2)  # [F, P, H]
    lengths = np.linalg.norm(centroids, axis=2, keepdims=True)
    centroids = np.divide(centroids, lengths, out=np.zeros_like(centroids), where=lengths > 0)
    # Scores against every fold's centroids, F times what is needed, spare copies of the data.
    every = states_PQH.reshape(-1, hidden) @ centroids.reshape(-1, hidden).T
    scores = every.reshape(personas, questions, len(member), personas)
    scores = scores[:, np.arange(questions), folds_Q]  # [P, Q, P]
    counts = valid_PQ.astype(np.int64) @ member.T.astype(np.int64)  # [P, F]
    # A persona without an answer in the other folds cannot be predicted.
    absent = counts.sum(axis=1, keepdims=True) == counts
    scores[:, absent.T[folds_Q]] = -np.inf
    return np.where(valid_PQ, scores.argmax(axis=2), -1)


def components(cell: Cell, seed: int) -> Floats:
    """Activations in the cell's leading principal components, `[C, P, Q, component]`.

    As they are where there are no more dimensions than components. The components are those of a
    random sample of activations less their question's mean over personas, found from the sample's
    inner products. Invalid entries mean nothing.
    """
    conditions, personas, questions, hidden = cell.states.shape
    if hidden <= COMPONENTS:
        return cell.states
    places = np.argwhere(np.broadcast_to(cell.valid, (conditions, personas, questions)))
    if len(places) > _BASIS_ROWS:
        rng = generator(seed, "M3 basis", cell.method, cell.layer)
        places = places[np.sort(rng.choice(len(places), _BASIS_ROWS, replace=False))]
    c, _, q = places.T
    asked = cell.valid.sum(axis=0)[q, None].astype(np.float32)
    rows = cell.states[tuple(places.T)] - cell.states.sum(axis=1)[c, q] / asked
    gram = (rows @ rows.T).astype(np.float64)
    kept = min(COMPONENTS, len(rows) - 1)
    with threadpool_limits(1):  # threads only wait for each other in so small a decomposition
        squares, left = eigh(gram, subset_by_index=(len(rows) - kept, len(rows) - 1))
    good = squares > squares[-1] * np.finfo(np.float32).eps * len(rows)
    basis = (rows.T @ (left[:, good] / np.sqrt(squares[good])).astype(np.float32))[:, ::-1]
    centre = cell.means.mean(axis=(0, 1)).astype(np.float32)
    return np.asarray(cell.states @ basis - centre @ basis)


def fit_lda(rows: Array, labels: Ints) -> tuple[Array, Array]:
    """Linear discriminant analysis with equal priors: score = rows @ weights + offsets.

    The covariance is that of the residuals around the class means, shrunk once for all classes by
    Ledoit & Wolf (2004). (scikit-learn's LDA shrinks each class on its own, from a twelfth of the
    data, and takes ten times as long.)

    Args:
        rows: `[sample, component]`.
        labels: `[sample]`, classes 0 … without gaps.

    Returns:
        Weights `[component, class]` and offsets `[class]`.
    """
    means = np.stack([rows[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
    covariance, _ = ledoit_wolf(rows - means[labels], assume_centered=True)
    try:
        weights = np.linalg.solve(covariance, means.T)
    except np.linalg.LinAlgError:  # no variation within classes: the least-norm solution will do
        weights = np.linalg.pinv(covariance, hermitian=True) @ means.T
    return weights, -0.5 * np.einsum("kd,dk->k", means, weights)


def shrinkage_lda(states_PQH: Floats, valid_PQ: NDArray[np.bool_], folds_Q: Ints) -> Ints:
    """Predicted persona `[P, Q]` by LDA fitted to the other folds."""
    labels, questions = np.nonzero(valid_PQ)
    rows = states_PQH[labels, questions]
    predicted = np.full(valid_PQ.shape, -1)
    for fold in range(folds_Q.max() + 1):
        test = folds_Q[questions] == fold
        # A persona without an answer in the other folds cannot be predicted.
        seen, classes = np.unique(labels[~test], return_inverse=True)
        if not test.any() or len(seen) == 0:
            continue
        weights, offsets = fit_lda(rows[~test], classes)
        best = (rows[test] @ weights + offsets).argmax(axis=1)
        predicted[labels[test], questions[test]] = seen[best]
    return predicted


def _chance_p(predicted_PQ: Ints, valid_PQ: NDArray[np.bool_], design: Design) -> float:
    """The p of as many hits if each held-out question's activations had their personas shuffled.

    The classifiers stay as they are: they never saw the held-out questions. Where questions have
    themes, personas are shuffled in all questions of a theme alike.
    """
    personas, questions = valid_PQ.shape
    hits = float((predicted_PQ == np.arange(personas)[:, None]).sum())
    if design.places is not None:
        rows, columns = np.nonzero(predicted_PQ >= 0)
        predicted_N = predicted_PQ[rows, columns]
        null = shuffled_hits(rows, predicted_N, design.places[columns], design.shuffled)
        return permutation_p(int(tail_count(null, hits, two_sided=False)), len(null))
    ranked = np.full((questions, personas), -2, dtype=design.shuffled.dtype)
    for question in range(questions):
        mine = predicted_PQ[valid_PQ[:, question], question]
        ranked[question, : len(mine)] = mine
    null = (design.shuffled == ranked).sum(axis=(1, 2))
    count = int(tail_count(null.astype(np.float64), hits, two_sided=False))
    return permutation_p(count, len(null))


def m3(
    cell: Cell,
    roles: Roles,
    design: Design,
    seed: int,
    kept: Kept | None = None,
    projected: Floats | None = None,
) -> list[Row]:
    """Rows of M3 for both classifiers; effect: accuracy on a scale from chance (0) to 1.

    Args:
        kept: Takes the run's tables, for the estimates over all runs.
        projected: The cell's `components`, where they are known.
    """
    rows: list[Row] = []
    valid = cell.valid
    counts = sums(valid.astype(np.float64), design.places)
    sampled = replace(cell, valid=counts > 0)
    totals = counts.sum(axis=0)
    used = totals > 0
    totals = totals[used]
    chance = 1 / len(cell.personas)
    projected = components(cell, seed) if projected is None else projected
    for classifier in ("nearest_centroid", "lda"):
        right: dict[str, NDArray[np.bool_]] = {}
        for index, name in enumerate(cell.conditions):
            if classifier == "lda":
                predicted = shrinkage_lda(projected[index], valid, design.folds)
            else:
                predicted = nearest_centroid(cell.states_of(name), valid, design.folds)
            right[name] = predicted == np.arange(len(predicted))[:, None]
            hits = sums(right[name].astype(np.float64), design.places).sum(axis=0)[used]
            value = float(hits.sum() / totals.sum())
            row = Row(
                "M3",
                "recommended",
                cell.method,
                cell.layer,
                name,
                cell.seed,
                value=value,
                base=chance,
                delta=value - chance,
                p=_chance_p(predicted, valid, design),
                ci95=clustered_wilson(hits, totals),
                n=len(totals),
                effect=(value - chance) / (1 - chance),
                name=f"{classifier}_above_chance",
                family="geometry_above_chance",
            )
            rows.append(row)
            if name != roles.base:
                base_PQ = right[roles.base]
                rows.extend(against_base(row, right[name], base_PQ, valid, design.places))
                if kept is not None:
                    own = filled_in(right[name], valid, design.places)
                    base = filled_in(base_PQ, valid, design.places)
                    kept.add(sampled, "M3", classifier, name, own, base)
    return rows


def filled_in(
    right_PQ: NDArray[np.bool_], valid_PQ: NDArray[np.bool_], places_Q: Places | None
) -> Pseudo:
    """Right or wrong by question and persona; the question's mean where an answer is missing."""
    used = valid_PQ.any(axis=0)
    hits = np.where(valid_PQ, right_PQ, 0.0)[:, used]
    means = hits.sum(axis=0) / valid_PQ[:, used].sum(axis=0)
    filled_PQ = np.where(valid_PQ[:, used], hits, means)
    return Pseudo(by_theme(filled_PQ, of_used(places_Q, used)).T)


def against_base(
    row: Row,
    mine_PQ: NDArray[np.bool_],
    base_PQ: NDArray[np.bool_],
    valid_PQ: NDArray[np.bool_],
    places_Q: Places | None,
) -> list[Row]:
    """Against base: the difference with a two-way interval, personas and questions being samples.

    No p: all questions share the classifiers, whose luck is in neither way's variance. Tests by
    random signs of questions and by this standard error rejected a true null hypothesis too often.
    """
    classifier = str(row.name).removesuffix("_above_chance")
    change = np.where(valid_PQ, mine_PQ.astype(np.float64) - base_PQ, np.nan)
    used = ~np.isnan(change).all(axis=0)
    change = change[:, used]
    # Where an answer is missing, the mean of its question stands for it.
    change = np.where(np.isnan(change), np.nanmean(change, axis=0), change)
    before = float(base_PQ.sum() / valid_PQ.sum())
    delta = float(row.value or 0.0) - before
    estimate = replace(two_way_estimate(by_theme(change, of_used(places_Q, used)).T), value=delta)
    filled = replace(
        row,
        base=before,
        delta=delta,
        p=None,
        family=None,
        name=classifier,
        warning=BLURRED if before < 0.9 else None,
    )
    companion = replace(
        filled,
        value=delta,
        base=None,
        delta=None,
        ci95=estimate.interval,
        family=None,
        name=f"{classifier}_delta",
    )
    return [filled, companion]
