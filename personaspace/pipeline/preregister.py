"""The page that registers a study before it runs: hypotheses, tests, power, exclusions, digest."""

from __future__ import annotations

from datetime import date

from personaspace.analysis.metrics import MEASURES
from personaspace.analysis.power import Assumptions
from personaspace.console import counted
from personaspace.errors import UserError
from personaspace.pipeline.design import planned, primary_of
from personaspace.report.control import whole_percent
from personaspace.report.endpoint import PLAINLY
from personaspace.report.text import listing, percent, sized
from personaspace.schema_page import pipe_table
from personaspace.study import registration
from personaspace.study.loaded import Study
from personaspace.study.spec import Experiment
from personaspace.version import __version__

_WHOM = {
    "these_personas": "the personas of this study (training runs and questions are samples)",
    "new_personas": "other personas as well (runs, questions and personas are samples)",
}


def page(study: Study) -> str:
    """The page, as Markdown.

    Raises:
        UserError: The study names no primary endpoint.
    """
    spec = study.spec
    if spec.analysis.primary is None:
        raise UserError(
            "analysis.primary: name the one comparison that the study is for, such as {measure: "
            "spread, against: benign}; without it there is nothing to hold the study to"
        )
    parts = [
        [
            f"# Registration of the study {spec.name}",
            "",
            f"Written on {date.today().isoformat()} by personaspace {__version__}. It is "
            "worth what its date is: publish it before the study runs. The digest at the end is of "
            "the whole study: name this page in `analysis.registration`, and a study that is not "
            "this one is refused.",
        ],
        _design(study),
        _primary(study),
        _exploratory(spec),
        _power(study),
        _exclusions(spec),
        _data(study),
        ["## The study, for programs", "", *registration.markdown(registration.registered(study))],
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _design(study: Study) -> list[str]:
    spec = study.spec
    rows = [
        [
            c.title,
            c.kind or "em",
            c.dataset or "–",
            c.trained_under + (f"; {c.own_training}" if c.own_training else ""),
            ", ".join(map(str, spec.seeds_of(c))),
        ]
        for c in spec.conditions
    ]
    return [
        "## Design",
        "",
        f"Model: {spec.model.name}{f' at {spec.model.revision}' if spec.model.revision else ''}. "
        "The number of training runs is fixed here, one for each seed; none is added once results "
        "were seen. Roles: base is not fine-tuned, benign is fine-tuned on harmless data, em on "
        "narrowly harmful data (EM: emergent misalignment).",
        "",
        *pipe_table(["condition", "role", "data set", "trained under", "seeds"], rows),
        "",
        f"Hidden states of {counted(len(spec.extracted_personas()), 'persona')} at "
        f"{counted(len(study.extraction_questions), 'question')}; "
        f"{counted(spec.evaluation.samples, 'answer')} of each of "
        f"{counted(len(spec.evaluated_personas()), 'persona')} to "
        f"{counted(len(study.evaluation_questions), 'question')} "
        f"({len(study.unseen)} not used in coupling).",
    ]


def _primary(study: Study) -> list[str]:
    spec = study.spec
    primary = spec.analysis.primary
    assert primary is not None
    info = primary_of(spec, spec.headline_layer(study.layers()))
    assert info is not None
    measure = MEASURES[info.metric, "recommended", info.name.removesuffix("_delta")]
    of = primary.condition or "the mean of the EM conditions"
    place = f", layer {info.layer}, method {info.method}" if info.method is not None else ""
    return [
        "## Primary hypothesis",
        "",
        f"Endpoint: {info.metric} `{info.name}`{place}: **{of}** less **{primary.against}**.",
        "",
        f"In plain words: {PLAINLY[info.measure]}, in {of}, compared with {primary.against}.",
        "",
        f"- Null hypothesis: {measure.null or 'the difference is 0'}.",
        f"- Claim about {_WHOM[info.target]}.",
        f"- Test: two-sided at {spec.analysis.alpha:g}, the t-test of the contrast over training "
        "runs whose variance is that of docs/statistics.md, \u201cOver training runs\u201d; with "
        "one run of each condition the runs are taken as given, and the claim is about them alone.",
        "- It is the only confirmatory test: not corrected, and alone in the report's headline.",
        "- The result is the estimate with its 95 % interval, whatever p is.",
    ]


def _exploratory(spec: Experiment) -> list[str]:
    kept = [m for m in MEASURES.values() if m.variant == "recommended" and m.null]
    absent = {"judge": spec.judge is None, "steering": spec.steering is None}
    kept = [m for m in kept if not absent.get(m.metric)]
    if sum(c.kind == "benign" for c in spec.conditions) < 2:
        kept = [m for m in kept if not (m.name or "").endswith("placebo_minus_benign")]
    rows = [[m.metric, f"`{m.name}`" if m.name else "", m.null or ""] for m in kept]
    return [
        "## Exploratory tests",
        "",
        "Everything else that is computed, where there is what it takes (of log-odds, say, the "
        "answers' probabilities). Corrected within families (Benjamini & Hochberg, and Holm); none "
        "of them is claimed as confirmed.",
        "",
        *pipe_table(["metric", "name", "null hypothesis"], rows),
    ]


def _power(study: Study) -> list[str]:
    made = planned(study.spec, study.folder, Assumptions())

    def shown(value: float | None, unit: str) -> str:
        return "none" if value is None else f"{sized(value)} {unit}".strip()

    rows = [
        [
            f"{f.metric} `{f.name}`" if f.name else f.metric,
            f.what,
            shown(f.effect, f.unit),
            "" if f.found is None else percent(f.found, 0),
            "" if f.floor is None else f"{f.floor:.2g}",
            f.note,
        ]
        for f in made.findings
    ]
    columns = ["test", "what", f"smallest effect found in {percent(made.assumptions.power, 0)}"]
    return [
        "## Power",
        "",
        "The smallest effect that each test finds in so many studies of this design, by the "
        "assumptions of `personaspace power` (its defaults); none: no effect is found so often. "
        "Found again: how often the test finds this effect in other drawn studies. sd: standard "
        "deviations.",
        "",
        *pipe_table([*columns, "found again", "least p", "note"], rows),
        *(["", *(f"- {warning}" for warning in made.warnings)] if made.warnings else []),
    ]


def _exclusions(spec: Experiment) -> list[str]:
    control, coupling = spec.analysis.control, spec.coupling
    source = f"- Nothing is said of leakage in a condition in which {coupling.source} writes the "
    rules = [
        source
        + f"marker in less than {whole_percent(control.source)} of its answers, or in which more "
        f"than {whole_percent(control.degenerate)} of all answers are degenerate (empty, "
        "repetitive, or with several markers). Its estimates stay, its tests and intervals do not.",
        f"- Bystanders are all evaluated personas but {coupling.source} and the one that the "
        "condition was trained under"
        + (
            f"; {listing(coupling.negatives)} were trained not to mark, and are left out in a "
            "second analysis."
            if coupling.negatives
            else "."
        ),
        "- A pair of persona and question without an answer token in some condition is left out of "
        "all of them (method b).",
        "- Answers that ran into the length limit are "
        + ("left out of" if coupling.incomplete_answers == "drop" else "kept in")
        + " the coupling data.",
        "- Runs that failed for technical reasons are run again with the same seed; "
        + (
            "if that fails, the others are analysed and the report says what is missing."
            if spec.analysis.partial
            else "nothing is analysed before all are there."
        ),
        "- Nothing else is left out after results were seen.",
    ]
    return ["## Exclusions", "", *rules]


def _data(study: Study) -> list[str]:
    from personaspace.study.identity import identities

    rows = [
        [f"`{each.field}`", each.source or "in the spec", str(each.count), f"`{each.sha256}`"]
        for each in identities(study)
    ]
    return ["## Data", "", *pipe_table(["field", "source", "rows", "SHA-256"], rows)]
