"""What computes, fused or transformers' own code: chosen, foreseen, refused and recorded."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from personaspace import fastlora
from personaspace.activations.extract import Passage, hidden_states
from personaspace.errors import UserError
from personaspace.fastlora import ObstacleCode, obstacles
from personaspace.models import lora
from personaspace.models.implementation import Taken, choose, forecast, forecasts, planned
from personaspace.study.base_model import SMOLLM2
from personaspace.study.inputs import Model
from personaspace.study.recipe import Recipe
from personaspace.study.spec import Experiment
from personaspace.training.plain import PlainStep
from personaspace.training.trainer import step_engine

RECIPE = Recipe(rank=16, alpha=32, batch_size=2)


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine speaks against fused."""
    monkeypatch.setattr(obstacles, "_of_machine", lambda _: None)


@pytest.fixture(scope="module")
def half(loaded: Any) -> Any:
    return copy.deepcopy(loaded.model).to(torch.bfloat16)


def test_a_loaded_model_decides(half: Any, a_gpu: None) -> None:
    assert choose("auto", half, "training").taken is Taken.FUSED
    assert choose("fused", half, "training").taken is Taken.FUSED
    asked = choose("reference", half, "training")
    assert asked.taken is Taken.REFERENCE and asked.reason == "as the study says"


def test_where_fused_cannot_run(half: Any, loaded: Any) -> None:
    chosen = choose("auto", half, "training")
    assert chosen.taken is Taken.REFERENCE
    assert chosen.obstacle is not None and chosen.obstacle.code is ObstacleCode.NO_GPU
    with pytest.raises(UserError) as caught:
        choose("fused", loaded.model, "coupling.recipe")
    assert str(caught.value) == (
        f"coupling.recipe.implementation: fused cannot run {loaded.spec.name}: "
        "the model is in float32, not in 16 bits"
    )


@pytest.mark.slow
def test_the_trainer_and_hidden_states_do_as_they_are_told(loaded: Any, half: Any) -> None:
    from made_examples import random_examples

    passages = [Passage((5, 6, 7), (8,))]
    with lora.trainable(half, RECIPE, over=None, seed=1, field="training") as model:
        assert isinstance(step_engine(model, random_examples(2), RECIPE), PlainStep)
        fused = RECIPE.model_copy(update={"implementation": "fused"})
        with pytest.raises(UserError, match=r"^coupling.recipe.implementation: .* no GPU$"):
            step_engine(model, random_examples(2), fused, "coupling.recipe")
    assert hidden_states(loaded.model, passages, [0]).taken is Taken.REFERENCE
    with pytest.raises(UserError, match=r"^extraction.implementation: .* float32"):
        hidden_states(loaded.model, passages, [0], wanted="fused")


def test_reference_is_taken_where_fused_could_run(
    half: Any, a_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from made_examples import random_examples

    passages = [Passage((5, 6, 7), (8,))]
    with lora.trainable(half, RECIPE, over=None, seed=1, field="training") as model:
        assert not isinstance(step_engine(model, random_examples(2), RECIPE), PlainStep)
        plain = RECIPE.model_copy(update={"implementation": "reference"})
        assert isinstance(step_engine(model, random_examples(2), plain), PlainStep)
    assert hidden_states(half, passages, [0]).taken is Taken.FUSED

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("fused")

    monkeypatch.setattr(fastlora, "hidden_states", never)
    assert hidden_states(half, passages, [0], wanted="reference").taken is Taken.REFERENCE


def test_a_forecast_needs_no_weights(loaded: Any, tmp_path: Path, a_gpu: None) -> None:
    (tmp_path / "config.json").write_bytes((Path(loaded.spec.name) / "config.json").read_bytes())
    model = Model(name=str(tmp_path), dtype="bfloat16")
    found = forecast("auto", model, planned(RECIPE), "training", here=True)
    assert found.taken is Taken.FUSED and found.reason == "the faster way"
    odd = planned(RECIPE.model_copy(update={"rank": 12}))
    found = forecast("auto", model, odd, "training", here=False)
    assert found.taken is Taken.REFERENCE and found.obstacle is not None
    assert found.obstacle.code is ObstacleCode.RANK and found.reason == found.obstacle.text
    with pytest.raises(UserError, match="no kernels for rank 12"):
        forecast("fused", model, odd, "training", here=False)


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-7B-Instruct", SMOLLM2])
def test_this_machine_does_not_decide_for_another(name: str) -> None:
    model = Model(name=name)
    elsewhere = forecast("auto", model, planned(RECIPE), "training", here=False)
    assert elsewhere.taken is None
    assert elsewhere.reason == "decided on the machine that runs it (here: there is no GPU)"
    asked = forecast("fused", model, planned(RECIPE), "training", here=False)
    assert asked.taken is Taken.FUSED and "not on this machine" in asked.reason
    here = forecast("auto", model, planned(RECIPE), "training", here=True)
    assert here.taken is Taken.REFERENCE
    with pytest.raises(UserError, match="there is no GPU"):
        forecast("fused", model, planned(RECIPE), "training", here=True)


def test_a_model_that_is_not_here_is_not_judged() -> None:
    model = Model(name="somebody/something")
    assert forecast("auto", model, [], "training", here=True).taken is None
    assert forecast("fused", model, [], "training", here=True).taken is Taken.FUSED


def test_every_part_of_a_study_is_foreseen(a_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = Experiment.model_validate({"extraction": {"implementation": "reference"}})
    found = {each.field: each.taken for each in forecasts(spec)}
    fused = Taken.FUSED
    assert found == {
        "training": fused, "coupling.recipe": fused, "extraction": Taken.REFERENCE,
    }  # fmt: skip
    # A marker trained on the queries alone, over an adapter of all seven projections.
    narrow = Experiment.model_validate({"coupling": {"recipe": {"targets": ["q_proj"]}}})
    found = {each.field: each.taken for each in forecasts(narrow)}
    assert found == {"training": fused, "coupling.recipe": Taken.REFERENCE, "extraction": fused}
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert [each.taken for each in forecasts(spec)] == [None, None, Taken.REFERENCE]
