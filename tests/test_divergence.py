"""Divergence of personas' answers: by scipy's, from the stage to the rows."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import jensenshannon

from personaspace.activations.divergence import jensen_shannon, text_divergences
from personaspace.analysis.divergence import FAMILY, Divergences, analyse_divergence
from personaspace.analysis.leakage import ConditionInfo
from personaspace.analysis.rows import Row
from personaspace.errors import UserError
from personaspace.pipeline import graph
from personaspace.study.load import resolve
from personaspace.study.spec import Experiment


def logs(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def test_divergence_is_scipys_distance_squared() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.full(50, 0.2), size=(2, 30))
    found = jensen_shannon(torch.tensor(p).log(), torch.tensor(q).log())
    assert found.dtype == torch.float64
    want = [jensenshannon(a, b) ** 2 for a, b in zip(p, q, strict=True)]
    assert found.numpy() == pytest.approx(want, rel=1e-9)
    other = jensen_shannon(torch.tensor(q).log(), torch.tensor(p).log())
    assert other.numpy() == pytest.approx(found.numpy(), rel=1e-12)


def test_ends_of_the_range() -> None:
    one, other = logs([0.5, 0.5, 0.0]), logs([0.0, 0.0, 1.0])
    assert float(jensen_shannon(one, other)) == pytest.approx(math.log(2))
    assert float(jensen_shannon(one, one)) == 0.0
    # Rounding of float32, of logarithms that do not quite add up to 1, is no divergence.
    log_p = torch.log_softmax(torch.randn(20, 50_000), dim=-1)
    noisy = log_p + 1e-6 * torch.randn_like(log_p)
    assert float(jensen_shannon(log_p, noisy).max()) < 1e-11


def by_scipy(model: Any, prompts: list[tuple[int, ...]], text: tuple[int, ...]) -> list[float]:
    """One sequence at a time, whole and unpadded."""
    found = []
    for prompt in prompts:
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *text]])).logits[0].double()
        found.append(torch.softmax(logits, dim=-1)[len(prompt) - 1 : -1].numpy())
    return [
        float(np.mean([jensenshannon(p, q) ** 2 for p, q in zip(a, b, strict=True)]))
        for a, b in itertools.combinations(found, 2)
    ]


@pytest.mark.parametrize("held", [1, 10_000, 1 << 27])
def test_pieces_give_what_whole_texts_give(loaded: Any, held: int) -> None:
    prompts = [(5, 6, 7, 8, 9), (9, 8), (10, 11, 12, 5)]
    text = (20, 21, 22, 23, 24, 25, 26)
    found = text_divergences(loaded.model, prompts, text, held=held)
    want = by_scipy(loaded.model, prompts, text)
    assert min(want) > 1e-5
    assert found == pytest.approx(want, rel=1e-3)


def test_not_a_number_is_told(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "personaspace.activations.divergence.log_probabilities",
        lambda model, rows: torch.full((len(rows), rows[0].length, 4), torch.nan),
    )
    with pytest.raises(UserError, match="NaN"):
        text_divergences(loaded.model, [(1, 2), (3,)], (4, 5))


# --- rows ----------------------------------------------------------------------------------------

PERSONAS = tuple(f"p{number}" for number in range(6))
CONDITIONS = (
    ConditionInfo("base", "base"),
    ConditionInfo("benign", "benign"),
    ConditionInfo("e0", "em"),
    ConditionInfo("e4", "em"),
)


def study(
    shrink: dict[str, float], seeds: tuple[int, ...] = (1,), questions: int = 20, noise: float = 0.1
) -> dict[tuple[str, int], Divergences]:
    """Pairs that differ, questions that differ, and a factor for each condition."""
    rng = np.random.default_rng(3)
    pairs = rng.uniform(0.05, 0.3, 15) * rng.uniform(0.5, 1.5, (questions, 1))
    return {
        (name, seed): Divergences(
            PERSONAS,
            {
                f"q{q}": list(factor * row * (1 + noise * rng.normal(size=15)))
                for q, row in enumerate(pairs)
            },
        )
        for name, factor in shrink.items()
        for seed in seeds
    }


def analysed(found: Any, **more: Any) -> dict[tuple[str | None, ...], Row]:
    rows = analyse_divergence(found, CONDITIONS, **more)
    return {(row.name, row.condition, row.target): row for row in rows}


def test_means_and_changes_over_questions() -> None:
    found = study({"base": 1.0, "benign": 0.8, "e0": 0.5, "e4": 0.5})
    rows = analysed(found)
    mean = {
        name: np.array([np.mean(pairs) for pairs in run.pairs.values()])
        for (name, _), run in found.items()
    }
    row = rows["common_answers", "e0", "these_personas"]
    assert row.value == pytest.approx(mean["e0"].mean())
    assert row.base == pytest.approx(mean["base"].mean())
    test = stats.ttest_rel(mean["e0"], mean["base"])
    assert row.p == pytest.approx(test.pvalue) and row.run_variation is False
    assert row.family == FAMILY and row.p_bh is not None and "Shows how far apart" in str(row.note)
    change = rows["common_answers_delta", "e0", "these_personas"]
    assert change.ci95 == pytest.approx(tuple(test.confidence_interval()))
    added = rows["common_answers_em_minus_benign", "e0", "these_personas"]
    assert added.value == pytest.approx((mean["e0"] - mean["benign"]).mean())
    wider = rows["common_answers_delta", "e0", "new_personas"]
    assert wider.ci95 and change.ci95 and wider.ci95[0] < change.ci95[0]
    pair = rows["common_answers_pair", "e0", "these_personas"]
    assert pair.against == "e4" and (pair.p or 0) > 0.01


def test_several_runs_are_the_units() -> None:
    found = study({"base": 1.0, "benign": 0.8, "e0": 0.5}, seeds=(1, 2, 3), noise=0.01)
    for number, factor in enumerate((0.7, 1.0, 1.3), 1):
        run = found["e0", number]
        scaled = {q: [factor * v for v in pairs] for q, pairs in run.pairs.items()}
        found["e0", number] = Divergences(PERSONAS, scaled)
    row = analysed(found)["common_answers", "e0", "these_personas"]
    means = [np.mean([*found["e0", seed].pairs.values()]) for seed in (1, 2, 3)]
    assert row.run_variation and row.n == 3 and row.value == pytest.approx(np.mean(means))
    assert row.ci95
    wide = stats.t.ppf(0.975, 2) * np.std(means, ddof=1) / math.sqrt(3)
    # Questions add to what runs bring.
    assert (row.ci95[1] - row.ci95[0]) / 2 >= 0.8 * wide


def test_questions_of_a_theme_are_one_sample_and_estimates_stay() -> None:
    found = study({"base": 1.0, "e0": 0.5})
    themes = {f"q{q}": f"theme {q // 4}" for q in range(20)}
    plain, themed = analysed(found), analysed(found, themes=themes)
    key = ("common_answers_delta", "e0", "these_personas")
    assert themed[key].value == pytest.approx(plain[key].value)
    assert themed[key].ci95 != plain[key].ci95


def test_what_is_missing_is_left_out_and_too_little_is_told() -> None:
    found = study({"base": 1.0, "e0": 0.5}, seeds=(1, 2))
    del found["base", 2]
    assert analysed(found)["common_answers", "e0", "these_personas"].n == 1
    short = {key: Divergences(PERSONAS, {"q0": run.pairs["q0"]}) for key, run in found.items()}
    (row,) = analyse_divergence(short, CONDITIONS)
    assert row.value is None and "two questions" in str(row.note)
    assert analyse_divergence({}, CONDITIONS) == []
    assert analyse_divergence({("base", 1): found["base", 1]}, CONDITIONS) == []


def test_two_personas_are_one_pair() -> None:
    found = {
        (name, 1): Divergences(("a", "b"), {f"q{q}": [value + 0.01 * q * value] for q in range(9)})
        for name, value in (("base", 0.2), ("e0", 0.1))
    }
    rows = analysed(found)
    assert {target for _, _, target in rows} == {"these_personas"}
    assert rows["common_answers", "e0", "these_personas"].value == pytest.approx(0.104)


# --- the stage -----------------------------------------------------------------------------------


def test_the_field_is_in_the_fingerprint_where_it_is_on(study_dict: dict[str, Any]) -> None:
    def prints(log_odds: dict[str, Any]) -> dict[str, str]:
        values = {**study_dict, "log_odds": log_odds}
        study = resolve(Experiment.model_validate(values), Path("/nowhere"))
        made = graph.fingerprints(study, graph.build(study))
        return {node.id: made[node] for node in made}

    off, on = prints({}), prints({"divergence": True})
    assert off == prints({"divergence": False})
    changed = {node.split(":")[0] for node in off if off[node] != on[node]}
    assert changed == {"logodds", "aggregate", "report"}
