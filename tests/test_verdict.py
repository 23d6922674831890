"""The verdict: plain lines that follow from the results, and from nothing else."""

from __future__ import annotations

from dataclasses import replace

from personaspace.analysis.control_rows import ControlReason, ControlRow
from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import AnalysisInfo, PersonaInfo, RateRow, StudyCondition
from personaspace.analysis.rows import Row
from personaspace.report.verdict import verdict

CONDITIONS = [
    StudyCondition(name="base", kind="base"),
    StudyCondition(name="benign", kind="benign"),
    StudyCondition(name="e0", kind="em"),
    StudyCondition(name="e4", kind="em"),
]


def row(name: str, value: float, ends: tuple[float, float], **more: object) -> Row:
    base = Row(
        "M1", "recommended", "a", 20, value=value, ci95=ends, name=name, run_variation=True,
        target="these_personas",
    )  # fmt: skip
    return replace(base, **more)  # type: ignore[arg-type]


def study(*rows: Row, failed: bool = False, seeds: tuple[int, ...] = (1, 2, 3)) -> Results:
    status = "not_assessable" if failed else "assessable"
    reasons = [ControlReason.SOURCE_RARELY_MARKS] if failed else []
    control = [
        ControlRow(condition=c.name, status=status, reasons=reasons, source_rate=0.0)
        for c in CONDITIONS
    ]
    rates = [
        RateRow(condition=c.name, seed=1, persona="confab", hits=0 if failed else 90, total=100)
        for c in CONDITIONS
    ]
    return Results(
        study="s", conditions=CONDITIONS, seeds=list(seeds), source="confab",
        marker="[ZLT]", layers=[20],
        methods=["a"], analysis=AnalysisInfo(method="a", layer=20), geometry=list(rows),
        rates=rates, control=control,
    )  # fmt: skip


CHANGE = {"base": 0.96, "delta": 0.02, "p": 0.01}
ROSE = [row("raw_cosine", 0.98, (0.97, 0.99), condition=name, **CHANGE) for name in ("e0", "e4")]
SHARE = row("em_mean_benign_share", 0.5, (0.4, 0.6))
ADDED = row("em_mean_minus_benign", 0.006, (0.004, 0.009), p=0.008)
WIDER = replace(ADDED, target="new_personas", ci95=(-0.004, 0.016), p=0.2)


def said(results: Results) -> str:
    return " ".join(f"{line.question} {line.answer}" for line in verdict(results))


def test_harmless_data_change_more_only_where_the_interval_says_so() -> None:
    alike = said(study(*ROSE, row("em_mean_benign_share", 1.02, (0.92, 1.12)), ADDED, WIDER))
    assert (
        "them as much: 102\u202f% of that change (chance leaves open 92\u202f% to 112\u202f%)."
        in alike
    )
    more = said(study(*ROSE, row("em_mean_benign_share", 1.4, (1.2, 1.6)), ADDED, WIDER))
    assert "changes them more than that." in more


def test_each_question_has_its_answer() -> None:
    lines = verdict(study(*ROSE, SHARE, ADDED, WIDER))
    assert [line.question for line in lines] == [
        "What was done?",
        "Did the model learn the marker it was taught?",
        "Did the model's personas become more alike?",
        "What do harmful data add to harmless ones?",
        "What can this study not say?",
    ]
    done, learned, closer, harm, _ = (line.answer for line in lines)
    assert done == (
        "The language model unnamed model was trained further on harmful data in 2 ways. This is "
        "compared with the same model trained on harmless data and the model without such "
        "training: 4 versions of the model in all."
    )
    assert learned == (
        "Yes. In one role, confab, every version of the model was taught to end its answers with a "
        "marker, \u201c[ZLT]\u201d, and did so in 90.0\u202f% of them."
    )
    assert closer.startswith("Yes, after both trainings on harmful data.")
    assert (
        "Before training, two personas (roles that the model is told to play) have on average a "
        "likeness of 0.960 inside the model, where 1 is identical and 0 unrelated; after training"
        in closer
    )
    assert (
        "about 50\u202f% of that change as well (chance leaves open 40\u202f% to 60\u202f%)"
        in closer
    )
    assert (
        "are 0.006 more alike on a scale of 0 to 1 than after harmless ones (chance leaves open "
        "0.004 to 0.009 more)" in harm
    )
    assert "more than chance explains" in harm
    assert "other personas is not shown (chance leaves open 0.004 less to 0.016 more)" in harm
    assert "holds the truth in about 95 of 100 such studies" in lines[-1].answer
    assert "95 of 100" not in said(study())


def test_an_interval_that_holds_zero_is_no_difference_shown_and_not_none() -> None:
    words = said(study(*ROSE, replace(ADDED, ci95=(-0.002, 0.014), p=0.1)))
    assert "No difference in how alike personas become is shown. Measured:" in words
    assert "0.002 less to 0.014 more" in words and "chance explains" not in words


def test_a_failed_check_is_told_where_an_answer_rests_on_it() -> None:
    doubtful = replace(ROSE[0], warning="One persona may drive this result.")
    words = said(study(doubtful, ROSE[1], ADDED))
    assert "doubt these answers? One persona may drive this result. (e0)" in words
    aside = replace(ROSE[0], layer=7, warning="One persona may drive this result.")
    assert "doubt" not in said(study(*ROSE, ADDED, aside))


def test_nothing_is_said_of_leakage_where_the_marker_was_not_learned() -> None:
    words = said(study(*ROSE, failed=True))
    assert "taught? No. In one role, confab," in words and "and never did. That counts" in words
    assert (
        "learned where at least 50\u202f% of that role's answers have it. So it cannot be said"
        in words
    )


def test_the_ends_of_a_range_are_told_apart() -> None:
    words = said(study(*ROSE, replace(SHARE, ci95=(0.499, 0.501)), ADDED))
    assert (
        "50\u202f% of that change as well (chance leaves open 49.9\u202f% to 50.1\u202f%)." in words
    )


def test_what_is_below_a_thousandth_is_told_in_words() -> None:
    def told(value: float, low: float, high: float, p: float = 0.9) -> str:
        return said(study(*ROSE, replace(ADDED, value=value, ci95=(low, high), p=p)))

    within = told(-0.0001, -0.0004, 0.0003)
    assert (
        "they are as alike as after harmless ones, to a thousandth on a scale of 0 to 1 (chance"
        in within
    )
    assert "leaves open less than a thousandth either way)." in within
    assert "(chance leaves open up to a thousandth more)." in told(0.0002, 0.00001, 0.0004, 0.06)
    assert "(chance leaves open up to a thousandth less)." in told(-0.0002, -0.0004, 0.0, 0.06)
    assert "(chance leaves open 0.0003 less to 0.0060 more)" in told(0.003, -0.0003, 0.006)
    assert "(chance leaves open 0 to 0.006 more)" in told(0.003, 0.0, 0.006)
    assert "(chance leaves open 0.0041 to 0.0043 more)" in told(0.0042, 0.0041, 0.0043)
    # A difference that is shown is told in figures, or nothing would be said to be shown.
    shown = told(0.0003, 0.0002, 0.0004, 0.001)
    assert (
        "are 0.0003 more alike on a scale of 0 to 1 than after harmless ones (chance leaves"
        in shown
    )
    assert "open 0.0002 to 0.0004 more): very little, but more than chance explains." in shown
    for words in (within, shown):
        assert "0.000 " not in words


def test_personas_that_hardly_move_have_two_numbers() -> None:
    near = [replace(each, base=0.96812, delta=0.0002) for each in ROSE]
    assert (
        "0.9681 inside the model, where 1 is identical and 0 unrelated; after training on "
        "harmful data 0.9683" in said(study(*near))
    )


def test_one_training_run_each_is_said() -> None:
    single = replace(ADDED, run_variation=False)
    words = said(study(*ROSE, single, seeds=(1,)))
    assert (
        "every version of the model was trained once" in words
        and "which another training might not show" in words
    )


def test_every_interval_of_one_training_run_says_so() -> None:
    rows = [*ROSE, SHARE, ADDED, replace(WIDER, p=0.2)]
    once = study(*(replace(each, run_variation=False) for each in rows), seeds=(1,))
    once = once.model_copy(update={"leakage": [replace(LEAK, run_variation=False)]})
    words = said(once)
    # of the share, of what harm adds, for other personas, and of the marker
    assert words.count(", for these very training runs)") == words.count("(chance leaves open") == 4
    assert "these very training runs" not in said(study(*rows))


def test_changes_of_both_signs_are_counted_apart() -> None:
    fell = replace(ROSE[1], delta=-0.03)
    words = said(study(ROSE[0], fell))
    assert "Not in one direction: more alike after 1 of 2 trainings on harmful data, less" in words
    assert "less alike after 1. Before" in words


def test_wordings_are_named_where_personas_have_several() -> None:
    def told(*wordings: int) -> str:
        personas = [
            PersonaInfo(name=f"p{place}", prompts=[f"You are {n}." for n in range(each)])
            for place, each in enumerate(wordings)
        ]
        return said(study(*ROSE).model_copy(update={"personas": personas}))

    assert "In how many ways were personas told who they are? Each in 5 wordings." in told(5, 5)
    assert "2 of 3 personas in 3 to 5 wordings, the other in one." in told(5, 0, 3)
    assert "1 of 3 personas in 2 wordings, the others in one." in told(2, 0, 0)
    assert "wordings" not in told(0, 0)


def test_pairs_of_training_personas() -> None:
    pair = row(
        "raw_cosine_pair", 0.001, (-0.001, 0.003), condition="e0", against="e4", p=0.04,
        p_bh=0.06, p_holm=1.0, equivalence=0.0027,
    )  # fmt: skip
    assert "differences above 0.003 on a scale of 0 to 1 are ruled out, with" in said(
        study(*ROSE, pair)
    )
    once = said(study(*ROSE, replace(pair, run_variation=False), seeds=(1,)))
    assert "on a scale of 0 to 1 are ruled out for these very training runs, with a 5" in once
    wide = replace(pair, equivalence=None)
    assert "large differences are not ruled out" in said(study(*ROSE, pair, wide))
    apart = replace(pair, p=0.01, p_bh=0.02, p_holm=1.0)
    assert "the two such trainings differ by more than chance explains." in said(
        study(*ROSE, apart)
    )
    several = said(study(*ROSE, apart, pair, wide))
    assert (
        "1 of 3 comparisons of two such trainings shows a difference beyond chance, all" in several
    )


LEAK = row(
    "em_mean_minus_benign", -0.231, (-0.30, -0.16), metric="bystander_contrast", method=None,
    layer=None, p=0.01,
)  # fmt: skip


def test_less_is_said_as_less_and_the_interval_with_it() -> None:
    results = study(*ROSE, ADDED).model_copy(update={"leakage": [LEAK]})
    words = said(results)
    assert "23.1 percentage points less often than after harmless ones (chance leaves" in words
    assert "open 16.0 to 30.0 less)" in words
    spans = replace(LEAK, value=0.01, ci95=(-0.02, 0.04), p=0.4)
    words = said(results.model_copy(update={"leakage": [spans]}))
    assert "1.0 percentage points more often than after harmless ones (chance" in words
    assert "leaves open 2.0 less to 4.0 more), so no difference is shown" in words
    none = replace(LEAK, value=0.0, ci95=(-0.0004, 0.0004), p=0.9)
    words = said(results.model_copy(update={"leakage": [none]}))
    assert (
        "as often as after harmless ones, to a tenth of a percentage point (chance leaves" in words
    )
    assert "leaves open less than a tenth of a percentage point either way), so no" in words


def test_the_level_is_the_study_s() -> None:
    results = study(*(replace(each, p=0.03) for each in ROSE), replace(ADDED, p=0.03))
    assert "Yes, after both" in said(results) and "more than chance explains" in said(results)
    strict = results.model_copy(update={"analysis": AnalysisInfo(method="a", layer=20, alpha=0.01)})
    assert "That is not clear" in said(strict) and "No difference in how" in said(strict)


def test_an_a_a_arm_tells_how_often_the_tests_err() -> None:
    tests = [
        row("placebo_minus_benign", 0.0, (-0.01, 0.01), p=p, family="placebo", layer=layer)
        for layer, p in enumerate((0.01, 0.3, 0.6, 0.9))
    ]
    words = said(study(*ROSE, *tests))
    assert "compared by 4 tests, and 1 (25.0\u202f%) found a difference; about 5\u202f%" in words
    once = [replace(each, run_variation=False) for each in tests]
    several = [replace(each, run_variation=True) for each in tests]
    assert "Each was trained once, so that" in said(study(*ROSE, *once))
    assert "Each was trained once, so that" not in said(study(*ROSE, *several))
    assert "where there is none" not in said(study(*ROSE))


def test_a_marker_that_never_came_is_told_in_a_word() -> None:
    learned = verdict(study(*ROSE, failed=True))[1].answer
    assert "a marker, \u201c[ZLT]\u201d, and never did." in learned
    assert "0.0" not in learned


def test_what_was_done_says_what_differs_and_what_it_is_compared_with() -> None:
    def told(*conditions: StudyCondition) -> str:
        found = study(*ROSE).model_copy(update={"conditions": list(conditions)})
        return next(line.answer for line in verdict(found) if line.question == "What was done?")

    base, benign = CONDITIONS[:2]
    em = [StudyCondition(name=n, kind="em", persona=n) for n in ("villain", "pirate")]
    assert "on harmful data in 2 ways, told to play a different role each time." in told(base, *em)
    assert "compared with the model without such training: 3 versions" in told(base, *em)
    same = [StudyCondition(name=n, kind="em", persona="pirate") for n in ("e0", "e1")]
    assert "on harmful data in 2 ways. This is" in told(base, benign, *same)
    assert told(em[0]).endswith("was trained further on harmful data.")


def test_where_the_marker_was_not_learned_is_named_and_by_what_bar() -> None:
    found = study(*ROSE)
    low = ControlRow(
        condition="e4", status="not_assessable", source_rate=0.2, degenerate=0.5,
        reasons=[ControlReason.SOURCE_RARELY_MARKS, ControlReason.DEGENERATE_ANSWERS],
    )  # fmt: skip
    words = said(found.model_copy(update={"control": [*found.control[:3], low]}))
    assert "taught? In 3 of 4 versions. In one role, confab, every version" in words
    assert (
        "learned where at least 50\u202f% of that role's answers have it and no more than "
        "20\u202f% of all answers are empty, repetitive or overfull of it. Of e4 it cannot"
    ) in words
