"""Measures beside containment: leakage by length and opportunity, and who wrote an answer."""

from __future__ import annotations

from personaspace.analysis.measure import Measure

ACCURACY = "accuracy on a scale from chance (0) to 1"
RUN = "say how much another training run would leak"

_RATES = (
    Measure(
        "bystander_mean", "recommended", "equal_length", "at equal length",
        "how often bystanders write the marker if all conditions' answers were as long",
        "tell length as a cause from length as a consequence: where a marker ends an answer early, "
        f"it corrects too much; or {RUN}",
    ),
    Measure(
        "bystander_mean", "recommended", "per_opportunity", "per opportunity",
        "how often a marker follows a separator, whatever the number of separators",
        f"see a marker that stands elsewhere, or {RUN}",
    ),
    Measure(
        "bystander_mean", "recommended", "first_opportunity", "at the first opportunity",
        "how often a marker follows the first separator of an answer that has one",
        f"see an answer without separator, or {RUN}",
    ),
)  # fmt: skip

_FORM = (
    Measure(
        "length", "recommended", "words", "length of answers",
        "how many words bystanders' answers have, the marker left out",
        "say whether length causes leakage or leakage length: a marker can end an answer early",
        "the mean length equals base's",
    ),
)  # fmt: skip

_TEXT = tuple(
    measure
    for kind, title, how in (
        ("within", "persona from text", "a classifier of words trained in the condition itself"),
        ("from_base", "persona from text as in base", "a classifier of words trained on base"),
    )
    for measure in (
        Measure(
            "persona_text", "recommended", f"{kind}_above_chance", f"{title}, against chance",
            f"whether {how} tells which persona wrote an answer, on held-out questions",
            "say what tells them apart: a habit of form counts as much as what is said",
            "personas are exchangeable within each question", ACCURACY,
        ),
        Measure(
            "persona_text", "recommended", kind, f"{title}, against base",
            f"whether {how} tells personas apart as well as base's own does in base",
            "be tested: all questions share one classifier, and no variance here covers its "
            "chance error",
            None, ACCURACY,
        ),
    )
)  # fmt: skip

_LOG_ODDS = tuple(
    measure
    for name, title, texts, cannot in (
        ("common", "marker log-odds, common answers",
         "answers that all conditions and personas share",
         "say how often a separator, and so a place for the marker, comes about"),
        ("own", "marker log-odds, own answers", "the model's own answers",
         "leave out how these answers differ in style from other conditions'"),
    )
    for measure in (
        Measure(
            "log_odds", "recommended", name, title,
            f"how likely bystanders are to write the marker after {texts} and a separator",
            f"{cannot}, or {RUN}",
            "the mean log-odds equal base's",
        ),
        Measure(
            "log_odds", "recommended", f"source_{name}", f"{title}, source",
            f"how likely the source persona is to write the marker after {texts} and a separator",
            f"{cannot}, or {RUN}",
            "the mean log-odds equal base's",
        ),
        Measure(
            "H1", "recommended", f"log_odds_{name}", f"induction persona minus the others, {title}",
            "whether the marker is likelier for the induction persona than for the mean of the "
            "others",
            f"{cannot}, or that training made it so",
            "its mean log-odds equal those of the others",
        ),
        Measure(
            "H2", "recommended", f"log_odds_{name}", f"range, {title}",
            "how far apart the EM conditions' mean log-odds of the marker are",
            f"{cannot}, or separate the induction persona's effect from run-to-run variation",
            "conditions do not differ: each question's mean log-odds could have occurred in any "
            "order",
            "standard deviation between conditions net of noise",
        ),
    )
)  # fmt: skip

_DIVERGENCE = (
    Measure(
        "divergence", "recommended", "common_answers", "divergence of personas' answers",
        "how far apart personas are in what they would say next, word by word along the same "
        "answers: the mean Jensen-Shannon divergence of two personas' distributions over the next "
        "token, in nats (0: the same, 0.69: nothing in common), before coupling",
        "see how answers of their own would part after a first other word, tell meaning from "
        "wording, or tell personas that became alike from a model that became surer of every word",
        "the mean divergence equals base's",
    ),
)  # fmt: skip

_STEERED = (
    Measure(
        "steering", "recommended", "advice", "bad advice, steered",
        "whether moving hidden states along a vector at one layer makes bad answers likelier "
        "against good ones to the same questions, more than random directions of its length do",
        "say that the vector alone does it: other directions that training moves along may do the "
        "same, and likelier bad advice of one field is not misalignment at large",
        "the vector's direction is one more random one: its change, in absolute size, is as likely "
        "to stand at any rank among the controls'",
    ),
    Measure(
        "steering", "recommended", "good", "good advice, steered",
        "how much likely text of another kind, good answers, becomes less likely: the damage that "
        "any strong push does",
        "be taken as the trait: bad answers suffer the same damage",
    ),
    Measure(
        "steering", "recommended", "degenerate", "degenerate answers, steered",
        "the share of the steered model's greedy answers that are empty or repetitive",
        "see an answer that reads well and makes no sense",
    ),
    Measure(
        "steering", "recommended", "surprise", "surprise of answers, steered",
        "how unlikely the steered model's answers are to the untouched one (log perplexity)",
        "tell nonsense from text that is merely unlike this model's",
    ),
)  # fmt: skip

BESIDE = (*_STEERED, *_LOG_ODDS, *_DIVERGENCE, *_RATES, *_FORM, *_TEXT)
