"""Themes of questions: read from their file, and then the samples of every test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from personaspace.activations.files import write_activations
from personaspace.analysis.caveats import CaveatCode, caveats
from personaspace.analysis.geometry import analyse_geometry
from personaspace.analysis.geometry.cells import Cell
from personaspace.analysis.leakage.scores import tabulate, with_themes
from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import QuestionsInfo, StudyCondition
from personaspace.analysis.stats import cluster_mean
from personaspace.analysis.themes import by_theme, of_one_theme, places_of, shuffled_hits, widening
from personaspace.errors import UserError
from personaspace.study import sources

RNG = np.random.default_rng(3)


def test_values_by_theme_have_the_questions_mean_and_the_cluster_variance() -> None:
    values, places = RNG.normal(size=(3, 12)), np.repeat([0, 1, 2, 3], 3)
    themed = by_theme(values, places)
    assert themed == pytest.approx(values.reshape(3, 4, 3).mean(axis=2))
    # t over four theme means, by another library.
    want = scipy_stats.ttest_1samp(values[0].reshape(4, 3).mean(axis=1), 0)
    assert cluster_mean(themed[0]).p == pytest.approx(want.pvalue)
    assert pytest.approx(themed) == by_theme(values.T, places, axis=0).T
    assert by_theme(values, None) is values


def test_unequal_themes_keep_the_mean_and_have_the_sandwich_variance_enlarged() -> None:
    statsmodels = pytest.importorskip("statsmodels.api")
    values, places = RNG.normal(size=15), np.repeat([0, 1, 2, 3], [1, 2, 4, 8])
    themed = by_theme(values, places)
    assert themed.mean() == pytest.approx(values.mean())
    fit = statsmodels.OLS(values, np.ones(15)).fit(
        cov_type="cluster", cov_kwds={"groups": places, "use_correction": False}
    )
    plain = fit.bse[0] * np.sqrt(4 / 3)
    assert cluster_mean(themed).se == pytest.approx(plain * widening(np.array([1.0, 2, 4, 8])))
    assert widening(np.array([3.0, 3, 3])) == 1
    assert widening(np.array([1.0, 2, 4, 8])) > 1.2


def _listed(questions: list[str], themes: dict[str, str]) -> list[int] | None:
    places = places_of(questions, themes)
    return None if places is None else places.tolist()


def test_a_question_without_theme_is_one_of_its_own_and_one_theme_is_none() -> None:
    themes = {"a": "x", "b": "x", "c": "y"}
    assert _listed(["d", "a", "b", "c"], themes) == [0, 1, 1, 2]
    assert _listed(["a", "b"], themes) is None and of_one_theme(["a", "b"], themes)
    assert _listed(["a", "c"], themes) is None and not of_one_theme(["a", "c"], themes)
    # A theme that is called as a question without one is another.
    assert _listed(["x", "a", "b"], themes) == [0, 1, 1]
    assert _listed(["a", "b", "c"], {}) is None


def test_a_cell_by_theme_keeps_its_persona_vectors_with_questions_missing() -> None:
    states = RNG.normal(size=(2, 3, 10, 5)).astype(np.float32)
    valid = np.ones((3, 10), dtype=bool)
    valid[0, [1, 2]] = valid[1, 6:] = False
    states[:, ~valid] = 0
    means = states.sum(axis=2, dtype=np.float64) / valid.sum(axis=1)[:, None]
    names = ("base", "e0"), ("a", "b", "c")
    cell = Cell("a", 0, 1, *names, states, valid, means)
    themed = cell.by_theme(np.repeat([0, 1, 2, 3], [3, 3, 2, 2]))
    assert themed.states.shape == (2, 3, 4, 5)
    assert np.array_equal(themed.valid, [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]])
    back = themed.states.sum(axis=2) / themed.valid.sum(axis=1)[:, None]
    assert back == pytest.approx(means, abs=1e-5)
    assert not themed.states[:, ~themed.valid].any()


def test_hits_of_shuffled_personas_are_counted_theme_by_theme() -> None:
    true, guess, theme = (RNG.integers(0, n, size=60) for n in (4, 4, 3))
    names = RNG.permuted(np.tile(np.arange(4, dtype=np.int16), (7, 3, 1)), axis=2)
    want = [(draw[theme, true] == guess).sum() for draw in names]
    assert list(shuffled_hits(true, guess, theme, names)) == want


def test_files_name_themes_by_entry_or_by_group(tmp_path: Path) -> None:
    rows = [
        {"theme": "sea", "questions": ["One?", "Two?"]},
        {"question": "Three?", "theme": " sky "},
    ]
    (tmp_path / "q.json").write_text(json.dumps([*rows, "Four?"]))
    asked = sources.read_asked("q.json", tmp_path)
    assert asked.texts == ["One?", "Two?", "Three?", "Four?"]
    assert asked.themes == {"One?": "sea", "Two?": "sea", "Three?": "sky"}
    assert sources.read_asked("q.json", tmp_path, 1).themes == {"One?": "sea"}
    packaged = sources.read_asked("builtin:questions-extraction", tmp_path)
    assert len(packaged.texts) == 240 and len(set(packaged.themes.values())) == 24


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"theme": 3, "question": "A?"}, "theme is not a text"),
        ({"theme": " ", "question": "A?"}, "theme is not a text"),
        ({"theme": "sea", "questions": "A?"}, "theme 'sea': needs a list of questions"),
        ({"theme": "sea", "questions": ["A?"], "id": 1}, "and nothing else"),
        ({"theme": "sea", "questions": [1]}, "question 1 is not a text"),
    ],
)
def test_malformed_themes_are_named(tmp_path: Path, row: Any, said: str) -> None:
    (tmp_path / "q.json").write_text(json.dumps([row]))
    with pytest.raises(UserError, match=said):
        sources.read_asked("q.json", tmp_path)


def test_rates_and_counts_are_those_of_themes() -> None:
    per_question = {f"q{i}": {"hits": i, "total": 10} for i in range(4)}
    counts = {"hits": 6, "total": 40, "per_question": per_question}
    scores = {("e0", 1): {"per_persona": {"a": counts}}}
    themes = {"q0": "x", "q1": "x", "q2": "y", "q3": "y"}
    table = tabulate(with_themes(scores, themes), ["e0"])
    assert table is not None and table.samples == 2
    assert table.rates[0, 0] == pytest.approx([0.05, 0.25])
    assert [list(part) for part in table.counts] == [[1, 5], [20, 20]]
    plain = tabulate(with_themes(scores, None), ["e0"])
    assert plain is not None and plain.samples == 4


def _written(folder: Path, questions: list[str]) -> list[Path]:
    paths = []
    shared = RNG.normal(size=(4, 1, 1, 8))
    for name in ("base", "benign", "e0-assistant", "e1"):
        moved = 0.3 * RNG.normal(size=(1, len(questions) // 3, 1, 8)).repeat(3, axis=1)
        states = 3 + shared + moved + RNG.normal(size=(4, len(questions), 1, 8))
        path = folder / f"{name}.seed-1.a.safetensors"
        write_activations(
            path,
            states.astype(np.float16),
            np.ones((4, len(questions)), dtype=bool),
            personas=["assistant", "b", "c", "d"],
            questions=questions,
            layers=[0],
            condition=name,
            seed=1,
            method="a",
        )
        paths.append(path)
    return paths


@pytest.mark.long
@pytest.mark.slow
def test_themes_change_intervals_and_not_what_is_published(tmp_path: Path) -> None:
    questions = [f"Question {i}?" for i in range(18)]
    files = _written(tmp_path, questions)
    draws: dict[str, Any] = {"permutations": 50, "bootstrap": 10}
    plain = analyse_geometry(files, **draws)
    themed = analyse_geometry(
        files, themes={q: f"t{i // 3}" for i, q in enumerate(questions)}, **draws
    )
    one = analyse_geometry(files, themes=dict.fromkeys(questions, "t"), **draws)
    apart = analyse_geometry(files, themes={q: q for q in questions}, **draws)
    assert one.rows == plain.rows == apart.rows
    key = [(r.metric, r.variant, r.name, r.condition, r.target) for r in plain.rows]
    assert key == [(r.metric, r.variant, r.name, r.condition, r.target) for r in themed.rows]
    for before, after in zip(plain.rows, themed.rows, strict=True):
        if before.variant == "published":
            assert before == after
    spread = [r for r in themed.rows if (r.name, r.condition) == ("lda_above_chance", "e1")]
    assert [r.n for r in spread] == [6]
    two = analyse_geometry(
        files, themes={q: f"t{i // 9}" for i, q in enumerate(questions)}, **draws
    )
    assert any("fewer than two questions (or themes" in note for note in two.notes)


def test_few_themes_one_and_missing_ones_are_said() -> None:
    asked = [
        QuestionsInfo(stage="extraction", count=12, themes=1),
        QuestionsInfo(stage="evaluation", count=12, themes=5, unthemed=2),
        QuestionsInfo(stage="judge", count=12),
    ]
    results = Results(
        study="s", conditions=[StudyCondition(name="base", kind="base")], questions=asked
    )
    texts = [c.text for c in caveats(results, set()) if c.code is CaveatCode.THEMES]
    assert "one theme" in texts[0] and "5 themes" in texts[1] and "2 have no theme" in texts[2]
    assert texts[3].startswith("The 12 questions of the judge name no themes")
    quiet = results.model_copy(
        update={"questions": [QuestionsInfo(stage="extraction", count=9, themes=9)]}
    )
    assert not [c for c in caveats(quiet, set()) if c.code is CaveatCode.THEMES]
