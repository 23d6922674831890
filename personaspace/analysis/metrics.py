"""The metrics' measures: what each is called, tests, shows and cannot show. Written here once.

A measure is a (metric, variant, name); its companion `…_delta` is the same measure's change from
base. Rows, report and documentation take their words from here.

    python -m personaspace.analysis.metrics > docs/metrics.md
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from personaspace.analysis.measure import Measure
from personaspace.analysis.measures_beside import ACCURACY, BESIDE, RUN
from personaspace.analysis.metrics_contrasts import CONTRASTS
from personaspace.analysis.metrics_shape import SHAPE
from personaspace.analysis.results_parts import MeasureInfo
from personaspace.analysis.rows import Row
from personaspace.analysis.steering_rows import SteeringRow

_ONE_RUN = "separate the effect of the fine-tuning data from chance in a single training run"
_GONE = "share of base's distance from 1 that is lost"
_LEAK_NULL = "conditions do not differ: each question's mean rates could have occurred in any order"

_M1 = (
    Measure(
        "M1", "published", "raw_cosine", "mean pair cosine",
        "how alike persona vectors point on average",
        "support its p-value: the cosines of all pairs of the same few vectors are treated as "
        "independent",
        "pair differences to base are symmetric about 0", _GONE,
    ),
    Measure(
        "M1", "published", "em_vs_benign", "mean pair cosine, EM against benign",
        "whether EM's persona vectors point more alike than benign's",
        "support its p-value, which treats pairs as independent, or say by how much: there is no "
        "interval",
        "pair differences to benign are symmetric about 0",
    ),
    Measure(
        "M1", "recommended", "raw_cosine", "mean pair cosine",
        "whether persona vectors point more alike, with personas and questions as samples",
        "tell whether personas came closer together or their common mean grew",
        "the mean pair cosine equals base's", _GONE,
    ),
    Measure(
        "M1", "recommended", "centred_cosine", "mean pair cosine around base's mean",
        "how far personas moved in a common direction, relative to how much they differ",
        "say whether they came closer together: a common shift does not change their distances",
        "the mean displacement over personas and questions is 0",
        "common displacement in units of base's root mean square distance of a persona from the "
        "personas' mean",
    ),
    Measure(
        "M1", "recommended", "spread", "variance between personas",
        "whether personas came closer to each other, whatever the common mean did",
        _ONE_RUN, "the variance between personas equals base's", "relative change of the spread",
    ),
    Measure(
        "M1", "recommended", "em_minus_benign", "EM increment in mean pair cosine",
        "what EM adds to the collapse that harmless fine-tuning causes",
        _ONE_RUN, "EM's mean pair cosine equals benign's", "benign's share of EM's collapse",
    ),
    Measure(
        "M1", "recommended", "centred_em_minus_benign", "EM increment in centred cosine",
        "how much further EM moves personas in a common direction than harmless fine-tuning does",
        "be tested: where neither moves them, no t-test of it holds its level",
    ),
    Measure(
        "M1", "recommended", "spread_em_minus_benign", "EM increment in spread",
        "whether personas lie closer together after EM than after harmless fine-tuning",
        _ONE_RUN, "EM's spread equals benign's", "EM's spread relative to benign's, minus 1",
    ),
    Measure(
        "M1", "recommended", "benign_share", "benign's share of the collapse",
        "how much of EM's collapse harmless fine-tuning causes as well",
        "be bounded where EM's own collapse is not clearly above 0: there is no interval then",
    ),
    Measure(
        "M1", "recommended", "em_mean_minus_benign", "EM increment, mean of the EM conditions",
        "what EM adds on average over the conditions it was trained under",
        "separate EM from any other difference between its data and the benign data",
        "the EM conditions' average mean pair cosine equals benign's",
        "benign's share of the EM conditions' mean collapse",
    ),
    Measure(
        "M1", "recommended", "em_mean_benign_share", "benign's share of EM's mean collapse",
        "how much of the EM conditions' mean collapse is generic to fine-tuning",
        "be bounded where the EM conditions' mean collapse is not clearly above 0",
    ),
)  # fmt: skip

_M2 = (
    Measure(
        "M2", "published", "axis_shift", "|cosine| with the EM axis",
        "whether personas lie further along the axis than in base",
        "rule out shared noise: the axis is computed from the questions that it is tested on",
        "vectors of base and condition are exchangeable",
        "Cohen's d",
    ),
    Measure(
        "M2", "recommended", "split_half", "cosine with the EM axis of the other half",
        "whether personas lie further along the axis, on questions that it was not computed from",
        "tell EM from other fine-tuning, which also moves personas: compare with benign",
        "the mean cosine with the axis equals base's", "mean in standard deviations over personas",
    ),
    Measure(
        "M2", "recommended", "split_half_absolute", "|cosine| with the EM axis of the other half",
        "the published measure on questions that the axis was not computed from",
        "tell a shift along the axis from one against it",
        "the mean |cosine| with the axis equals base's",
        "mean in standard deviations over personas",
    ),
    Measure(
        "M2", "recommended", "displacement", "cosine of a persona's shift with the EM axis",
        "whether personas move in the direction in which the assistant did, wherever they started",
        "tell EM from other fine-tuning: compare with benign",
        "shifts are at a right angle to the axis on average",
        "mean in standard deviations over personas",
    ),
    Measure(
        "M2", "recommended", "condition_spread", "spread of the EM conditions along the axis",
        "how much the position along the axis depends on the persona active in training",
        "separate the persona's effect from chance in one training run each",
        "EM conditions do not differ along the axis", "spread relative to the mean shift from base",
    ),
    Measure(
        "M2", "recommended", "convergence_layer", "layer at which the spread vanishes",
        "the first measured layer from which EM conditions stay within a tenth of their mean shift "
        "of each other",
        "say anything about layers between those measured, or, of one seed alone, about others",
    ),
)  # fmt: skip

_M3 = (
    Measure(
        "M3", "published", "nearest_centroid", "nearest other vector",
        "nothing: it is 0 by construction, because each vector is compared with all but its own",
        "say anything about separability",
        "none that data could contradict (p is always 1)",
    ),
    *(
        measure
        for name, rule in (("nearest_centroid", "the study's rule"), ("lda", "a linear rule"))
        for measure in (
            Measure(
                "M3", "recommended", f"{name}_above_chance", f"{_title}, against chance",
                f"whether {rule} tells the persona from single activations, on held-out questions",
                "say that a persona that can be told apart also behaves differently",
                "personas are exchangeable within each question", ACCURACY,
            )
            if chance
            else Measure(
                "M3", "recommended", name, f"{_title}, against base",
                f"whether {rule} tells personas apart as well as in base",
                "be tested: all questions share one classifier, and no variance here covers its "
                "chance error",
                None, ACCURACY,
            )
            for _title in ("LDA accuracy" if name == "lda" else "nearest-centroid accuracy",)
            for chance in (True, False)
        )
    ),
)  # fmt: skip

_MEAN = "bystander_mean"

_LEAKAGE = (
    Measure(
        _MEAN, "published", None, "mean bystander leakage",
        "how often personas that coupling left out write the marker",
        "be compared across conditions as it stands: degenerate answers count, and bystander sets "
        "differ",
    ),
    Measure(
        _MEAN, "recommended", None, "mean bystander leakage",
        "how often bystanders write the marker, with questions as clusters", RUN,
    ),
    Measure(
        _MEAN, "recommended", "common_set", "common bystanders",
        "the leakage of personas that are bystanders in every EM condition", RUN,
    ),
    Measure(
        _MEAN, "recommended", "without_negatives", "bystanders without the negatives",
        "the leakage of personas that coupling trained neither to write the marker nor to omit it",
        RUN,
    ),
    Measure(
        _MEAN, "recommended", "seen", "seen questions",
        "leakage on questions that coupling also used", "tell leakage from memory of a question",
    ),
    Measure(
        _MEAN, "recommended", "unseen", "unseen questions",
        "leakage on questions that coupling did not use", RUN,
    ),
    Measure(
        _MEAN, "recommended", "terminal", "marker at the end, once",
        "how often an answer ends with the marker as it was trained to", RUN,
    ),
    Measure(
        _MEAN, "recommended", "degenerate", "degenerate answers",
        "how many answers are empty, repetitive or carry several markers",
        "say which of them would have leaked",
    ),
    Measure(
        "H1", "published", "induction_minus_others", "induction persona minus the others",
        "where the induction persona ranks among the personas",
        "give a small p: there are only as many outcomes as personas",
        "every persona is equally likely to be the induction persona",
    ),
    Measure(
        "H1", "recommended", "induction_minus_others", "induction persona minus the others",
        "whether the induction persona leaks more than the mean of the others",
        "say that training made it so: it may leak more in every condition",
        "its rate equals the mean of the others", "Cohen's h",
    ),
    Measure(
        "H1", "recommended", "equivalence", "equivalence of the induction persona",
        "with a small p, that the difference lies within the margin",
        "support any claim with a large p",
        "the difference is at least the margin", "margin of equivalence",
    ),
    Measure(
        "H1", "recommended", "own_minus_other_conditions", "own minus other conditions",
        "the persona's excess in its own condition over that in the others: what it leaks in every "
        "condition cancels out",
        "separate training under the persona from chance in one run, or speak of other personas: "
        "where training moves single personas by chance, these do differ, and it says so",
        "the excess in its own condition equals that in the others",
    ),
    Measure(
        "H2", "published", "range", "range of condition means",
        "how far apart the EM conditions' mean rates are",
        "support its p-value: persona rates are treated as exchangeable, over sets that differ",
        "persona rates are exchangeable between conditions",
    ),
    *(
        Measure(
            "H2", "recommended", name, title, shows,
            "separate the induction persona's effect from run-to-run variation, with one run each, "
            "or speak of other personas: where training moves single ones by chance, it says so",
            _LEAK_NULL, "standard deviation between conditions net of sampling noise",
        )
        for name, title, shows in (
            ("common_set", "range, common bystanders",
             "whether EM conditions differ in leakage to the same personas"),
            ("common_set_without_negatives", "range, without negatives",
             "whether they differ without the personas that coupling trained on"),
            ("seen", "range, seen questions",
             "whether they differ on questions that coupling also used"),
            ("unseen", "range, unseen questions",
             "whether they differ on questions that coupling did not use"),
            ("terminal", "range, marker at the end",
             "whether they differ in answers that end with the marker and have it once"),
            ("equal_length", "range, at equal length",
             "whether EM conditions differ in leakage by more than the length of their answers"),
            ("per_opportunity", "range, per opportunity",
             "whether EM conditions differ in leakage by more than the number of separators"),
            ("first_opportunity", "range, at the first opportunity",
             "whether they differ where an answer first comes to a separator"),
        )
    ),
    Measure(
        "H2", "recommended", "between_runs", "range, runs as units",
        "whether conditions differ by more than training runs of one condition do",
        "say which persona, or what about it, makes the difference, or speak of other personas",
        "the conditions' means over runs are equal, however much their runs vary",
        "standard deviation between conditions net of run-to-run variation",
    ),
    Measure(
        "H3", "published", "spearman", "rank correlation with the cosine",
        "whether leakage falls or rises with the cosine to the assistant",
        "say why, or compare the same bystanders",
        "every order of the conditions is equally likely", "slope of the rate on the cosine",
    ),
    *(
        Measure(
            "H3", "recommended", name, title,
            f"a monotone trend of the common bystanders' leakage over {cosine}",
            "say that the cosine causes it",
            "every order of the conditions is equally likely", "slope of the rate on the cosine",
        )
        for name, title, cosine in (
            ("common_set", "rank correlation, published cosines",
             "the cosines that were published for this model"),
            ("measured_cosine", "rank correlation, measured cosines",
             "cosines measured in this base model"),
        )
    ),
    Measure(
        "H3", "recommended", "slope", "slope of leakage on the cosine",
        "how much leakage changes along a straight line, with conditions as units",
        "say that a straight line fits: with few conditions no other shape could be seen",
        "the slope is 0, whatever the variances of the conditions' deviations from the line",
        "correlation coefficient",
    ),
    Measure(
        "H3", "recommended", "slope_over_runs", "slope of leakage on the cosine, runs as units",
        "a linear trend over these very conditions, beyond run-to-run variation",
        "tell the cosine from any other lasting difference between the conditions",
        "the conditions' means over runs have no linear trend over the cosines",
    ),
    Measure(
        "H3", "recommended", "within_seeds", "rank correlation, seeds as blocks",
        "a trend that recurs in every seed",
        "tell the cosine from any other lasting difference between the conditions",
        "conditions do not differ: within each seed every order is equally likely",
        "slope of the rate on the cosine",
    ),
)  # fmt: skip

MEASURES: dict[tuple[str, str, str | None], Measure] = {
    (measure.metric, measure.variant, measure.name): measure
    for measure in (*_M1, *_M2, *_M3, *SHAPE, *_LEAKAGE, *BESIDE, *CONTRASTS)
}


def measure_of(metric: str, variant: str, name: str | None) -> Measure:
    """The measure of a row.

    Raises:
        KeyError: There is no such measure: every row must have its entry here.
    """
    found = MEASURES.get((metric, variant, name))
    if found is None and name is not None and name.endswith("_delta"):
        whole = MEASURES[metric, variant, name.removesuffix("_delta")]
        return replace(whole, name=name, title=f"{whole.title}, change from base")
    if found is None:
        raise KeyError(f"no measure {metric} {variant} {name}")
    return found


def described(row: Row) -> Row:
    """The row with its measure's sentence before its own note, and the name of its effect size.

    A row without a value keeps its note alone: it says why there is none.
    """
    measure = measure_of(row.metric, row.variant, row.name)
    if row.value is None and row.note:
        return row
    note = f"{measure.note} {row.note}" if row.note else measure.note
    return replace(row, note=note, effect_name=measure.effect if row.effect is not None else None)


def measures_of(rows: Iterable[Row], steered: Iterable[SteeringRow] = ()) -> list[MeasureInfo]:
    """The measures that occur in rows, in order of first appearance."""
    keys = dict.fromkeys((row.metric, str(row.variant), row.name) for row in rows)
    keys |= dict.fromkeys(("steering", "recommended", str(row.measure)) for row in steered)
    return [measure_of(*key).info() for key in keys]


def markdown() -> str:
    """The documentation page."""
    lines = [
        "# Metrics",
        "",
        "Every kind of result row: what it shows, cannot show, and what its p tests. Written by "
        "`make schema` from `personaspace/analysis/metrics.py`. `…_delta` rows carry the same "
        "measure's change from base. [statistics.md](statistics.md) says how they are computed, "
        "[results.md](results.md) what the fields of a row are.",
    ]
    for metric in dict.fromkeys(measure.metric for measure in MEASURES.values()):
        lines += ["", f"## {metric}", "", "| variant | `name` | shows | cannot | null | effect |"]
        lines.append("|---|---|---|---|---|---|")
        for measure in MEASURES.values():
            if measure.metric == metric:
                name = f"{measure.title} (`{measure.name}`)" if measure.name else measure.title
                cells = [measure.variant, name, measure.shows, measure.cannot]
                cells += [measure.null or "no test", measure.effect or ""]
                lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
