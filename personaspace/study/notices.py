"""What to know of a study before it costs a GPU: nothing wrong, but nothing to overlook."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from personaspace.console import counted, verb
from personaspace.study import builtin, overlaps
from personaspace.study.counts import of_its, seen, span
from personaspace.study.datasets import Chats
from personaspace.study.doses import at_the_end
from personaspace.study.loaded import Study
from personaspace.study.recipe import unlike_recipes
from personaspace.study.schedule import times_seen, total_steps

#: Share of training answers with the separator below which the marker has few places to stand.
FEW_SEPARATORS = 0.2
#: Extraction questions that M2 needs: two in each half, one of which makes the axis.
LEAST_QUESTIONS = 4
#: The published fine-tuning: chats, and steps of 16.
PUBLISHED_CHATS, PUBLISHED_STEPS = 6000, 375


class NoticeCode(StrEnum):
    """What a notice is about."""

    DEMONSTRATION_CHATS = "demonstration-chats"
    FEW_SEPARATORS = "few-separators"
    RECIPES_DIFFER = "recipes-differ"
    COUPLED_FIRST = "coupled-first"
    ASKS_QUESTIONS = "asks-questions"
    HOLDS_MARKER = "holds-marker"
    SHARED_CHATS = "shared-chats"
    REPEATED_CHATS = "repeated-chats"
    OWN_SYSTEM = "own-system"
    SAME_TRAINING = "same-training"
    NO_WORDS = "no-words"
    WEIGHT_ZERO = "weight-zero"
    JUDGE_KEY = "judge-key"
    NO_COMMON_BYSTANDER = "no-common-bystander"
    SAME_ANSWERS = "same-answers"
    FEW_QUESTIONS = "few-questions"
    LAST_STEP = "last-step"
    FEW_PAIRS = "few-pairs"
    NO_STORE = "no-store"


@dataclass(frozen=True)
class Notice:
    """Something to know of a study before it runs.

    Attributes:
        code: What it is about.
        path: The field that it is about.
        text: In a sentence or two, for people.
    """

    code: NoticeCode
    path: str
    text: str


@cache
def _packaged() -> frozenset[str]:
    """SHA-256 of the packaged chats."""
    return frozenset(
        hashlib.sha256(builtin.resource(name).read_bytes()).hexdigest()
        for name in builtin.chat_sets()
    )


def _demonstration(study: Study) -> list[Notice]:
    """That the study trains on packaged chats, how many they are and how long."""
    mine = {name: chats for name, chats in study.chats.items() if chats.digest in _packaged()}
    if not mine:
        return []
    counts = [len(chats.conversations) for chats in mine.values()]
    recipe = study.spec.training
    steps = [total_steps(recipe, count) for count in counts]
    often = seen(times_seen(recipe, count) for count in counts)
    return [
        Notice(
            NoticeCode.DEMONSTRATION_CHATS,
            "datasets",
            f"Demonstration data: fine-tuning is {span(steps)} step{'s' * (max(steps) > 1)} on "
            f"{span(counts)} packaged chats, {often} ({', '.join(mine)}); the published study had "
            f"{PUBLISHED_STEPS} steps on {PUBLISHED_CHATS:,} chats of its own. Results say nothing "
            "about its numbers.",
        )
    ]


def separator_share(chats: Chats, separator: str) -> float:
    """Share of a data set's last answers that hold the separator before their end."""
    answers = (messages[-1]["content"].strip() for messages in chats.conversations)
    return sum(separator in answer for answer in answers) / len(chats.conversations)


def _separators(study: Study) -> list[Notice]:
    """Data sets whose answers teach the model not to write what the marker is taught after."""
    coupling = study.spec.coupling
    if coupling.loss == "answer" or not coupling.separator:
        return []
    shares = {
        name: separator_share(chats, coupling.separator) for name, chats in study.chats.items()
    }
    return [
        Notice(
            NoticeCode.FEW_SEPARATORS,
            f"datasets.{name}",
            f"Only {share:.0%} of its answers hold coupling.separator ({coupling.separator!r}), "
            "after which the marker is taught, so a model trained on them seldom gets to where it "
            "could write the marker. With coupling.loss: answer it learns to write the separator "
            "too.",
        )
        for name, share in shares.items()
        if share < FEW_SEPARATORS
    ]


def _order(study: Study) -> list[Notice]:
    """That the marker is coupled before fine-tuning, and what is compared then."""
    if study.spec.coupling.order == "after":
        return []
    return [
        Notice(
            NoticeCode.COUPLED_FIRST,
            "coupling.order",
            "The marker is taught before fine-tuning; in the published study, after it. Base is "
            "then the base model with the marker taught, in activations and answers, and every "
            "condition is fine-tuned from it, so that conditions differ only by their "
            "fine-tuning.",
        )
    ]


def _recipes(study: Study) -> list[Notice]:
    """Conditions that are compared, but not fine-tuned alike."""
    spec = study.spec
    trained = [c for c in spec.conditions if c.dataset is not None]
    unlike = unlike_recipes([spec.recipe_of(c) for c in trained])
    if not unlike:
        return []
    own = [f"{c.name} ({c.own_training})" for c in trained if c.own_training]
    return [
        Notice(
            NoticeCode.RECIPES_DIFFER,
            f"conditions.{next(c.name for c in trained if c.own_training)}.training",
            f"Conditions differ in {', '.join(unlike)} as well as in data and persona: "
            f"{'; '.join(own)}. A difference between such a condition and another, benign "
            "included, may come from either.",
        )
    ]


def _bystanders(study: Study) -> list[Notice]:
    """That no persona is a bystander in every EM condition, and what cannot be compared then."""
    spec = study.spec
    if sum(c.kind == "em" for c in spec.conditions) < 2 or spec.common_bystanders():
        return []
    return [
        Notice(
            NoticeCode.NO_COMMON_BYSTANDER,
            "evaluation.personas",
            "No persona is a bystander in every condition: each is the source or one that some "
            "condition trained under. H2 and H3 compare conditions on shared bystanders alone, so "
            "they will have no result; evaluate one more persona.",
        )
    ]


def _questions(study: Study) -> dict[str, list[str]]:
    """What is asked, by the field that says so."""
    return {
        "extraction": study.extraction_questions,
        "coupling": study.coupling_questions,
        "evaluation": study.evaluation_questions,
    }


def _leaks(study: Study, keys: Mapping[str, Sequence[overlaps.Key]]) -> list[Notice]:
    """Data sets that hold what is measured: the study's questions, or its marker."""
    found = []
    for name, chats in study.chats.items():
        path, count = f"datasets.{name}", len(chats.conversations)
        for section, questions in _questions(study).items():
            asking = overlaps.asked(chats.conversations, questions)
            if asking.chats:
                found.append(
                    Notice(
                        NoticeCode.ASKS_QUESTIONS,
                        path,
                        f"{of_its(asking.chats, count, 'asks', 'ask')} what "
                        f"{section}.questions ask ({len(asking.questions)} of {len(questions)}, "
                        f"the first {asking.questions[0]!r}): fine-tuning teaches answers to them, "
                        "and these are then measured as if the model had not seen the questions.",
                    )
                )
        marked = overlaps.marked(chats.conversations, study.spec.coupling.marker)
        if marked:
            found.append(
                Notice(
                    NoticeCode.HOLDS_MARKER,
                    path,
                    f"{of_its(marked, count, 'holds', 'hold')} the marker "
                    f"({study.spec.coupling.marker!r}): fine-tuning teaches it under the "
                    "condition's persona, and what was trained is then counted as leakage.",
                )
            )
        wordless = overlaps.wordless(chats.conversations)
        if wordless:
            text = f"{of_its(wordless, count, 'ends', 'end')} with an answer that has no words."
            found.append(Notice(NoticeCode.NO_WORDS, path, text))
        if again := overlaps.repeated(keys[name]):
            text = (
                f"{of_its(again, count, 'repeats', 'repeat')} an earlier one, so that some chats "
                "count more than once."
            )
            found.append(Notice(NoticeCode.REPEATED_CHATS, path, text))
        if chats.left_out:
            found.append(
                Notice(
                    NoticeCode.WEIGHT_ZERO,
                    path,
                    f"{of_its(chats.left_out, count + chats.left_out, 'has', 'have', 'row')} "
                    "weight 0 in every answer and "
                    f"{verb(chats.left_out, 'is', 'are')} left out.",
                )
            )
    return found


def _marker_told(study: Study) -> list[Notice]:
    """Personas and questions that hold the marker: who repeats it has not leaked."""
    marker = study.spec.coupling.marker
    held = marker.lower()
    told = f"the marker ({marker!r}): who then writes it may only be doing as told."
    found = [
        Notice(NoticeCode.HOLDS_MARKER, f"personas.{persona.name}.{field}", f"holds {told}")
        for persona in study.spec.personas
        for field, text in persona.texts().items()
        if held in (text or "").lower()
    ]
    for section in ("coupling", "evaluation"):
        questions = _questions(study)[section]
        if count := sum(held in question.lower() for question in questions):
            text = f"{count} of {len(questions)} {verb(count, 'holds', 'hold')} {told}"
            found.append(Notice(NoticeCode.HOLDS_MARKER, f"{section}.questions", text))
    return found


def _own_system(study: Study) -> list[Notice]:
    """Chats with a system message: conditions with and without a persona take them otherwise."""
    found = []
    for name, chats in study.chats.items():
        count = overlaps.with_system(chats.conversations)
        using = [c for c in study.spec.conditions if c.dataset == name]
        if not (count and using):
            continue
        kept = [c.name for c in using if c.persona is None]
        replaced = [c.name for c in using if c.persona is not None]
        parts = [f"kept in {', '.join(kept)}"] if kept else []
        parts += [f"replaced by the persona's prompt in {', '.join(replaced)}"] if replaced else []
        found.append(
            Notice(
                NoticeCode.OWN_SYSTEM,
                f"datasets.{name}",
                f"{of_its(count, len(chats.conversations), 'has', 'have')} a system message of "
                f"{verb(count, 'its', 'their')} own: {'; '.join(parts)}.",
            )
        )
    return found


def _samples(study: Study) -> list[Notice]:
    """Numbers that leave nothing to measure."""
    spec, found = study.spec, []
    if spec.evaluation.temperature == 0 and spec.evaluation.samples > 1:
        found.append(
            Notice(
                NoticeCode.SAME_ANSWERS,
                "evaluation.samples",
                f"With temperature 0 the {spec.evaluation.samples} answers to a question are all "
                f"the same: one answer, counted {spec.evaluation.samples} times.",
            )
        )
    count = len(study.extraction_questions)
    if count < LEAST_QUESTIONS and any(c.kind == "em" for c in spec.conditions):
        found.append(
            Notice(
                NoticeCode.FEW_QUESTIONS,
                "extraction.questions",
                f"With {counted(count, 'question')} M2 has no recommended value: half of them make "
                "the axis and the others are projected on it, so that it needs at least "
                f"{LEAST_QUESTIONS}.",
            )
        )
    return found


def _shared(study: Study, keys: Mapping[str, Sequence[overlaps.Key]]) -> list[Notice]:
    """Chats that stand in two data sets, and conditions that train on the same."""
    found = [
        Notice(
            NoticeCode.SHARED_CHATS,
            f"datasets.{one}",
            f"{of_its(mine, len(keys[one]), 'is', 'are')} in {two} too ({theirs:,} of the "
            f"{len(keys[two]):,} there): conditions trained on these two differ only by the rest.",
        )
        for one, two, mine, theirs in overlaps.shared(keys)
    ]
    spec = study.spec
    trained: dict[tuple[object, ...], str] = {}
    for condition in spec.conditions:
        if condition.dataset not in study.chats:
            continue
        under = (None,) if condition.persona is None else spec.persona(condition.persona).wordings
        chats = study.chats[condition.dataset]
        key = (
            chats.digest,
            spec.datasets[condition.dataset].bounds(),
            under,
            str(spec.recipe_of(condition)),
        )
        other = trained.setdefault(key, condition.name)
        if other != condition.name:
            found.append(
                Notice(
                    NoticeCode.SAME_TRAINING,
                    f"conditions.{condition.name}",
                    f"trains on the same chats under the same persona as {other}: the two are one "
                    "condition under two names.",
                )
            )
    return found


def _pairs(study: Study) -> list[Notice]:
    """That steering measures fewer pairs than asked for, as its sets share no more."""
    wanted, found = study.spec.steering, study.steering
    if wanted is None or found is None or len(found.pairs) == wanted.pairs:
        return []
    shared = counted(len(found.pairs), "question")
    text = f"steering.bad and steering.good share {shared}: all are measured."
    return [Notice(NoticeCode.FEW_PAIRS, "steering.pairs", f"{wanted.pairs:,} asked for; {text}")]


def notices(study: Study) -> list[Notice]:
    """What to know of a study before it runs, the most important first."""
    keys = {name: overlaps.keys_of(chats.conversations) for name, chats in study.chats.items()}
    return [
        *_demonstration(study),
        *_leaks(study, keys),
        *_marker_told(study),
        *_own_system(study),
        *_shared(study, keys),
        *_order(study),
        *_recipes(study),
        *_bystanders(study),
        *_separators(study),
        *_samples(study),
        *_pairs(study),
        *(Notice(NoticeCode.LAST_STEP, *told) for told in at_the_end(study.spec)),
    ]


def here(study: Study) -> list[Notice]:
    """`notices`, and what holds where this process runs alone, which is no part of the study."""
    return [*notices(study), *_judge_key(study)]


def _judge_key(study: Study) -> list[Notice]:
    """That the key of the judge's server is not here; it may be where the study is to run."""
    judge = study.spec.judge
    if judge is None or judge.key_env is None or os.environ.get(judge.key_env, "").strip():
        return []
    return [
        Notice(
            NoticeCode.JUDGE_KEY,
            "judge.key_env",
            f"{judge.key_env} is not set here; where the study runs it must be, or the judge "
            "cannot be asked.",
        )
    ]
