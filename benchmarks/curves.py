"""The made-up studies of the calibration in which an effect grows: how often each test finds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from scenarios import (
    GEOMETRY,
    LEAKAGE,
    RUNS,
    SEEDS,
    Check,
    Simulate,
    geometry_study,
    leakage_study,
    rec,
    same,
)
from simulate import Arm, Leakage


@dataclass(frozen=True)
class Curve:
    """Rejections by the size of an effect.

    Attributes:
        what: What is varied, with its unit.
        sizes: Effects as printed.
        studies: One simulated study for each of them.
        checks: Tests to compare.
    """

    what: str
    sizes: tuple[str, ...]
    studies: tuple[Simulate, ...]
    checks: tuple[Check, ...]


def _arms_curve(
    what: str, arms: Mapping[str, Arm], others: Arm, metrics: str, checks: Sequence[Check]
) -> Curve:
    """e1 and e2 take each arm in turn; benign and e0 stay as `others`."""
    studies = []
    for arm in arms.values():
        studies.append(geometry_study(same(others) | {"e1": arm, "e2": arm}, metrics=metrics))
    return Curve(what, tuple(arms), tuple(studies), tuple(checks))


def _rates_curve(
    what: str, worlds: Mapping[str, Leakage], checks: Sequence[Check], seeds: Sequence[int] = (42,)
) -> Curve:
    metrics = " ".join({"published" if c.variant == "published" else c.metric for c in checks})
    studies = tuple(leakage_study(world, seeds, metrics=metrics) for world in worlds.values())
    return Curve(what, tuple(worlds), studies, tuple(checks))


CURVES: tuple[Curve, ...] = (
    _arms_curve(
        "M1: differences between personas shrink by (personas' own displacements stay)",
        {f"{100 * k:.0f} %": Arm(spread=1 - k) for k in (0.05, 0.1, 0.2, 0.4)},
        Arm(),
        "M1",
        [
            *rec("M1", "e1", "raw_cosine", "spread", "em_minus_benign", "spread_em_minus_benign"),
            Check("M1", "published", "raw_cosine", "e1"),
        ],
    ),
    _arms_curve(
        "M1, M2: personas move together by (axis lengths; the axis condition by 1)",
        {f"{k:g}": Arm(shift=k) for k in (0.1, 0.2, 0.3, 0.5)},
        Arm(shift=1.0),
        "M1 M2",
        [
            *rec("M1", "e1", "centred_cosine"),
            *rec("M2", "e1", "split_half", "displacement"),
            Check("M2", "published", "axis_shift", "e1"),
        ],
    ),
    Curve(
        "M3: differences between personas are (base's: 0.7)",
        ("0.05", "0.1", "0.15", "0.2"),
        tuple(
            geometry_study(
                same(Arm(), ("e1",)), replace(GEOMETRY, between=k, own=0.0), metrics="M3"
            )
            for k in (0.05, 0.1, 0.15, 0.2)
        ),
        tuple(rec("M3", "e1", "nearest_centroid_above_chance", "lda_above_chance")),
    ),
    Curve(
        "M2: one of three EM conditions lies further along the axis by (axis lengths)",
        ("0.05", "0.1", "0.2", "0.4"),
        tuple(
            geometry_study(same(Arm(shift=1.0)) | {"e2": Arm(shift=1.0 + k)}, metrics="M2")
            for k in (0.05, 0.1, 0.2, 0.4)
        ),
        tuple(rec("M2", None, "condition_spread")),
    ),
    _rates_curve(
        "H1: the induction persona leaks more by",
        {
            f"{100 * k:g} points": replace(LEAKAGE, induction=k)
            for k in (0.0, 0.02, 0.04, 0.06, 0.08)
        },
        [
            *rec("H1", "e4-villain", "induction_minus_others", "equivalence"),
            Check("H1", "published", "induction_minus_others", "e4-villain"),
        ],
    ),
    _rates_curve(
        "H2: conditions differ with a standard deviation of",
        {f"{100 * k:g} points": replace(LEAKAGE, between=k) for k in (0.01, 0.02, 0.03, 0.05)},
        [
            *rec("H2", None, "common_set", "common_set_without_negatives", "seen", "unseen"),
            Check("H2", "published", "range"),
        ],
    ),
    _rates_curve(
        "H3: leakage falls from cosine 1.0 to 0.78 by (training runs differ by 2 points)",
        {
            f"{100 * k:g} points": replace(LEAKAGE, slope=-k / 0.22, run=0.02)
            for k in (0.04, 0.08, 0.12, 0.16)
        },
        [
            *rec("H3", None, "common_set", "slope"),
            Check("H3", "published", "spearman"),
        ],
    ),
    _rates_curve(
        "H2, H3 with three seeds: leakage falls from cosine 1.0 to 0.78 by",
        {f"{100 * k:g} points": replace(RUNS, slope=-k / 0.22) for k in (0.04, 0.08, 0.12, 0.16)},
        [
            *rec("H2", None, "between_runs"),
            *rec("H3", None, "common_set", "slope", "within_seeds"),
        ],
        SEEDS,
    ),
)
