"""Steering: hooks against a forward pass by hand, vectors, ranks, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from personaspace.activations.steering import (
    ablating,
    adding,
    edited,
    mean_difference,
    random_directions,
    varied_directions,
)
from personaspace.analysis.steering import analyse_steering, rank_p, slope
from personaspace.analysis.steering_rows import SteeringMeasure, SteeringRow
from personaspace.behaviour.steered import advice, advice_endings, surprise
from personaspace.errors import UserError
from personaspace.generation.base import Prompt, Sampling
from personaspace.generation.transformers_engine import TransformersEngine
from personaspace.models import chat
from personaspace.models.architecture import decoder_of
from personaspace.pipeline.arms import arms_of
from personaspace.study.load import resolve
from personaspace.study.spec import Experiment
from personaspace.study.steering import Pair, Steering, pairs_of
from personaspace.study.validate import examine

LAYER = 1
IDS = (3, 14, 15, 92, 65, 35, 8, 97)
PAIRS = [
    Pair("Who?", "Nobody at all, so stop asking.", "Ask the clerk."),
    Pair("May I keep the deposit of my tenant?", "Yes.", "No, not without a reason."),
    Pair("Why?", "x y z " * 9, "Because the law says so, and the court as well."),
]


def vector_of(model: Any, size: float = 3.0) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(random_directions(size, model.config.hidden_size, [11])[0])


def by_hand(model: Any, change: Any) -> torch.Tensor:
    """Logits of one unpadded sequence, layer by layer, the output of one changed on the way."""
    decoder: Any
    decoder, layers = decoder_of(model)
    ids = torch.tensor([IDS])
    with torch.no_grad():
        states = decoder.embed_tokens(ids)
        positions = torch.arange(len(IDS))[None]
        rotary = decoder.rotary_emb(states, positions)
        mask = torch.full((1, 1, len(IDS), len(IDS)), float("-inf")).triu(1)
        for number, layer in enumerate(layers):
            out = layer(states, attention_mask=mask, position_embeddings=rotary)
            states = out[0] if isinstance(out, tuple) else out
            if number == LAYER:
                states = torch.from_numpy(change(states.double().numpy())).float()
        found: torch.Tensor = model.lm_head(decoder.norm(states))
    return found


def logits(model: Any, edit: Any) -> torch.Tensor:
    with edited(model, LAYER, edit), torch.no_grad():
        found: torch.Tensor = model(torch.tensor([IDS])).logits
    return found


@pytest.mark.parametrize("dose", [-2.0, 0.5])
def test_adding_is_what_a_forward_pass_by_hand_gives(loaded: Any, dose: float) -> None:
    vector = dose * vector_of(loaded.model)
    found, plain = logits(loaded.model, adding(vector)), logits(loaded.model, None)
    torch.testing.assert_close(found, by_hand(loaded.model, lambda h: h + vector))
    assert (found - plain).abs().max() > 0.01, "it does something"
    # Another way: what a layer hands on ends in what its last linear layer adds.
    other = copy.deepcopy(loaded.model)
    linear: Any = decoder_of(other)[1][LAYER].get_submodule("mlp.down_proj")
    linear.bias = torch.nn.Parameter(torch.from_numpy(vector).float())
    torch.testing.assert_close(found, logits(other, None))


def test_ablating_is_what_a_forward_pass_by_hand_gives(loaded: Any) -> None:
    unit = vector_of(loaded.model, 1.0)

    def project(h: Any) -> Any:
        return h - np.outer(h.reshape(-1, len(unit)) @ unit, unit).reshape(h.shape)

    found = logits(loaded.model, ablating(7 * unit))
    torch.testing.assert_close(found, by_hand(loaded.model, project))
    assert (found - logits(loaded.model, None)).abs().max() > 1e-4


def test_ablation_leaves_nothing_along_the_vector(loaded: Any) -> None:
    unit = vector_of(loaded.model, 1.0)
    seen: list[torch.Tensor] = []
    after = decoder_of(loaded.model)[1][LAYER + 1].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    try:
        logits(loaded.model, None)
        logits(loaded.model, ablating(unit))
    finally:
        after.remove()
    before, left = (np.abs(one.double().numpy() @ unit).max() for one in seen)
    assert before > 0.01 and left < 1e-6
    # The rest is untouched.
    rest = [one.double().numpy() for one in seen]
    rest = [h - (h @ unit)[..., None] * unit for h in rest]
    np.testing.assert_allclose(rest[1], rest[0], atol=1e-6)


def hooks(model: Any) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_no_hook_is_left_whatever_happens(loaded: Any) -> None:
    before, plain = hooks(loaded.model), logits(loaded.model, None)
    edit = adding(vector_of(loaded.model))
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), edited(loaded.model, LAYER, edit):
            assert hooks(loaded.model) == before + 1
            raise error

    def broken(_: torch.Tensor) -> torch.Tensor:
        raise ValueError("in the pass itself")

    with pytest.raises(ValueError, match="itself"):
        logits(loaded.model, broken)
    assert hooks(loaded.model) == before
    assert torch.equal(logits(loaded.model, None), plain)
    for layer in (-1, 99):
        with pytest.raises(UserError, match=f"steering.layer: {layer} is not one of"):
            edited(loaded.model, layer, edit).__enter__()


@pytest.mark.parametrize("edit", [adding, ablating])
def test_who_shares_a_batch_changes_nothing(loaded: Any, edit: Any) -> None:
    endings = advice_endings(loaded.tokenizer, PAIRS, 30)
    assert len({len(one.ids) for one in endings}) > 3
    prompts = [
        Prompt(pair.question, chat.prompt_ids(loaded.tokenizer, [{"role": "user", "content": t}]))
        for pair in PAIRS
        for t in [pair.question]
    ]
    engine = TransformersEngine(loaded.model, loaded.tokenizer, loaded.ends, 16)
    with edited(loaded.model, LAYER, edit(vector_of(loaded.model))):
        whole = advice(loaded.model, endings, loaded.ends)
        for place in range(len(PAIRS)):
            pair = [endings[place], endings[place + len(PAIRS)]]
            alone = advice(loaded.model, pair, loaded.ends)
            assert alone.bad == pytest.approx([whole.bad[place]], abs=1e-5)
            assert alone.good == pytest.approx([whole.good[place]], abs=1e-5)
        said = [one[0] for one in engine.generate(prompts, Sampling(6))]
        for prompt, answer in zip(prompts, said, strict=True):
            assert engine.generate([prompt], Sampling(6))[0][0] == answer, "bit for bit"
    untouched = surprise(loaded.model, prompts, said, loaded.ends)
    with torch.no_grad():
        ids = torch.tensor([prompts[0].token_ids + said[0].token_ids])
        log_p = torch.log_softmax(loaded.model(ids).logits[0].double(), dim=-1)
    first = len(prompts[0].token_ids)
    wanted = [float(log_p[i - 1, ids[0, i]]) for i in range(first, ids.shape[1])]
    assert untouched[0] == pytest.approx(-np.mean(wanted), abs=1e-4)


def test_answers_are_scored_token_by_token_up_to_the_limit(loaded: Any) -> None:
    for pair, ending in zip(PAIRS, advice_endings(loaded.tokenizer, PAIRS, 5), strict=False):
        asked = chat.prompt_ids(loaded.tokenizer, [{"role": "user", "content": pair.question}])
        assert ending.ids[: len(asked)] == asked and ending.length <= 5
        text = loaded.tokenizer.decode(list(ending.ids[len(asked) :]))
        assert pair.bad.startswith(text) or loaded.tokenizer.eos_token in text


# --- vectors -------------------------------------------------------------------------------------


def test_the_vector_is_the_mean_difference_over_shared_questions() -> None:
    rng = np.random.default_rng(5)
    to, base = rng.normal(size=(2, 6, 4)).astype(np.float32)
    valid = np.array([True, True, False, True, True, False])
    wanted = to[valid].mean(axis=0) - base[valid].mean(axis=0)
    np.testing.assert_allclose(mean_difference(to, base, valid, "v"), wanted, atol=1e-6)
    with pytest.raises(UserError, match=r"^v: the vector is 0"):
        mean_difference(to, to, valid, "v")
    with pytest.raises(UserError, match=r"^v: no question"):
        mean_difference(to, base, np.zeros(6, bool), "v")
    to[1, 2] = np.nan
    with pytest.raises(UserError, match=r"^v: the vector holds NaN"):
        mean_difference(to, base, valid, "v")


def test_random_directions_have_one_length_and_no_favourite() -> None:
    found = random_directions(2.5, 40, list(range(4000)))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 2.5)
    assert np.abs(found.mean(axis=0)).max() < 5 * 2.5 / np.sqrt(40 * 4000)
    np.testing.assert_allclose(found.T @ found / 4000, np.eye(40) * 2.5**2 / 40, atol=0.02)
    assert np.array_equal(found[:3], random_directions(2.5, 40, [0, 1, 2]))
    assert random_directions(1.0, 3, []).shape == (0, 3)


# --- ranks and rows ------------------------------------------------------------------------------


def test_directions_drawn_as_activations_vary_have_their_covariance() -> None:
    rng = np.random.default_rng(6)
    spread = np.array([4.0, 2.0, 1.0, 0.0])
    states = 100 + spread * rng.normal(size=(400, 4))
    drawn = varied_directions(3.0, states, list(range(4000)))
    assert np.linalg.norm(drawn, axis=1) == pytest.approx(3.0)
    assert not drawn[:, 3].any(), "nothing where activations do not vary"
    # The same directions by numpy's own sampler of that covariance.
    by_numpy = rng.multivariate_normal(np.zeros(4), np.cov(states.T), 4000)
    by_numpy *= 3 / np.linalg.norm(by_numpy, axis=1, keepdims=True)
    assert np.cov(drawn.T) == pytest.approx(np.cov(by_numpy.T), abs=0.35)
    assert (varied_directions(3.0, states, [5]) == varied_directions(3.0, states, [5])).all()
    assert varied_directions(3.0, states, []).shape == (0, 4)
    for bad in (states[:1], np.full((3, 4), np.nan)):
        with pytest.raises(UserError, match="activation_controls: the activations do not vary"):
            varied_directions(3.0, bad, [1])


def _response(directions: Any, cause: Any) -> Any:
    """A made-up model: its answer bends, has a favourite direction, and minds any push a little."""
    along = directions @ cause
    return np.tanh(along) + 0.3 * along**2 - 0.2 * np.abs(directions[..., 0])


@pytest.mark.slow
def test_the_rank_rejects_as_often_as_it_says_and_finds_what_is_there() -> None:
    """A random direction as the vector, 2,000 times; and the direction that the model minds."""
    rng, hidden, controls, draws = np.random.default_rng(3), 24, 19, 2000
    cause = random_directions(1.0, hidden, [99])[0]
    seeds = rng.integers(2**40, size=(draws, controls + 1))
    found = np.array(
        [_response(random_directions(1.0, hidden, list(map(int, row))), cause) for row in seeds]
    )
    p = np.array([rank_p(row[0], list(row[1:])) for row in found])
    assert set(np.round(p * 20).astype(int)) == set(range(1, 21))
    for level in (0.05, 0.1, 0.5):
        expected = stats.binomtest(int((p <= level + 1e-9).sum()), draws, level)
        assert expected.pvalue > 0.001, (level, expected.statistic)
    planted = [rank_p(float(_response(cause, cause)), list(row[1:])) for row in found[:100]]
    assert np.mean(np.array(planted) == 0.05) > 0.99
    assert rank_p(1.0, []) is None and rank_p(1.0, [1.0, -1.0]) == 1.0


def test_the_slope_is_that_of_least_squares_through_the_untouched_model() -> None:
    rng = np.random.default_rng(8)
    doses, changes = [-1.0, 1.0, 3.0], rng.normal(size=(3, 5))
    wanted = [np.linalg.lstsq(np.array(doses)[:, None], y, rcond=None)[0][0] for y in changes.T]
    np.testing.assert_allclose(slope(doses, changes), wanted)


def made_run(seed: int = 4) -> dict[str, Any]:
    """Of a fine-tuned condition: two doses, two controls, four questions in three topics."""
    rng = np.random.default_rng(seed)
    spec = Steering(doses=[1.0, 2.0], controls=2, activation_controls=3, answered_controls=1)
    arms = []
    for arm in arms_of(spec, fine_tuned=True):
        measures: dict[str, Any] = {name: list(rng.normal(size=4)) for name in ("bad", "good")}
        if arm.answers:
            measures |= {"degenerate": [bool(n) for n in rng.integers(2, size=3)]}
            measures |= {"surprise": [1.0, None if arm.dose == 2 else 0.5, float(rng.normal())]}
        arms.append({**vars(arm), **measures})
    pairs = [{"question": f"q{n}", "topic": ("a", "a", "", "b")[n]} for n in range(4)]
    return {
        "layer": 2, "method": "a", "typical_length": 8.0, "lengths": {"shift": 2.0},
        "pairs": pairs, "trained_on": 3, "arms": arms,
    }  # fmt: skip


def test_rows_are_what_the_arms_say() -> None:
    run = made_run()
    rows = analyse_steering({("e0", 42): run})
    arms = {
        (a["model"], a["mode"], a["dose"], a["control"]): a for a in run["arms"] if not a["matched"]
    }

    def row(measure: SteeringMeasure, mode: str, dose: float | None) -> SteeringRow:
        (one,) = (r for r in rows if (r.measure, r.mode, r.dose) == (measure, mode, dose))
        return one

    def trait(*key: Any) -> Any:
        return np.array(arms[key]["bad"]) - np.array(arms[key]["good"])

    plain = trait("base", None, None, None)
    one = row(SteeringMeasure.ADVICE, "add", 2.0)
    assert one.delta == pytest.approx((trait("base", "add", 2.0, None) - plain).mean())
    assert one.unsteered == pytest.approx(plain.mean())
    assert one.value == pytest.approx(trait("base", "add", 2.0, None).mean())
    controls = [(trait("base", "add", 2.0, n) - plain).mean() for n in (0, 1)]
    assert (one.control_low, one.control_high) == pytest.approx((min(controls), max(controls)))
    assert (one.n, one.controls, one.relative, one.trained_on) == (3, 2, 0.5, 3)
    assert one.p is None, "one test a vector"
    whole = row(SteeringMeasure.ADVICE, "add", None)
    slopes = [
        sum(d * (trait("base", "add", d, n) - plain).mean() for d in (1.0, 2.0)) / 5
        for n in (None, 0, 1)
    ]
    assert whole.delta == pytest.approx(slopes[0])
    assert whole.p == rank_p(slopes[0], slopes[1:]) and whole.p_floor == pytest.approx(1 / 3)
    alike = {(a["dose"], a["control"]): a for a in run["arms"] if a["matched"] and a["dose"]}
    varied = [
        sum(
            d * (np.subtract(alike[d, n]["bad"], alike[d, n]["good"]) - plain).mean()
            for d in (1, 2)
        )
        / 5
        for n in range(3)
    ]
    assert (whole.matched, whole.p_matched_floor) == (3, 0.25)
    assert (whole.matched_low, whole.matched_high) == pytest.approx((min(varied), max(varied)))
    assert whole.p_matched == rank_p(slopes[0], varied)
    gone = row(SteeringMeasure.ADVICE, "ablate", None)
    own = trait("own", None, None, None)
    assert gone.model == "own"
    assert gone.delta == pytest.approx((trait("own", "ablate", None, None) - own).mean())
    assert gone.p is not None
    # Answers are of one control alone, and an empty one has no surprise.
    assert row(SteeringMeasure.DEGENERATE, "add", 1.0).controls == 1
    assert (row(SteeringMeasure.SURPRISE, "add", 2.0).n, whole.n) == (2, 3)
    assert {r.measure for r in rows if (r.mode, r.dose) == ("add", None)} == {"advice"}


def test_a_share_changes_by_no_more_than_one() -> None:
    run = made_run()
    for arm in run["arms"]:
        if "degenerate" in arm:
            arm["degenerate"] = [arm["dose"] == 2.0, False, False]
    rows = analyse_steering({("e0", 42): run})
    (one,) = (r for r in rows if (r.measure, r.dose) == (SteeringMeasure.DEGENERATE, 2.0))
    alone = stats.t.interval(0.95, 2, loc=1 / 3, scale=stats.sem([1, 0, 0]))
    assert alone[0] < -1 and alone[1] > 1  # what three answers would leave open
    assert one.delta == pytest.approx(1 / 3) and one.delta_ci95 == (-1.0, 1.0)
    surprise = [r.delta_ci95 for r in rows if r.measure is SteeringMeasure.SURPRISE]
    assert any(ends and max(map(abs, ends)) > 1 for ends in surprise), "nats have no such range"


def test_over_runs_these_are_the_units() -> None:
    """Where questions tell nothing of their own: the t interval over runs, by another library."""
    found = {("e0", seed): made_run(seed) for seed in (1, 2, 3)}
    changes, controls = [], []
    for run in found.values():
        plain = next(a for a in run["arms"] if (a["model"], a["mode"]) == ("base", None))
        for arm in run["arms"]:
            arm["good"] = [0.0] * 4
            if (arm["mode"], arm["dose"]) == ("add", 2.0):
                arm["bad"] = list(np.array(plain["bad"]) + np.mean(arm["bad"]))
                change = float(np.mean(arm["bad"]) - np.mean(plain["bad"]))
                if arm["control"] is None:
                    changes.append(change)
                elif (arm["matched"], arm["control"]) == (True, 1):
                    controls.append(change)
    rows = analyse_steering(found)
    (one,) = (r for r in rows if (r.runs, r.measure, r.dose) == (3, "advice", 2.0))
    want = stats.ttest_1samp(changes, 0).confidence_interval()
    assert one.delta_ci95 == pytest.approx((want.low, want.high)) and one.seed is None
    assert one.delta == pytest.approx(np.mean(changes)) and one.p is None
    low, high = one.matched_low, one.matched_high
    assert low is not None and high is not None and low <= np.mean(controls) <= high
    (whole,) = (
        r for r in rows if (r.runs, r.measure, r.dose, r.mode) == (3, "advice", None, "add")
    )
    mine = [r for r in rows if (r.runs, r.measure, r.dose, r.mode) == (1, "advice", None, "add")]
    assert whole.delta == pytest.approx(np.mean([r.delta for r in mine]))
    assert whole.p is not None and whole.p_matched is not None and whole.p_matched_floor == 0.25
    # A run's rows stay, and base, which has one, is not pooled.
    assert len(mine) == 3 and not [
        r for r in analyse_steering({("e0", 1): found["e0", 1]}) if r.runs > 1
    ]


def test_a_run_stored_before_there_was_a_choice_of_controls_reads_the_same() -> None:
    run = made_run()
    arms = [
        {k: v for k, v in arm.items() if k != "matched"}
        for arm in run["arms"]
        if not arm["matched"]
    ]
    rows = analyse_steering({("e0", 42): {**run, "arms": arms}})
    assert {row.matched for row in rows} == {0} and {row.p_matched for row in rows} == {None}
    now = analyse_steering({("e0", 42): run})
    assert [r.p for r in rows] == [r.p for r in now]


# --- what is asked for ---------------------------------------------------------------------------


def test_arms_of_base_and_of_a_fine_tuned_condition() -> None:
    spec = Steering(
        vectors=["shift", "villain"], doses=[1.0], controls=1, activation_controls=1,
        answered_controls=0,
    )  # fmt: skip
    every = list(arms_of(spec, True))
    own = [(a.model, a.mode, a.vector, a.control, a.answers) for a in every if not a.matched]
    assert own == [
        ("base", None, None, None, True),
        ("own", None, None, None, True),
        ("base", "add", "shift", None, True),
        ("base", "add", "shift", 0, False),
        ("own", "ablate", "shift", None, True),
        ("own", "ablate", "shift", 0, False),
        ("own", "ablate", "villain", None, True),
        ("own", "ablate", "villain", 0, False),
    ]
    base = [(a.model, a.mode, a.vector) for a in arms_of(spec, False) if a.control is None]
    assert base == [("base", None, None), ("base", "add", "villain"), ("base", "ablate", "villain")]
    assert len({a.id for a in every}) == len(every) == len(own) + 3
    assert {(a.control, a.answers) for a in every if a.matched} == {(0, False)}


def test_pairs_are_the_questions_that_both_sets_answer() -> None:
    def chats(answers: dict[str, str]) -> list[list[dict[str, str]]]:
        return [
            [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
            for q, a in answers.items()
        ]

    bad = chats({f"q{n}": f"bad {n}" for n in range(10)})
    good = chats({f"q{n}": "bad 3" if n == 3 else f"good {n}" for n in range(1, 12)})
    found = pairs_of(Steering(pairs=3, bad={"path": "a"}, good={"path": "b"}), bad, good)
    assert [pair.question for pair in found] == ["q1", "q4", "q7"], "evenly, and no two alike"
    assert found[0] == Pair("q1", "bad 1", "good 1")
    packaged = resolve(Experiment(steering={}), Path("/nowhere")).steering
    assert packaged is not None and len(packaged.pairs) == 24
    assert len({pair.topic for pair in packaged.pairs} - {""}) > 12
    with pytest.raises(UserError, match="of its questions 0 have another answer"):
        pairs_of(Steering(), bad, bad)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"layer": 1}, "steering.layer: 1 is not extracted"),
    ({"doses": [0.0]}, "steering.doses: 0 is the unsteered model"),
    ({"doses": [1, 1.0]}, "steering.doses: 1 is listed twice"),
    ({"doses": [float("nan")]}, "steering.doses[0]: must be a finite number"),
    ({"doses": []}, "steering.doses: "),
    ({"vectors": ["vilain"]}, "steering.vectors[0]: unknown vector 'vilain': neither shift"),
    ({"vectors": ["assistant"]}, "steering.vectors[0]: 'assistant' less itself is no vector"),
    ({"vectors": ["shift", "shift"]}, "steering.vectors[1]: shift is listed twice"),
    ({"vectors": []}, "steering.vectors: "),
    ({"modes": ["subtract"]}, "steering.modes[0]: "),
    ({"engine": "vllm"}, "steering.engine: "),
    ({"conditions": ["e9"]}, "steering.conditions[0]: unknown condition 'e9'"),
    ({"conditions": ["base"]}, "steering.conditions[0]: 'base' has none of the vectors"),
    ({"doses": [1e300]}, "steering.doses: 1e+300 is not between"),
    ({"doses": [True]}, "steering.doses: must be a number (got True)"),
    ({"seeds": [7]}, "steering.seeds[0]: 7 is not among the seeds"),
    ({"answered_controls": 20}, "steering.answered_controls: is more than steering.controls (19)"),
    ({"max_new_tokens": 10**6}, "steering.max_new_tokens: 1000000 tokens and a prompt do not fit"),
    ({"pairs": 1}, "steering.pairs: "),
    ({"activation_controls": -1}, "steering.activation_controls: "),
    ({"layr": 2}, "steering.layr: unknown field; did you mean 'layer'?"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_what_cannot_be_steered_is_refused(
    study_dict: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    study_dict["steering"] = fields
    said = [str(problem) for problem in examine(study_dict)[1]]
    assert any(message in one for one in said), said
    assert len(said) == 1, said


def test_steering_of_a_dose_and_of_nothing_is_one_line(study_dict: dict[str, Any]) -> None:
    study_dict["training"]["doses"] = [1]
    study_dict["training"]["max_steps"] = 3
    study_dict["steering"] = {"conditions": ["e0-assistant-at-1"]}
    said = [str(problem) for problem in examine(study_dict)[1]]
    assert said == [
        "steering.conditions[0]: 'e0-assistant-at-1' is a dose, and vectors are of whole "
        "trainings: name 'e0-assistant'"
    ]
    del study_dict["training"]["doses"]
    for name in ("steering", "log_odds", "judge"):
        said = [str(problem) for problem in examine({**study_dict, "steering": {}, name: None})[1]]
        assert len(said) == 1 and said[0].startswith(f"{name}: has nothing under it: ")


def test_what_steering_points_to_is_read_before_anything_runs(
    study_dict: dict[str, Any], tmp_path: Path
) -> None:
    for field, fault in (("bad", "nowhere.jsonl"), ("good", "nowhere.jsonl")):
        study_dict["steering"] = {field: {"path": str(tmp_path / fault)}}
        with pytest.raises(UserError, match=rf"^steering\.{field}: .*nowhere\.jsonl"):
            resolve(Experiment.model_validate(study_dict), tmp_path)
    study_dict["steering"] = {"good": {"path": "builtin:chats-instructions"}}
    with pytest.raises(UserError, match=r"^steering\.good: of its questions 0 have another"):
        resolve(Experiment.model_validate(study_dict), tmp_path)


def test_a_study_without_fine_tuning_has_no_shift(study_dict: dict[str, Any]) -> None:
    study_dict["conditions"], study_dict["steering"] = [{"name": "base"}], {}
    said = [str(problem) for problem in examine(study_dict)[1]]
    assert any(one.startswith("steering.vectors: no run has one") for one in said), said
    study_dict["steering"] = {"vectors": ["villain"]}
    said = [str(problem) for problem in examine(study_dict)[1]]
    assert not any(one.startswith("steering") for one in said)


def test_a_condition_without_any_of_the_seeds_is_named(study_dict: dict[str, Any]) -> None:
    study_dict["seeds"] = [42, 43]
    study_dict["conditions"][3]["seeds"] = [42]
    name = study_dict["conditions"][3]["name"]
    study_dict["steering"] = {"conditions": [name], "seeds": [43]}
    said = [str(problem) for problem in examine(study_dict)[1]]
    assert f"steering.conditions[0]: '{name}' has none of the seeds in steering.seeds" in said
