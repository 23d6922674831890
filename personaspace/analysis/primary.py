"""The primary endpoint: which row it is, and the rows with it marked.

Decided before the study runs, it is one test and needs no correction for the others; these are
exploratory and corrected within their families.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import ConditionKind, PrimaryInfo
from personaspace.analysis.rows import PRIMARY, Row

#: Metric of each measure.
METRICS = {
    "raw_cosine": "M1",
    "spread": "M1",
    "split_half": "M2",
    "displacement": "M2",
    "nearest_centroid": "M3",
    "lda": "M3",
    "bystander": "bystander_contrast",
}


def row_name(
    measure: str, condition: str | None, against: str, kinds: Mapping[str, ConditionKind]
) -> str:
    """The name of the row that has the contrast.

    Args:
        measure: One of `METRICS`.
        condition: None: the mean of the EM conditions.
        against: What is subtracted.
        kinds: Of all conditions.
    """
    stem = "" if measure in ("raw_cosine", "bystander") else f"{measure}_"
    if condition is None:
        return f"{stem}em_mean_minus_benign"
    if kinds[against] == "base":
        return "minus_base" if measure == "bystander" else f"{measure}_delta"
    return f"{stem}em_minus_benign" if kinds[against] == "benign" else f"{measure}_pair"


def is_primary(row: Row, info: PrimaryInfo) -> bool:
    """Whether the row is the endpoint's, in this or the other direction."""
    place = (info.metric, "recommended", info.name, info.method, info.layer, info.target)
    if (row.metric, row.variant, row.name, row.method, row.layer, row.target) != place:
        return False
    if info.name.endswith("_delta"):
        return row.condition == info.condition
    return {row.condition, row.against} == {info.condition, info.against}


def primary_row(results: Results) -> Row | None:
    """The endpoint's row, as condition less against; None: no endpoint, or it has no row."""
    info = results.primary
    if info is None:
        return None
    row = next((row for row in results.rows if is_primary(row, info)), None)
    if row is None or row.value is None or row.condition == info.condition:
        return row
    ends = row.ci95 and (-row.ci95[1], -row.ci95[0])
    turned = {"condition": info.condition, "against": info.against}
    return replace(row, value=-row.value, ci95=ends, **turned)  # type: ignore[arg-type]


def marked(results: Results) -> Results:
    """The results with the endpoint's row in a family of its own, the others corrected anew."""
    from personaspace.analysis.stats import adjust  # statsmodels: not needed to read results

    info = results.primary
    if info is None:
        return results

    def of(rows: list[Row]) -> list[Row]:
        return adjust([replace(r, family=PRIMARY) if is_primary(r, info) else r for r in rows])

    parts = {"geometry": of(results.geometry), "leakage": of(results.leakage)}
    return results.model_copy(update=parts)
