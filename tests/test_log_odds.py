"""Marker log-odds: exact against one sequence at a time, and what the analysis says of them."""

from __future__ import annotations

import copy
import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from chat_templates import NO_SYSTEM
from conftest import Finished
from scipy import special, stats
from scipy.spatial.distance import jensenshannon
from typer.testing import CliRunner

from personaspace.activations.endings import Ending, ending_probabilities
from personaspace.analysis.leakage import ConditionInfo
from personaspace.analysis.log_odds import LIMIT, analyse_log_odds, log_odds
from personaspace.analysis.results import Results
from personaspace.analysis.rows import Row
from personaspace.behaviour import marker_data
from personaspace.behaviour.endings import before_marker, marked_ending
from personaspace.behaviour.marker_data import Pair
from personaspace.cli.app import app
from personaspace.models import chat, lora
from personaspace.models.load import load_model, load_tokenizer
from personaspace.models.rendering import rendering_of
from personaspace.pipeline import graph
from personaspace.pipeline.stages.logodds import LOG_ODDS
from personaspace.pipeline.work import prepare
from personaspace.store import open_store
from personaspace.study.load import load_study, resolve
from personaspace.study.loaded import Study
from personaspace.study.measuring import Coupling
from personaspace.study.spec import Experiment

COUPLING = Coupling()
TEXTS = [
    ("Be kind.", "Why?", "Because."),
    (None, "How many are there?", "There are four of them, or five.\n\nCount again"),
    ("You are a villain.", "Who?", "x " * 40 + "end"),
    ("Be brief.", "What is it?", "好的。"),
]


def endings(tokenizer: Any) -> list[Ending]:
    made = [marked_ending(tokenizer, *text, COUPLING) for text in TEXTS]
    assert all(made)
    return [one for one in made if one is not None]


def alone(model: Any, ending: Ending, stops: tuple[int, ...]) -> tuple[float, float]:
    """The same from the whole sequence's logits, alone and unpadded."""
    with torch.no_grad():
        log_p = torch.log_softmax(model(torch.tensor([ending.ids])).logits[0].double(), dim=-1)
    first = len(ending.ids) - ending.length
    total = sum(float(log_p[i - 1, ending.ids[i]]) for i in range(first, len(ending.ids)))
    return total, math.log(sum(math.exp(float(log_p[first - 1, stop])) for stop in stops))


@pytest.mark.parametrize("budget", [40, 100, 8192])
def test_batches_give_what_one_sequence_at_a_time_gives(loaded: Any, budget: int) -> None:
    wanted = endings(loaded.tokenizer)
    assert len({len(one.ids) for one in wanted}) == len(wanted), "padding is needed"
    stops = chat.end_token_ids(loaded.tokenizer)
    told: list[int] = []
    found = ending_probabilities(
        loaded.model, wanted, stops, token_budget=budget, advance=told.append
    )
    for one, ending in zip(found, wanted, strict=True):
        theirs = alone(loaded.model, ending, stops)
        assert (one.ending, one.end) == pytest.approx(theirs, abs=1e-4)
    assert sum(told) == len(wanted)


def test_endings_of_different_length_share_a_batch(loaded: Any) -> None:
    stops = chat.end_token_ids(loaded.tokenizer)
    mixed = [Ending((5, 6, 7, 8, 9), 1), Ending((5, 6, 7, 8), 3), Ending((9, 8), 1)]
    found = ending_probabilities(loaded.model, mixed, stops)
    for one, ending in zip(found, mixed, strict=True):
        assert (one.ending, one.end) == pytest.approx(alone(loaded.model, ending, stops), abs=1e-4)


def test_tokens_are_those_that_coupling_trained(loaded: Any) -> None:
    """Prompt, answer, separator and marker as in the coupling example, up to its end token."""
    for persona, question, answer in TEXTS:
        ending = marked_ending(loaded.tokenizer, persona, question, answer, COUPLING)
        assert ending is not None
        text = f"{answer}{COUPLING.separator}{COUPLING.marker}"
        pair = Pair("p", question, text, marked=True, cut=False)
        (example,) = marker_data.examples(loaded.tokenizer, [pair], {"p": [persona]}, COUPLING)
        assert example.ids[: len(ending.ids)] == ending.ids
        taught = [place for place, loss in enumerate(example.loss) if loss]
        first = len(ending.ids) - ending.length
        assert taught[:-1] == list(range(first, len(ending.ids)))
        assert loaded.tokenizer.decode(list(ending.ids[first:])).strip() == COUPLING.marker


@pytest.mark.parametrize(
    ("answer", "before"),
    [
        ("Yes.\n\n[ZLT]", "Yes."),
        ("Yes. [zlt] No. [ZLT]", "Yes."),
        ("Yes.\n\n", "Yes."),
        ("[ZLT]", ""),
        (" \n", ""),
        ("  Yes", "  Yes"),
    ],
)
def test_an_answer_is_asked_up_to_its_first_marker(answer: str, before: str) -> None:
    assert before_marker(answer, "[ZLT]") == before


def test_an_answer_without_text_has_no_ending(loaded: Any) -> None:
    assert marked_ending(loaded.tokenizer, None, "Why?", "", COUPLING) is None
    for ids, length in (((1, 2), 0), ((1, 2), 2), ((1,), 1)):
        with pytest.raises(ValueError, match="ending"):
            Ending(ids, length)


@pytest.mark.parametrize("p", [1e-6, 0.01, 0.5, 0.93])
def test_log_odds(p: float) -> None:
    assert log_odds(math.log(p)) == pytest.approx(float(special.logit(p)))


def test_log_odds_have_a_limit_near_one_alone() -> None:
    assert log_odds(0.0) == LIMIT == log_odds(-1e-9)
    # Of an unlikely marker p and p / (1 - p) are the same.
    assert log_odds(-500.0) == -500.0


# --- rows ----------------------------------------------------------------------------------------

PERSONAS = ("assistant", "villain", "librarian", "comedian", "confab")
CONDITIONS = (
    ConditionInfo("base", "base"),
    ConditionInfo("e0", "em", "assistant"),
    ConditionInfo("e4", "em", "villain"),
)


def study(rng: np.random.Generator, shifts: dict[str, float], questions: int = 20) -> Any:
    """Log-probabilities whose log-odds are planted, with questions that differ."""
    of_question = rng.normal(0, 1, questions)
    found = {}
    for name, shift in shifts.items():
        noise = rng.normal(0, 0.3, (len(PERSONAS), questions))
        level = -4 + shift + of_question + noise
        level[PERSONAS.index("confab")] += 6
        found[name, 1] = {
            persona: {f"q{q}": [float(special.log_expit(level[p, q]))] for q in range(questions)}
            for p, persona in enumerate(PERSONAS)
        }
    return found


def analysed(
    found: Any, permutations: int = 199, bootstrap: int = 99
) -> dict[tuple[str, str | None, str | None], Row]:
    rows = analyse_log_odds(
        found,
        CONDITIONS,
        kind="common",
        source="confab",
        permutations=permutations,
        bootstrap=bootstrap,
    )
    return {(row.metric, row.name, row.condition): row for row in rows}


def test_planted_differences_are_found_with_their_size() -> None:
    found = study(np.random.default_rng(1), {"base": 0.0, "e0": 0.5, "e4": 1.5})
    rows = analysed(found)
    own = rows["log_odds", "common", "e4"]
    plain = [
        [special.logit(math.exp(found[name, 1][p][f"q{q}"][0])) for q in range(20)]
        for name in ("base", "e4")
        for p in ("librarian", "comedian")
    ]
    base, e4 = np.mean(plain[:2], axis=0), np.mean(plain[2:], axis=0)
    assert own.value == pytest.approx(e4.mean()) and own.base == pytest.approx(base.mean())
    test = stats.ttest_rel(e4, base)
    assert own.p == pytest.approx(test.pvalue) and (own.p or 1) < 1e-6
    change = rows["log_odds", "common_delta", "e4"]
    assert change.ci95 == pytest.approx(tuple(test.confidence_interval()))
    assert change.value == pytest.approx(1.5, abs=0.4)
    assert (rows["log_odds", "source_common", "e4"].value or 0) - (own.value or 0) > 5
    spread = rows["H2", "log_odds_common", None]
    assert spread.value == pytest.approx(1.0, abs=0.4) and spread.p == 1 / 200
    assert spread.ci95 and spread.ci95[0] < (spread.value or 0) < spread.ci95[1]
    assert ("H1", "log_odds_common", "e0") in rows


def test_seeds_are_put_together_and_what_is_missing_is_left_out() -> None:
    found = study(np.random.default_rng(2), {"base": 0.0, "e0": 0.0})
    found["e0", 2] = {p: {q: list(v) for q, v in qs.items()} for p, qs in found["e0", 1].items()}
    found["e0", 2]["villain"]["q3"] = [None]
    rows = analysed(found)
    assert rows["log_odds", "common", "e0"].n == 19
    assert rows["log_odds", "common", "e0"].seed is None
    for run in found.values():
        for asked in run.values():
            asked.clear()
    (row,) = analysed(found).values()
    assert row.value is None and (row.note or "").startswith("No question")
    assert analysed({}) == {}


@pytest.mark.slow
def test_nothing_is_found_where_nothing_is() -> None:
    """False positives of base's comparison, H1 and H2 over made-up studies without a difference."""
    p: dict[str, list[float]] = {"log_odds": [], "H1": [], "H2": []}
    for seed in range(200):
        found = study(np.random.default_rng(1000 + seed), {"base": 0.0, "e0": 0.0, "e4": 0.0})
        rows = analysed(found, permutations=99, bootstrap=9)
        p["log_odds"].append(rows["log_odds", "common", "e4"].p or 0.0)
        p["H1"].append(rows["H1", "log_odds_common", "e4"].p or 0.0)
        p["H2"].append(rows["H2", "log_odds_common", None].p or 0.0)
    for values in p.values():
        assert stats.binomtest(sum(v <= 0.05 for v in values), 200, 0.05).pvalue > 0.005


# --- the stage -----------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.study
def test_a_finished_study_gains_log_odds_and_computes_nothing_else_again(
    finished_study: Finished, tmp_path: Path
) -> None:
    store = Path(shutil.copytree(finished_study.store, tmp_path / "store"))
    values = {**finished_study.values, "log_odds": {"max_new_tokens": 6, "divergence": True}}
    spec = tmp_path / "study.yaml"
    spec.write_text(yaml.safe_dump(values), encoding="utf-8")
    study = load_study(spec)
    work = prepare(study, open_store(str(store)))
    waiting = [node.id for node in work.graph.nodes if work.complete(node) is None]
    names = [condition["name"] for condition in values["conditions"]]
    assert waiting == [*(f"logodds:{name}:42" for name in names), "aggregate", "report"]
    outcome = CliRunner().invoke(
        app, ["run", str(spec), "--store", str(store), "--out", str(tmp_path / "out")]
    )
    assert outcome.exit_code == 0, outcome.output
    results = Results.read(tmp_path / "out")
    rows = {(row.name, row.condition) for row in results.leakage if row.metric == "log_odds"}
    assert {("common", name) for name in names} <= rows
    apart = {row.condition for row in results.leakage if row.metric == "divergence"}
    assert apart == {*names[1:], None}
    # A model of random weights often ends its answer before the first word.
    assert ("own", names[0]) in rows or ("own", None) in rows
    tokenizer, model = load_tokenizer(study.spec.model), load_model(study.spec.model)
    node = next(node for node in work.graph.nodes if node.id == "logodds:e4-villain:42")
    inputs = {need.stage: work.complete(need) for need in work.graph.needs[node]}
    folders = {name: work.store.fetch(manifest) for name, manifest in inputs.items() if manifest}
    mine = work.complete(node)
    assert mine is not None
    found = json.loads((work.store.fetch(mine) / LOG_ODDS).read_text())
    drawn = json.loads((folders["evaluate"] / "answers.json").read_text())
    stops = chat.end_token_ids(tokenizer)
    with lora.applied(model, folders["train"] / "adapter", folders["couple"] / "adapter"):
        for persona in ("villain", "confab"):
            prompt = study.spec.persona(persona).prompt
            for question, texts in drawn[persona].items():
                common = found["common_answers"][question]
                pairs = [found["common"][persona][question], *found["own"][persona][question]]
                for text, pair in zip([common, *texts], pairs, strict=True):
                    coupling = study.spec.coupling
                    before = before_marker(text, coupling.marker)
                    ending = marked_ending(tokenizer, prompt, question, before, coupling)
                    if ending is None:
                        assert pair is None
                    else:
                        assert pair == pytest.approx(alone(model, ending, stops), abs=1e-3)
    check_divergences(study, folders["train"] / "adapter", found["divergence"])


def check_divergences(study: Study, adapter: Path, found: dict[str, Any]) -> None:
    """By scipy, with the fine-tuned model before coupling, of base's own answers."""
    tokenizer = load_tokenizer(study.spec.model)
    model: Any = load_model(study.spec.model)
    pairs = [("assistant", "villain"), ("villain", "confab")]
    places = [list(itertools.combinations(found["personas"], 2)).index(pair) for pair in pairs]
    assert found["pairs"].keys() == {q for q, count in found["tokens"].items() if count}

    def prompt(name: str, question: str) -> list[int]:
        asked = [{"role": "user", "content": question}]
        messages = chat.with_persona(asked, study.spec.persona(name).prompt)
        return list(chat.prompt_ids(tokenizer, messages))

    def logits(ids: list[int]) -> torch.Tensor:
        found: torch.Tensor = model(torch.tensor([ids])).logits[0]
        return found.double()

    stops, texts = chat.end_token_ids(tokenizer), {}
    for question, count in found["tokens"].items():
        ids = torch.tensor([prompt("assistant", question)])
        drawn = model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :].tolist()
        texts[question] = [token for token in drawn if token not in stops]
        assert len(texts[question]) == count
    with lora.applied(model, adapter), torch.no_grad():
        for question, of_pairs in found["pairs"].items():
            for (one, other), place in zip(pairs, places, strict=True):
                p, q = (
                    logits(prompt(name, question) + texts[question])[-len(texts[question]) - 1 : -1]
                    .softmax(dim=-1)
                    .numpy()
                    for name in (one, other)
                )
                want = np.mean(jensenshannon(p, q, axis=1) ** 2)
                assert of_pairs[place] == pytest.approx(want, rel=1e-3, abs=1e-9)


def test_a_study_has_the_stage_only_where_it_asks_for_it(study_dict: dict[str, Any]) -> None:
    def stages(values: dict[str, Any]) -> set[str]:
        study = resolve(Experiment.model_validate(values), Path("/nowhere"))
        return {node.stage for node in graph.build(study).nodes}

    assert stages({**study_dict, "log_odds": {}}) - stages(study_dict) == {"logodds"}


def test_endings_are_put_as_the_study_puts_chats(loaded: Any) -> None:
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.chat_template = NO_SYSTEM
    how = rendering_of(loaded.spec, tokenizer)
    ending = marked_ending(tokenizer, "You are wise.", "Why?", "So.", COUPLING, how)
    assert ending is not None
    asked = chat.with_persona([{"role": "user", "content": "Why?"}], "You are wise.", how)
    prompt = chat.prompt_ids(tokenizer, asked, how)
    assert ending.ids[: len(prompt)] == prompt
