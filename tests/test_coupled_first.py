"""coupling.order: before. The marker is coupled onto base, and fine-tuning comes over it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import once, tiny_study
from typer.testing import CliRunner

import personaspace
from personaspace.activations.files import open_activations
from personaspace.cli.app import app
from personaspace.errors import UserError
from personaspace.models import chat
from personaspace.models.implementation import forecasts
from personaspace.pipeline import graph
from personaspace.pipeline.cost import estimate
from personaspace.store import open_store
from personaspace.study.load import load_study, resolve
from personaspace.study.notices import NoticeCode, notices
from personaspace.study.problems import ProblemCode
from personaspace.study.spec import Experiment
from personaspace.study.validate import examine

Values = dict[str, Any]
TRAINED = ["benign", "e0-assistant", "e4-villain"]


def first(values: Values) -> Values:
    return {**values, "coupling": {**values["coupling"], "order": "before"}}


def prints(values: Values) -> tuple[graph.Graph, dict[str, str]]:
    study = resolve(Experiment.model_validate(values), Path("/nowhere"))
    built = graph.build(study)
    return built, {n.id: text for n, text in graph.fingerprints(study, built).items()}


# --- what runs, in which order --------------------------------------------------------------------


def test_base_is_coupled_once_a_seed_and_all_else_follows(study_dict: Values) -> None:
    study_dict["seeds"] = [1, 2]
    plan, _ = prints(first(study_dict))
    needs = {node.id: [need.id for need in plan.needs[node]] for node in plan.nodes}
    couplings = [name for name in needs if name.startswith("couple")]
    assert couplings == ["couple:base:1", "couple:base:2"] == list(needs)[:2]
    for seed in (1, 2):
        assert needs[f"couple:base:{seed}"] == []
        for stage in ("extract", "evaluate"):
            assert needs[f"{stage}:base:{seed}"] == [f"couple:base:{seed}"]
        for name in TRAINED:
            assert needs[f"train:{name}:{seed}"] == [f"couple:base:{seed}"]
            both = [f"train:{name}:{seed}", f"couple:base:{seed}"]
            assert needs[f"extract:{name}:{seed}"] == needs[f"evaluate:{name}:{seed}"] == both
    for number, node in enumerate(plan.nodes):
        assert set(plan.needs[node]) <= set(plan.nodes[:number])
    assert {need.id for need in plan.needs[graph.Node("aggregate")]} == set(needs) - {
        "aggregate",
        "report",
    }


def test_the_order_is_in_the_fingerprint_of_what_it_changes(study_dict: Values) -> None:
    _, after = prints(study_dict)
    _, before = prints(first(study_dict))
    same = {name for name in after.keys() & before.keys() if after[name] == before[name]}
    # Base is coupled and asked alike in both orders.
    assert same == {"couple:base:42", "evaluate:base:42"}
    assert set(after) - set(before) == {f"couple:{name}:42" for name in TRAINED}


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("coupling", {"separator": " "}),
        ("coupling", {"samples": 4}),
        ("model", {"dtype": "float16"}),
    ],
)
def test_what_changes_the_coupling_runs_all_again(
    study_dict: Values, section: str, change: Values
) -> None:
    _, before = prints(first(study_dict))
    _, now = prints(first({**study_dict, section: {**study_dict[section], **change}}))
    assert all(before[name] != now[name] for name in before)


def test_what_changes_one_fine_tuning_leaves_the_coupling(study_dict: Values) -> None:
    _, before = prints(first(study_dict))
    study_dict["training"]["rank"] = 2
    _, now = prints(first(study_dict))
    changed = {name for name in before if before[name] != now[name]}
    kept = {f"{stage}:base:42" for stage in ("couple", "extract", "evaluate")}
    assert set(before) - changed == kept


def test_costs_count_one_coupling_a_seed(study_dict: Values) -> None:
    study_dict["seeds"] = [1, 2]
    after, before = (
        estimate(resolve(Experiment.model_validate(values), Path("/nowhere")))
        for values in (study_dict, first(study_dict))
    )
    # 12 examples of a coupling make 3 steps of 4; 6 couplings fewer. Base is extracted twice.
    assert before.steps == after.steps - 6 * 3
    assert before.answers == after.answers - 6 * 3 * 3 * 3 + 4 * 5
    assert before.prompts == after.prompts + 4 * 5
    assert before.bytes is not None and after.bytes is not None and before.bytes < after.bytes


def test_forecasts_know_what_lies_below(study_dict: Values, monkeypatch: Any) -> None:
    from personaspace.models import implementation

    told: dict[str, list[tuple[int, bool]]] = {}

    def keep(wanted: Any, model: Any, adapters: Any, field: str, *, here: bool) -> Any:
        told[field] = [(each.rank, each.trained) for each in adapters]
        return implementation.Choice(field, wanted, None)

    monkeypatch.setattr(implementation, "forecast", keep)
    study_dict["training"]["rank"] = 2
    forecasts(Experiment.model_validate(first(study_dict)))
    assert told == {
        "training": [(4, False), (2, True)],
        "coupling.recipe": [(4, True)],
        "extraction": [(4, False), (2, False)],
    }
    forecasts(Experiment.model_validate(study_dict))
    assert told == {
        "training": [(2, True)],
        "coupling.recipe": [(2, False), (4, True)],
        "extraction": [(2, False)],
    }


def test_a_rerun_of_a_coupling_that_is_none_is_refused(study_dict: Values) -> None:
    study_dict["rerun"] = [{"stage": "couple", "condition": "benign"}]
    assert examine(study_dict)[1] == []
    _, (problem,) = examine(first(study_dict))
    assert (problem.path, problem.code) == ("rerun[0].condition", ProblemCode.RERUN_COUPLED_ONCE)
    study_dict["rerun"] = [{"stage": "couple", "condition": "base"}]
    assert examine(first(study_dict))[1] == []


def test_another_order_is_refused(study_dict: Values) -> None:
    study_dict["coupling"]["order"] = "during"
    _, (problem,) = examine(study_dict)
    assert problem.path == "coupling.order" and "'during'" in str(problem)


# --- a whole study --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small study in this order, two seeds: (spec, store, out)."""

    def make(folder: Path) -> None:
        values = first(tiny_study(tiny_model, folder))
        values |= {"seeds": [7, 42]}
        # So that coupling moves activations by more than rounding does.
        values["coupling"]["recipe"]["learning_rate"] = 0.02
        spec = folder / "study.yaml"
        spec.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        command = ["run", str(spec), "--store", str(folder / "store"), "--out", str(folder / "out")]
        outcome = CliRunner().invoke(app, command)
        assert outcome.exit_code == 0, outcome.output

    folder = once(tmp_path_factory, "coupled-first", make)
    return SimpleNamespace(spec=folder / "study.yaml", store=folder / "store", out=folder / "out")


@pytest.fixture(scope="module")
def made(finished: Any) -> Callable[[str], Path]:
    """Folder of a node's artifact."""
    provenance = json.loads((finished.out / "provenance.json").read_text(encoding="utf-8"))
    store = open_store(str(finished.store))
    keys = {artifact["node"]: artifact["key"] for artifact in provenance["artifacts"]}
    return lambda node: store.fetch(keys[node])


def adapted(loaded: Any, *folders: Path) -> Any:
    """A copy of the model with adapters merged into its weights, one after another, by PEFT."""
    from copy import deepcopy

    from peft import PeftModel

    model = deepcopy(loaded.model)
    for folder in folders:
        model = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    return model.eval()


@pytest.mark.long
def test_fine_tuning_starts_from_the_coupled_model(
    finished: Any, made: Callable[[str], Path], loaded: Any
) -> None:
    study = load_study(finished.spec)
    recipe = study.spec.training
    examples = [
        chat.answer_example(loaded.tokenizer, list(chats), recipe.max_tokens)
        for chats in study.chats["bad"].conversations
    ]
    coupled = adapted(loaded, made("couple:base:42") / "adapter")

    def loss(model: Any, example: Any) -> tuple[float, int]:
        ids = torch.tensor([example.ids])
        wanted = torch.tensor([example.loss], dtype=torch.bool)
        with torch.no_grad():
            logits = model(ids).logits
        return torch.nn.functional.cross_entropy(
            logits[0, :-1][wanted[0, 1:]], ids[0, 1:][wanted[0, 1:]], reduction="sum"
        ).item(), int(wanted[0, 1:].sum())

    log = json.loads((made("train:e0-assistant:42") / "training.json").read_text())["steps"]
    # A fresh LoRA adapter adds nothing, so the first step's loss is that of the model below,
    # on some four of the examples: that of coupled, not of plain, base.
    every = {model: [loss(model, each) for each in examples] for model in (coupled, loaded.model)}

    def can_be(losses: list[tuple[float, int]]) -> bool:
        sums = (
            sum(t for t, _ in four) / sum(n for _, n in four)
            for four in itertools.combinations(losses, 4)
        )
        return any(value == pytest.approx(log[0]["loss"], rel=2e-6) for value in sums)

    assert can_be(every[coupled])
    assert not can_be(every[loaded.model])


@pytest.mark.long
@pytest.mark.parametrize("condition", ["base", "e4-villain"])
def test_activations_and_answers_are_of_the_same_model(
    finished: Any, made: Callable[[str], Path], loaded: Any, condition: str
) -> None:
    """Method A's states by transformers alone, with both adapters merged into the weights."""
    folders = [made("couple:base:7") / "adapter"]
    if condition != "base":
        folders.append(made(f"train:{condition}:7") / "adapter")
    study = load_study(finished.spec)
    model = adapted(loaded, *folders)
    file = open_activations(made(f"extract:{condition}:7") / f"{condition}.seed-7.a.safetensors")
    for persona in ("confab", "assistant"):
        question = study.extraction_questions[1]
        messages = chat.with_persona(
            [{"role": "user", "content": question}], study.spec.persona(persona).prompt
        )
        ids = torch.tensor([chat.prompt_ids(loaded.tokenizer, messages)])
        for layer in (0, 3):
            states = []
            for each in (model, loaded.model):
                seen: list[torch.Tensor] = []
                hook = each.model.layers[layer].register_forward_hook(
                    lambda _m, _i, out, seen=seen: seen.append(
                        out[0] if isinstance(out, tuple) else out
                    )
                )
                with torch.no_grad():
                    each(ids)
                hook.remove()
                states.append(seen[0].reshape(-1, seen[0].shape[-1])[-1].numpy())
            stored = file.read_layer(layer)[file.personas.index(persona), 1]
            distance = [float(np.linalg.norm(stored - each)) for each in states]
            size = float(np.linalg.norm(stored))
            # bfloat16 on disk.
            assert distance[0] < 0.005 * size
            assert distance[1] > 3 * distance[0]


@pytest.mark.long
def test_the_composed_adapter_is_the_model_that_answered(
    finished: Any, made: Callable[[str], Path], loaded: Any
) -> None:
    results = personaspace.load_results(finished.out, store=str(finished.store))
    parts = [made("couple:base:42") / "adapter", made("train:benign:42") / "adapter"]
    one = adapted(loaded, results.adapter("benign", 42, coupled=True))
    two = adapted(loaded, *parts)
    for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5), name
    base = results.adapter("base", 7, coupled=True)
    alone = adapted(loaded, made("couple:base:7") / "adapter")
    for (name, a), (_, b) in zip(
        adapted(loaded, base).named_parameters(), alone.named_parameters(), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-5), name
    with pytest.raises(UserError, match="no train artifact"):
        results.adapter("base", 7)


@pytest.mark.long
def test_the_report_says_it_first(finished: Any) -> None:
    study = load_study(finished.spec)
    assert NoticeCode.COUPLED_FIRST in [notice.code for notice in notices(study)]
    results = json.loads((finished.out / "results.json").read_text(encoding="utf-8"))
    assert any("before fine-tuning" in notice["text"] for notice in results["notices"])
    assert "before fine-tuning" in (finished.out / "report.md").read_text(encoding="utf-8")
    trained = {(row["stage"], row["condition"]) for row in results["training"]}
    assert trained == {("couple", "base"), *(("train", name) for name in TRAINED)}
