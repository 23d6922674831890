"""Tables of massive dimensions: how large they are, and what the geometry is without them."""

from __future__ import annotations

from statistics import fmean

from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import RobustRow
from personaspace.report.cells import estimate_cell, share_cell
from personaspace.report.tables import Cell, Column, Table
from personaspace.report.text import NONE, is_contrast, number, percent

_TRANSFORMS = {
    "as_is": "as they are",
    "without_massive": "without massive dimensions",
    "scaled": "each dimension in its own units",
}
BENIGN_SHARE = "em_mean_benign_share"
_MEASURES = {
    "raw_cosine_delta": "mean pair cosine, change from base",
    "em_minus_benign": "mean pair cosine, EM less benign",
    "em_mean_minus_benign": "mean pair cosine, EM conditions' mean less benign",
    BENIGN_SHARE: "benign's share of EM's change",
    "spread_delta": "variance between personas, change from base",
    "spread_em_mean_minus_benign": "variance between personas, EM conditions' mean less benign",
    "split_half_delta": "cosine with the EM axis, change from base",
    "displacement": "cosine of shifts with the EM axis",
    "nearest_centroid_delta": "nearest-centroid accuracy, change from base",
    "lda_delta": "LDA accuracy, change from base",
    "participation_ratio_delta": "participation ratio, change from base",
    "cka": "kernel alignment with base",
    "rsa": "correlation of distances with base's",
    "procrustes": "Procrustes distance from base",
    "subspace_overlap": "overlap of subspaces with base",
    "probe_transfer_delta": "accuracy of base's classifier, change from base",
}


def dimensions_table(results: Results) -> Table | None:
    """Massive dimensions at the headline layer by condition, means over seeds; None without."""
    place = (results.headline_method, results.headline_layer)
    mine = [row for row in results.dimensions if (row.method, row.layer) == place]
    if not mine:
        return None
    lines = []
    for condition in results.ordered_conditions:
        rows = [row for row in mine if row.condition == condition.name]
        if not rows:
            continue
        known = [row.anisotropy for row in rows if row.anisotropy is not None]
        shares = [
            fmean(getattr(row, name) for row in rows)
            for name in ("massive_share", "top1_share", "top3_share", "top10_share")
        ]
        largest = max(row.largest_norm for row in rows)
        far = fmean(row.norm_outliers for row in rows)
        lines.append(
            [
                Cell(condition.title, condition.title),
                *(Cell(percent(share), share) for share in shares),
                Cell(number(fmean(known)), fmean(known)) if known else Cell(NONE),
                Cell(number(largest, 2), largest),
                Cell(percent(far), far),
            ]
        )
    first = mine[0]
    named = ", ".join(map(str, first.massive)) or "none"
    return Table(
        "dimensions-table",
        f"Large dimensions of the activations (layer {results.headline_layer})",
        [
            Column("Condition"),
            *(Column(name, True) for name in ("massive", "largest", "largest 3", "largest 10")),
            Column("anisotropy", True),
            Column("longest", True),
            Column("outliers", True),
        ],
        lines,
        groups=[("", 1), ("Share of |\u03bc|\u00b2", 4), ("Single activations", 3)],
        note=f"Massive dimensions of base: {named}"
        f"{' and more' if first.massive_count > len(first.massive) else ''} (at least 1\u202f% of "
        "|\u03bc|\u00b2 and ten times the median dimension). Anisotropy: mean cosine of two "
        "activations; near 1, all point one way. Longest: in units of the median length. Outliers: "
        "more than twice or less than half as long as the median.",
    )


def robustness_table(results: Results) -> Table | None:
    """M1 to M3 and shape, as they are, without massive dimensions, scaled; None without rows."""
    if not results.robustness:
        return None
    found: dict[tuple[str, str, str | None], dict[str, RobustRow]] = {}
    for row in results.robustness:
        found.setdefault((row.metric, row.name, row.condition), {})[row.transform] = row
    lines = []
    for (metric, name, condition), rows in found.items():
        label = results.label(condition) if condition else "mean of EM"
        title = f"{metric}: {_MEASURES.get(name, name)}"
        lines.append(
            [Cell(title, title), Cell(label, label), *map(_cell, map(rows.get, _TRANSFORMS))]
        )
    return Table(
        "robustness-table",
        f"M1 to M3 and shape at layer {results.headline_layer}, with and without large dimensions",
        [Column("Measure"), Column("Condition"), *(Column(t, True) for t in _TRANSFORMS.values())],
        lines,
        note="Estimates over all runs with their 95\u202f% intervals, for these personas. Where a "
        "row changes its sign or its size much, what it says rests on a few dimensions. Own units: "
        "each dimension divided by its standard deviation in base. Without massive dimensions: "
        "empty where there are none.",
    )


def _cell(row: RobustRow | None) -> Cell:
    if row is None or row.value is None:
        return Cell(NONE)
    if row.name == BENIGN_SHARE:
        return share_cell(row.value, row.ci95)
    return estimate_cell(row.value, row.ci95, sign=is_contrast(row.name))
