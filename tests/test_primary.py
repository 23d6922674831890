"""The primary endpoint: decided before, registered, marked, and told first."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_verdict import ADDED, LEAK, ROSE, row, said, study
from typer.testing import CliRunner

from personaspace.analysis.power import over_runs
from personaspace.analysis.primary import marked, primary_row
from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import PrimaryInfo, RegistrationInfo
from personaspace.cli.app import app
from personaspace.report.headline import details, headline
from personaspace.study.validate import examine

MEAN: dict[str, Any] = {"measure": "raw_cosine", "against": "benign"}
PAIR = {**MEAN, "condition": "e0-assistant", "against": "e4-villain"}


def problems(primary: dict[str, Any], **spec: Any) -> list[tuple[str, str]]:
    _, found = examine({**spec, "analysis": {"primary": primary}})
    return [(problem.path.removeprefix("analysis.primary"), problem.message) for problem in found]


@pytest.mark.parametrize(
    "primary",
    [
        MEAN,
        PAIR,
        {**PAIR, "measure": "bystander"},
        {**PAIR, "measure": "displacement", "layer": 14, "method": "b"},
        {**MEAN, "condition": "benign", "against": "base"},
        {**MEAN, "condition": "e4-villain", "target": "new_personas"},
    ],
)
def test_what_is_computed_may_be_the_endpoint(primary: dict[str, Any]) -> None:
    assert problems(primary) == []


REFUSED = {
    "unknown": ({**PAIR, "against": "e9"}, ".against", "unknown condition 'e9'"),
    "itself": ({**PAIR, "against": "e0-assistant"}, "", "not compared with itself"),
    "turned": ({**PAIR, "condition": "base"}, "", "is the way round"),
    "mean less base": ({**MEAN, "against": "base"}, "", "goes with benign alone"),
    "layer": ({**PAIR, "layer": 8}, ".layer", "8 is not extracted"),
    "layer of answers": ({**PAIR, "measure": "bystander", "layer": 7}, ".layer", "has none"),
    "M3 of one run": ({**PAIR, "measure": "lda"}, ".measure", "has no test"),
    "no such measure": ({**PAIR, "measure": "M9"}, ".measure", "must be 'raw_cosine'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_endpoint_that_is_not_computed_is_refused(case: str) -> None:
    primary, path, said_of_it = REFUSED[case]
    found = problems(primary)
    assert len(found) == 1 and found[0][0] == path and said_of_it in found[0][1]


def test_m3_has_a_test_over_runs_and_a_method_must_be_extracted() -> None:
    lda = {**PAIR, "measure": "lda"}
    assert problems(lda, seeds=[1, 2]) == []
    found = problems({**PAIR, "method": "b"}, extraction={"methods": ["a"]})
    assert found == [(".method", "'b' is not extracted")]
    one = {"name": "e0-assistant", "dataset": "bad-legal-advice"}
    plain = {"name": "benign", "dataset": "instructions", "kind": "benign"}
    found = problems(MEAN, conditions=[{"name": "base"}, plain, one])
    assert len(found) == 1 and "no several EM conditions" in found[0][1]


# --- in the results and the report ---------------------------------------------------------------

INFO = PrimaryInfo(
    metric="M1", name="em_mean_minus_benign", measure="raw_cosine", against="benign", method="a",
    layer=20, target="these_personas",
)  # fmt: skip
MINE = replace(ADDED, against="benign", family="geometry_em_vs_benign", p=0.03)
OTHERS = [replace(MINE, name="em_minus_benign", condition=f"e{n}", p=0.04) for n in (0, 4)]


def with_primary(*rows: Any, info: PrimaryInfo = INFO, **more: Any) -> Results:
    results = study(*ROSE, *rows)
    return marked(results.model_copy(update={"primary": info, **more}))


def test_the_endpoint_is_a_family_of_its_own_and_the_others_are_corrected() -> None:
    found = {r.name: r for r in with_primary(MINE, *OTHERS).geometry if r.condition != "e4"}
    mine, other = found["em_mean_minus_benign"], found["em_minus_benign"]
    assert (mine.family, mine.p_holm) == ("primary", 0.03), "no correction for the others"
    assert other.p_holm == pytest.approx(0.08) and other.family == "geometry_em_vs_benign"


def test_a_pair_is_told_in_the_direction_that_was_asked() -> None:
    pair = row("raw_cosine_pair", 0.01, (0.004, 0.02), condition="e0", against="e4", p=0.02)
    asked = {"name": "raw_cosine_pair", "condition": "e4", "against": "e0"}
    results = with_primary(pair, info=INFO.model_copy(update=asked))
    found = primary_row(results)
    assert found is not None and (found.value, found.ci95) == (-0.01, (-0.02, -0.004))
    words = headline(results)
    assert (
        "e4 less e0. The answer: \u22120.010 (95\u00a0% interval \u22120.020 to \u22120.004)"
        in words
    )
    assert "a difference is shown" in words and "exploratory" in words


def test_the_verdict_begins_with_it() -> None:
    words = said(with_primary(MINE))
    assert words.split("?", 1)[1].startswith(" The language model")
    assert (
        "What was this study to find out? How alike the model's personas (roles that the" in words
    )
    assert (
        "after all trainings on harmful data together, compared with benign. The answer:" in words
    )
    assert "0.006 more (chance leaves open 0.004 to 0.009 more); a difference is shown" in words
    near = replace(MINE, value=0.0001, ci95=(-0.0003, 0.0004), p=0.3)
    assert "neither more nor less, to a thousandth (chance leaves open less than a" in said(
        with_primary(near)
    )
    unclear = said(with_primary(replace(MINE, p=0.3)))
    assert "no difference is shown, which is not that there is none" in unclear
    assert "could not be computed" in said(with_primary())
    of_marker = {
        "metric": "bystander_contrast",
        "measure": "bystander",
        "method": None,
        "layer": None,
    }
    failed = replace(LEAK, against="benign", p=None, ci95=None, status="not_assessable")
    results = with_primary(info=INFO.model_copy(update=of_marker), leakage=[failed])
    assert "cannot be assessed" in said(results)
    assert "What was this study" not in said(study(*ROSE))


def test_whether_it_was_registered_is_said() -> None:
    assert "Nothing was registered" in headline(with_primary(MINE))
    page = RegistrationInfo(source="page.md", sha256="0" * 64, digest="ab" * 32)
    words = headline(with_primary(MINE, registration=page))
    assert "page.md registers this very study (spec and data, digest abababababab)" in words
    assert any("No primary endpoint was named" in text for text in details(study(*ROSE)))


# --- the page ------------------------------------------------------------------------------------


def cli(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    return done.exit_code, done.output


def write(path: Path, **analysis: Any) -> Path:
    spec = {"model": {"name": "builtin:smollm2-135m-instruct"}, "analysis": analysis}
    path.write_text(yaml.safe_dump(spec | {"extraction": {"layers": [7, 20]}}), encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_page_registers_the_study_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(over_runs, "DRAWS", 20)  # power is not what is looked at
    spec, page = write(tmp_path / "s.yaml", primary=PAIR), tmp_path / "page.md"
    assert cli("preregister", spec, "--out", page)[0] == 0
    text = page.read_text(encoding="utf-8")
    for said_there in (
        "**e0-assistant** less **e4-villain**", "## Power", "## Exclusions", "less than 50\u202f%",
        "In plain words: how alike the model",
        "`extraction.questions`", "## Exploratory tests",
    ):  # fmt: skip
        assert said_there in text
    code, words = cli("preregister", spec, "--out", page)
    assert code == 2 and "a registration is not replaced" in words
    assert cli("validate", write(spec, primary=PAIR, registration="page.md"))[0] == 0

    other = write(spec, primary={**PAIR, "layer": 7}, registration="page.md", alpha=0.1)
    code, words = cli("validate", other)
    assert code == 2 and "analysis.registration: page.md registers another study" in words
    assert "analysis.primary.layer" in words and "analysis.alpha" in words

    page.write_text(text.replace('"rank": 32', '"rank": 16'), encoding="utf-8")
    code, words = cli("validate", write(spec, primary=PAIR, registration="page.md"))
    assert code == 2 and "was changed after it was written" in words
    page.write_text("# A page\n", encoding="utf-8")
    code, words = cli("validate", spec)
    assert code == 2 and "not a page that `personaspace preregister` wrote" in words


@pytest.mark.slow
def test_nothing_is_registered_without_an_endpoint(tmp_path: Path) -> None:
    code, words = cli("preregister", write(tmp_path / "s.yaml"))
    assert code == 2 and "analysis.primary: name the one comparison" in words
    code, words = cli("preregister", write(tmp_path / "s.yaml", primary=PAIR))
    block = words.split("```json\n")[1].split("\n```")[0]
    assert code == 0 and json.loads(block)["spec"]["analysis"]["primary"]["against"] == "e4-villain"
