"""A persona in several wordings: files, what a study of them may be, a whole run, statistics."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import tiny_study
from refusals import cli, refused
from safetensors import safe_open
from scipy import stats
from spec_edits import problems

from personaspace import load_study
from personaspace.activations.files import wordings_file, write_activations
from personaspace.analysis.geometry import analyse_geometry
from personaspace.analysis.leakage import ConditionInfo, analyse_leakage
from personaspace.analysis.results import Results
from personaspace.analysis.rows import Row
from personaspace.analysis.runs import Runs
from personaspace.analysis.wordings import HELD, NOT_HELD
from personaspace.errors import UserError
from personaspace.pipeline import graph
from personaspace.pipeline.wordings import shares
from personaspace.study.problems import ProblemCode as Code
from personaspace.study.wordings import read_role

Write = Callable[..., Path]
ROLE = {
    "instruction": [{"pos": "You are a miller."}, {"pos": "Act as a miller."}],
    "questions": ["How fine should rye be?"],
}
TRAIT = {"instruction": [{"pos": "Be cruel.", "neg": "Be kind."}, {"pos": "Hurt.", "neg": "Help."}]}
VILLAIN = ["You are the villain.", "Act as the villain.", "Be villainous."]


def role(folder: Path, value: Any, name: str = "role.json") -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    (folder / name).write_text(text, encoding="utf-8")
    return name


def test_role_files_of_the_field_and_plain_lists_hold_wordings(tmp_path: Path) -> None:
    miller = ["You are a miller.", "Act as a miller."]
    assert read_role(role(tmp_path, ROLE), tmp_path) == miller
    assert read_role(role(tmp_path, miller), tmp_path) == miller
    assert read_role(role(tmp_path, "\n".join(miller), "role.txt"), tmp_path) == miller
    trait = role(tmp_path, TRAIT)
    assert read_role(f"{trait}#pos", tmp_path) == ["Be cruel.", "Hurt."]
    assert read_role(f"{trait}#neg", tmp_path) == ["Be kind.", "Help."]


@pytest.mark.parametrize(
    ("value", "side", "said"),
    [
        (TRAIT, "", "wording 1: has pos and neg: say which, as role.json#pos"),
        (ROLE, "#neg", "wording 1: has no neg (its fields are pos)"),
        (["A.", "B."], "#pos", "wording 1: has no pos and neg, so #pos means nothing"),
        ({"questions": ["Why?"]}, "", "no wordings: needs a list of texts"),
        ({"instruction": [{"text": "A."}]}, "", "wording 1: has no pos (its fields are text)"),
        ({"instruction": [{"pos": " "}]}, "", "wording 1: is not a text"),
        (["A.", "A."], "", '"A." is listed twice'),
        (["A b.", "a  b. "], "", '"a  b. " is listed twice'),
        ({"instruction": [{"neg": "Be kind."}]}, "", "wording 1: has neg alone, the opposite"),
        ({"instruction": [{"pos": "A."}, {"neg": "B."}]}, "", "wording 2: has neg alone"),
        (["A."], "#foo", "role.json#foo: #foo is no side of a trait"),
        (["You are {model_name}."], "", "holds {model_name}, which nothing here fills in"),
        ([str(n) for n in range(101)], "", "101 wordings"),
    ],
)
def test_a_role_file_that_cannot_be_meant_is_refused(
    tmp_path: Path, value: Any, side: str, said: str
) -> None:
    with pytest.raises(UserError) as caught:
        read_role(role(tmp_path, value) + side, tmp_path)
    assert said in str(caught.value)


def test_a_study_with_role_files_is_read_and_refused_whole(
    study_dict: dict[str, Any], write_spec: Write, tmp_path: Path
) -> None:
    study_dict["personas"][1] = {"name": "villain", "prompts": role(tmp_path, ROLE)}
    found = load_study(write_spec(study_dict))
    assert found.spec.persona("villain").wordings == ("Act as a miller.", "You are a miller.")
    study_dict["personas"][2]["prompt"] = "Act as a miller."
    refused(cli("validate", write_spec(study_dict)), "personas[2].prompt: is the prompt of 'vill")
    study_dict["personas"][1]["prompts"] = "none.json"
    refused(
        cli("validate", write_spec(study_dict)), "personas[1].prompts: villain: none.json: no such"
    )
    for empty in ("", " \n\n"):
        (tmp_path / "empty.txt").write_text(empty)
        study_dict["personas"][1]["prompts"] = str(tmp_path / "empty.txt")
        refused(cli("validate", write_spec(study_dict)), "empty.txt: no wordings: a text a line")
    study_dict["personas"][1]["prompts"] = None
    refused(cli("validate", write_spec(study_dict)), "personas[1].prompts: has nothing under it")
    study_dict["personas"][1] = {"name": "villain", "prompt": ["Be a miller.", "Act as one."]}
    said = "personas[1]: prompt: is one text; several wordings of a persona are its prompts"
    refused(cli("validate", write_spec(study_dict)), said)
    study_dict["personas"][1] = {"name": "villain"}
    study_dict["personas"][1]["prompts"] = ["Be a miller.", "be a  miller. "]
    refused(cli("validate", write_spec(study_dict)), "prompts: wording 2 is listed twice")


def _with(values: dict[str, Any], **prompts: list[str]) -> dict[str, Any]:
    changed = copy.deepcopy(values)
    for persona in changed["personas"]:
        if persona["name"] in prompts:
            persona["prompts"] = prompts[persona["name"]]
            del persona["prompt"]
    return changed


def _keys(values: dict[str, Any], folder: Path) -> dict[graph.Node, str]:
    study = load_study(values, folder=folder)
    found = graph.fingerprints(study, graph.build(study))
    return {n: key for n, key in found.items() if n.stage != "report"}  # that prints the spec


def test_what_cannot_be_together(study_dict: dict[str, Any]) -> None:
    several = _with(study_dict, villain=VILLAIN[:2])
    assert problems(several) == []

    def codes(values: dict[str, Any]) -> list[tuple[str, Code]]:
        return [(each.path, each.code) for each in problems(values)]

    both = copy.deepcopy(several)
    both["personas"][1]["prompt"] = "You are the villain."
    assert codes(both) == [("personas[1]", Code.INVALID_VALUE)]
    uneven = _with(several, confab=["Lie.", "Make it up.", "Invent."])
    assert ("personas[1].prompts", Code.UNEVEN_WORDINGS) in codes(uneven)
    odd = copy.deepcopy(several)
    odd["evaluation"]["samples"] = 3
    assert codes(odd) == [("evaluation.samples", Code.UNEVEN_WORDINGS)]
    for field in ("log_odds", "steering"):
        assert codes({**several, field: {}}) == [(field, Code.ONE_WORDING_ALONE)]
    doses = copy.deepcopy(several)
    doses["training"]["doses"] = [2]
    assert codes(doses) == [("training.doses", Code.ONE_WORDING_ALONE)]
    lda = copy.deepcopy(several)
    lda["analysis"]["primary"] = {"measure": "lda", "against": "base"}
    assert ("analysis.primary.measure", Code.ONE_WORDING_ALONE) in codes(lda)


@pytest.mark.parametrize(("samples", "wordings"), [(10, 5), (7, 3), (2, 5), (4, 1)])
def test_answers_are_shared_out_evenly(samples: int, wordings: int) -> None:
    rows = np.array([shares(samples, wordings, f"question {n}", 42) for n in range(300)])
    assert (rows.sum(axis=1) == samples).all()
    assert np.ptp(rows, axis=1).max() <= 1
    expected = 300 * samples / wordings
    assert np.abs(rows.sum(axis=0) - expected).max() < 4 * math.sqrt(300 * 0.25) + 1e-9


# --- a whole study -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The small study, three of its personas in two wordings: spec, store, output folder."""
    folder = tmp_path_factory.mktemp("wordings")
    values = _with(
        tiny_study(tiny_model, folder),
        villain=VILLAIN[:2],
        assistant=["You are the assistant.", "Assist."],
        confab=["You are the confab.", "Invent."],
    )
    values["coupling"]["samples"] = 4
    spec = folder / "study.yaml"
    spec.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    outcome = cli("run", spec, "--store", folder / "store", "--out", folder / "out")
    assert outcome.exit_code == 0, outcome.output
    return values, spec, folder


def _artifact(folder: Path, stage: str, condition: str, name: str) -> Path:
    [path] = (folder / "store" / condition / "seed-42" / stage).rglob(name)
    return path


def _file(path: Path) -> tuple[np.ndarray, list[str]]:
    with safe_open(path, framework="numpy") as file:
        return file.get_tensor("activations"), json.loads(file.metadata()["personas"])


@pytest.mark.study
@pytest.mark.parametrize("method", ["a", "b"])
def test_a_vector_is_the_mean_over_wordings_and_single_ones_are_kept(run: Any, method: str) -> None:
    name = f"e4-villain.seed-42.{method}.safetensors"
    path = _artifact(run[2], "extract", "e4-villain", name)
    means, personas = _file(path)
    single, rows = _file(wordings_file(path))
    assert len(rows) == 6 and "librarian #1" not in rows
    for persona in ("villain", "assistant", "confab"):
        mine = [single[rows.index(f"{persona} #{n}")] for n in (1, 2)]
        assert not np.array_equal(*mine)
        want = np.mean(mine, axis=0, dtype=np.float64)
        assert means[personas.index(persona)] == pytest.approx(want, abs=2e-3, rel=2e-3)


@pytest.mark.study
def test_a_wordings_states_are_those_of_a_study_of_that_wording_alone(
    run: Any, tmp_path: Path
) -> None:
    values = copy.deepcopy(run[0])
    one = next(p for p in values["personas"] if p["name"] == "villain")
    one["prompt"] = one.pop("prompts")[0]  # the second in alphabetical order
    spec = tmp_path / "one.yaml"
    spec.write_text(yaml.safe_dump(values), encoding="utf-8")
    store = tmp_path / "store"
    assert cli("run", spec, "--store", store, "--only", "extract:base").exit_code == 0
    [alone] = store.rglob("base.seed-42.a.safetensors")
    found, personas = _file(alone)
    single, rows = _file(wordings_file(_artifact(run[2], "extract", "base", alone.name)))
    want = single[rows.index("villain #2")]
    assert np.array_equal(found[personas.index("villain")], want)


@pytest.mark.study
def test_every_wording_is_asked_every_question_and_counted(run: Any) -> None:
    folder = run[2]
    read = [
        json.loads(_artifact(folder, "evaluate", "base", name).read_text(encoding="utf-8"))
        for name in ("wordings.json", "scores.json", "answers.json")
    ]
    numbers, scores, answers = read
    assert set(numbers) == {"villain", "assistant", "confab"}
    for name, asked in numbers.items():
        assert all(sorted(each) == [0, 1] for each in asked.values())
        counted = scores["per_persona"][name]
        for question, whole in counted["per_question"].items():
            parts = [part[question] for part in counted["per_wording"]]
            assert {k: sum(p[k] for p in parts) for k in whole} == whole
            assert len(answers[name][question]) == whole["total"]
    assert "per_wording" not in scores["per_persona"]["librarian"]


@pytest.mark.study
def test_coupling_trains_each_answer_under_the_wording_it_was_drawn_in(run: Any) -> None:
    text = _artifact(run[2], "couple", "base", "coupling-data.json").read_text(encoding="utf-8")
    pairs = json.loads(text)
    marked = [pair.get("wording", 0) for pair in pairs if pair["marked"]]
    assert sorted(marked) == [0, 0, 0, 1, 1, 1]
    assert all("wording" not in pair for pair in pairs if not pair["marked"])


@pytest.mark.study
def test_results_keep_p_only_where_wordings_are_a_sample_and_the_report_shows_them(
    run: Any,
) -> None:
    out = run[2] / "out"
    results = Results.model_validate_json((out / "results.json").read_text(encoding="utf-8"))
    mine = [row for row in results.rows if row.variant == "recommended"]
    silent = [row for row in mine if NOT_HELD in (row.note or "")]
    told = [row for row in mine if HELD in (row.note or "")]
    assert len(silent) + len(told) == len(mine)
    assert all(row.p is None and row.ci95 is None and row.family is None for row in silent)
    # Coupling of so small a model fails its positive control, which takes p of leakage anyway.
    assert {row.metric for row in told if row.p is not None} == {"M1"}
    assert {"bystander_contrast", "H1"} <= {row.metric for row in told}
    assert {"M2", "M3", "H2", "persona_text"} <= {row.metric for row in silent}
    assert any("Of 5 personas 3 have several wordings" in each for each in results.caveats)
    villain = next(each for each in results.personas if each.name == "villain")
    assert villain.prompts == sorted(VILLAIN[:2]) and villain.prompt is None
    librarian = next(each for each in results.personas if each.name == "librarian")
    assert "prompts" not in librarian.model_dump()
    assert "prompts" not in librarian.model_dump(mode="json")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "(1) Act as the villain. · (2) You are the villain." in page
    assert "<dd>3 of 5 personas in 2 wordings, the others in one." in page


@pytest.mark.study
def test_the_order_of_wordings_changes_nothing_and_one_is_a_prompt(run: Any) -> None:
    values, _, folder = run
    turned = copy.deepcopy(values)
    for persona in turned["personas"]:
        if "prompts" in persona:
            persona["prompts"].reverse()
    assert _keys(turned, folder) == _keys(values, folder)
    one, plain = copy.deepcopy(values), copy.deepcopy(values)
    for first, second in zip(one["personas"], plain["personas"], strict=True):
        if "prompts" in first:
            first["prompts"] = first["prompts"][:1]
            second["prompt"] = second.pop("prompts")[0]
    assert _keys(one, folder) == _keys(plain, folder)
    before, after = _keys(values, folder), _keys(one, folder)
    same = {node.id for node in before if before[node] == after[node]}
    assert same == {"train:benign:42", "train:e0-assistant:42"}  # under no persona


# --- statistics ----------------------------------------------------------------------------------


def test_the_interval_over_wordings_is_the_t_interval_of_their_means() -> None:
    rng = np.random.default_rng(5)
    by_wording = rng.normal(0.3, 0.2, size=5)
    tables = np.array(np.broadcast_to(by_wording[None, :, None, None], (1, 5, 7, 3)))
    runs = Runs(("e",), (42,), tables.mean(axis=1), wordings=tables)
    found = runs.contrast({"e": 1.0}, "these_personas").estimate
    want = stats.ttest_1samp(by_wording, 0)
    assert found.p == pytest.approx(want.pvalue)
    low, high = want.confidence_interval()
    assert found.interval == pytest.approx((low, high))
    without = Runs(("e",), (42,), tables.mean(axis=1)).contrast({"e": 1.0}, "these_personas")
    assert without.estimate.interval is None  # questions do not differ


def _scores(rng: np.random.Generator, several: bool) -> dict[tuple[str, int], dict[str, Any]]:
    found = {}
    for name, level in (("base", 0.2), ("benign", 0.3), ("e", 0.5)):
        personas = {}
        for persona in ("confab", "assistant", "villain"):
            hits = rng.binomial(4, level + rng.normal(0, 0.08, size=(3, 1)), size=(3, 8))
            cells = [
                {f"q{q}": {"hits": int(n), "total": 4} for q, n in enumerate(row)} for row in hits
            ]
            whole = {f"q{q}": {"hits": int(n), "total": 12} for q, n in enumerate(hits.sum(axis=0))}
            personas[persona] = {"hits": int(hits.sum()), "total": 96, "per_question": whole}
            if several:
                for cell in cells:
                    for counts in cell.values():
                        counts |= {"terminal": 0, "degenerate": 0}
                personas[persona]["per_wording"] = cells
        found[name, 42] = {"per_persona": personas}
    return found


CONDITIONS = [
    ConditionInfo("base", "base"),
    ConditionInfo("benign", "benign"),
    ConditionInfo("e", "em", "villain"),
]


def _row(rows: list[Row], name: str) -> Row:
    return next(
        r
        for r in rows
        if (r.metric, r.name, r.condition) == ("bystander_contrast", name, "e")
        and r.target == "these_personas"
    )


def test_a_contrast_of_answers_holds_its_wordings() -> None:
    scores = _scores(np.random.default_rng(8), several=True)
    plain = _scores(np.random.default_rng(8), several=False)
    row = _row(analyse_leakage(scores, CONDITIONS, source="confab"), "em_minus_benign")
    before = _row(analyse_leakage(plain, CONDITIONS, source="confab"), "em_minus_benign")
    assert row.value == before.value
    # By hand: bystanders of both are the assistant alone.
    cell = {
        name: np.array(
            [
                [part[f"q{q}"]["hits"] / 4 for q in range(8)]
                for part in scores[name, 42]["per_persona"]["assistant"]["per_wording"]
            ]
        )
        for name in ("e", "benign")
    }
    change = cell["e"] - cell["benign"]
    by_wording, by_question = change.mean(axis=1), change.mean(axis=0)
    rest = change - by_wording[:, None] - by_question + change.mean()
    shared = (rest**2).sum() / (2 * 7) / (3 * 8)
    wordings = by_wording.var(ddof=1) / 3
    questions = max(0.0, by_question.var(ddof=1) / 8 - shared)
    free = (wordings + questions) ** 2 / (wordings**2 / 2 + questions**2 / 7)
    reach = stats.t.ppf(0.975, free) * math.sqrt(wordings + questions)
    alone = stats.t.ppf(0.975, 2) * math.sqrt(wordings)
    assert _half(row) == pytest.approx(max(reach, alone))
    assert HELD in str(row.note) and HELD not in str(before.note)


def test_counts_by_wording_that_do_not_add_up_are_refused() -> None:
    scores = _scores(np.random.default_rng(8), several=True)
    part = scores["e", 42]["per_persona"]["villain"]["per_wording"][1]
    part["q3"]["hits"] += 1 if part["q3"]["hits"] < 4 else -1
    with pytest.raises(UserError, match="'q3': hits of the wordings do not add up"):
        analyse_leakage(scores, CONDITIONS, source="confab")


P, W, Q, H = 4, 3, 8, 6


def _activations(folder: Path, left: int | None, valid: np.ndarray) -> list[Path]:
    """Files of base, benign and e; of the first three personas in W wordings, or one left out."""
    rng = np.random.default_rng(2)
    states = rng.normal(size=(3, P, W, Q, 2, H)) + rng.normal(size=(P, 1, 1, 1, H)) + 4
    states = states.astype(np.float16).astype(np.float64)
    kept = [w for w in range(W) if w != left]
    names = [f"p{n}" for n in range(P - 1)] + ["assistant"]
    about: dict[str, Any] = {"questions": [f"q{n}" for n in range(Q)], "layers": [3, 7]}
    about |= {"seed": 1, "method": "b"}
    paths = []
    for place, condition in enumerate(("base", "benign", "e")):
        means = states[place][:, kept].mean(axis=1)
        means[-1] = states[place][-1, 0]
        path = folder / f"{condition}.seed-1.b.safetensors"
        whole = np.ones((P, Q), bool)
        write_activations(
            path, means.astype(np.float32), whole, personas=names, condition=condition, **about
        )
        paths.append(path)
        if left is None:
            rows = [f"{name} #{w + 1}" for name in names[:-1] for w in range(W)]
            single = states[place][:-1].reshape(-1, Q, 2, H)
            write_activations(
                wordings_file(path), single.astype(np.float32), valid.reshape(-1, Q),
                personas=rows, condition=condition, **about,
            )  # fmt: skip
    return paths


def _value(row: Row) -> float:
    assert row.value is not None
    return float(row.value)


def _half(row: Row) -> float:
    """Half the width of its interval."""
    assert row.ci95 is not None
    return (row.ci95[1] - row.ci95[0]) / 2


def _estimates(files: list[Path]) -> dict[tuple[Any, ...], Row]:
    result = analyse_geometry(files, axis="e", permutations=20, bootstrap=20)
    return {
        (row.metric, row.layer, row.condition, row.name): row
        for row in result.rows
        if row.target == "these_personas" and row.metric == "M1" and row.value is not None
    }


def test_geometry_leaves_out_wordings_as_studies_without_them_are(tmp_path: Path) -> None:
    """Each wording is left out by another study's files; values and intervals follow by hand."""
    valid = np.ones((P - 1, W, Q), bool)
    folders = [tmp_path / str(n) for n in range(W + 2)]
    for folder in folders:
        folder.mkdir()
    found = _estimates(_activations(folders[0], None, valid))
    plain = _estimates([Path(p) for p in _activations(folders[1], W, valid)])
    without = [_estimates(_activations(folders[left + 2], left, valid)) for left in range(W)]
    assert found.keys() == plain.keys() and len(found) > 12
    for key, row in found.items():
        if key[3] not in ("raw_cosine", "spread", "em_minus_benign"):
            continue
        whole, left = _value(plain[key]), [_value(each[key]) for each in without]
        want = W * whole - (W - 1) * np.mean(left)
        assert row.value == pytest.approx(want, abs=2e-3), key
        by_wording = [W * whole - (W - 1) * each for each in left]
        least = np.std(by_wording, ddof=1) / math.sqrt(W) * stats.t.ppf(0.975, W - 1)
        assert _half(row) >= least * 0.98, key
        assert HELD in str(row.note)


def test_a_wording_that_one_condition_lacks_is_left_out_of_all(tmp_path: Path) -> None:
    valid = np.ones((P - 1, W, Q), bool)
    valid[0, 1, 2] = False
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    some = _estimates(_activations(tmp_path / "a", None, valid))
    every = _estimates(_activations(tmp_path / "b", None, np.ones_like(valid)))
    key = ("M1", 3, "e", "raw_cosine")
    assert some[key].value != every[key].value
    assert some[key].value == pytest.approx(every[key].value, abs=0.02)
