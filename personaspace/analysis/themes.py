"""Questions that come in themes: the theme is the sample, its questions are no more than its parts.

Where effects act on whole themes, questions of a theme resemble each other, and tests over
questions count each theme as many times as it has questions. Values by question become as many
values by theme, with the same mean, so that whatever is done over questions (t, two-way variances,
jackknife, permutation within rows) is done over themes instead.

Themes of one size T·Sₜ/Q, a theme's own mean: tests over them are exact where those over questions
were. Of unequal sizes the deviations are those of the cluster variance of a mean (Liang & Zeger
1986), enlarged twice: by its bias, and so that a 95 % interval has the width that the effective
number of themes 1/Σ(nₜ/Q)² (Carter, Schnepel & Steigerwald 2017) gives it.

Letters: Q questions, T themes, Sₜ sum and nₜ number of a theme's questions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from personaspace.analysis.stats import Array

#: A theme of each question; questions that are not in it are each a theme of their own.
Themes = Mapping[str, str]
Places = NDArray[np.int64]

ONE_THEME = (
    "All these questions are of one theme: they are the samples, and the claim is about this theme."
)


def places_of(questions: Sequence[str], themes: Themes | None) -> Places | None:
    """The number of each question's theme, `[Q]`, in order of appearance.

    Returns:
        None where questions are the samples: there are no themes, one alone, or one a question.
    """
    found = numbers_of(questions, themes or {})
    return np.array(found) if themes and 1 < len(set(found)) < len(found) else None


def numbers_of(questions: Sequence[str], themes: Themes) -> list[int]:
    """The number of each question's theme in order of appearance; one without has its own."""
    numbers: dict[tuple[bool, str], int] = {}
    return [
        numbers.setdefault((text in themes, themes.get(text, text)), len(numbers))
        for text in questions
    ]


def samples(questions: int, places_Q: Places | None) -> int:
    """How many themes there are, or questions where these are the samples."""
    return questions if places_Q is None else int(places_Q.max()) + 1


def of_used(places_Q: Places | None, used_Q: NDArray[np.bool_] | np.bool_) -> Places | None:
    """Themes of the questions that are used; None where these are of one."""
    if places_Q is None:
        return None
    numbers = np.unique(places_Q[used_Q], return_inverse=True)[1]
    return numbers if numbers.max() > 0 else None


def of_one_theme(questions: Sequence[str], themes: Themes | None) -> bool:
    """Whether several questions have one theme, and none lacks it."""
    names = {(themes or {}).get(text) for text in questions}
    return len(questions) > 1 and len(names) == 1 and None not in names


def widening(sizes_T: Array) -> float:
    """By how much deviations of themes of these sizes are enlarged; 1 for equal ones."""
    count = len(sizes_T)
    effective = float(sizes_T.sum()) ** 2 / float((sizes_T**2).sum())
    if count < 2 or effective > count * (1 - 1e-9):
        return 1.0
    bias = (1 - 1 / count) / (1 - 1 / effective)
    wide, narrow = (float(special.stdtrit(free, 0.975)) for free in (effective - 1, count - 1.0))
    return math.sqrt(bias) * wide / narrow


def members(places_Q: Places) -> NDArray[np.bool_]:
    """`[T, Q]`, which questions a theme has."""
    return np.asarray(places_Q == np.arange(places_Q.max() + 1)[:, None])


def sums(values: Array, places_Q: Places | None, axis: int = -1) -> Array:
    """Sums over the questions of each theme, along this axis; None: the values as they are."""
    if places_Q is None:
        return values
    member_TQ = members(places_Q).astype(np.float64)
    return np.asarray(np.moveaxis(np.tensordot(member_TQ, values, axes=(1, axis)), 0, axis))


def by_theme(values: Array, places_Q: Places | None, axis: int = -1) -> Array:
    """Values of themes with the mean that the questions' have.

    Args:
        values: Any shape, questions along `axis`.
        places_Q: As of `places_of`; None: questions are the samples, values come back as they are.
        axis: Of the questions, and of the themes in what comes back.
    """
    if places_Q is None:
        return values
    sizes_T = np.bincount(places_Q).astype(np.float64)
    count, questions = len(sizes_T), len(places_Q)
    mean = values.mean(axis=axis, keepdims=True)
    shape = [1] * values.ndim
    shape[axis] = count
    found = sums(values, places_Q, axis) - sizes_T.reshape(shape) * mean
    return np.asarray(mean + count / questions * widening(sizes_T) * found)


def shuffled_hits(
    true_N: Places, predicted_N: Places, theme_N: Places, names_DTP: NDArray[np.int16]
) -> Array:
    """Hits of a classifier if persona i's answers in theme t were those of persona names[t, i].

    Args:
        true_N: Persona of each answer.
        predicted_N: The classifier's.
        theme_N: The answer's theme.
        names_DTP: Of every draw, theme and persona.

    Returns:
        `[draw]`.
    """
    personas = names_DTP.shape[2]
    found = np.zeros(len(names_DTP))
    for theme in range(names_DTP.shape[1]):
        mine = theme_N == theme
        counts_PP = np.zeros((personas, personas))
        np.add.at(counts_PP, (true_N[mine], predicted_N[mine]), 1)
        found += counts_PP[np.arange(personas), names_DTP[:, theme]].sum(axis=1)
    return found
