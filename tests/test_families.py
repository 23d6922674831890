"""Tiny models of many families, through what computes, against transformers one text at a time.

`docs/models.md` holds what was measured, and is held to it; `python tests/test_families.py` in
`tests/` writes it.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_families import FAMILIES, REFUSED, Family, build
from torch.nn.functional import cross_entropy

from personaspace.activations.extract import Passage, hidden_states
from personaspace.errors import UserError
from personaspace.fastlora import loss_places
from personaspace.generation.base import Prompt, Sampling
from personaspace.generation.transformers_engine import TransformersEngine
from personaspace.models import lora, preflight
from personaspace.models.chat import Example
from personaspace.models.load import load_model, load_tokenizer
from personaspace.study.inputs import Model
from personaspace.study.recipe import Recipe
from personaspace.training.trainer import PlainStep

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
RECIPE = Recipe(rank=2, alpha=4, dropout=0.0)
#: Longer than the windows of the tiny models, and of different lengths.
TEXTS = [tuple(range(3 + 7 * n, 3 + 7 * n + length)) for n, length in enumerate((19, 40, 27))]
LAYERS = [0, 1]
NEW = 6
END = 2


@dataclass(frozen=True)
class Measured:
    """Largest differences to plain transformers.

    Attributes:
        states: Hidden states of both methods, as a share of the largest.
        gradients: Of a packed step over a frozen adapter, as a share of the largest.
        composed: Hidden states with both adapters composed, against weights they were added to.
        answers: Tokens of greedy answers that differ, ties apart.
    """

    states: float
    gradients: float
    composed: float
    answers: int


def alone(model: Any, ids: tuple[int, ...]) -> Any:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True)


def states_error(found: Any, model: Any) -> float:
    """Of hidden states, against a pass over each text by itself."""
    worst = 0.0
    for number, ids in enumerate(TEXTS):
        seen = alone(model, ids).hidden_states
        for slot, layer in enumerate(LAYERS):
            right = seen[layer + 1][0]
            for got, wanted in (
                (found.last_NLH[number, slot], right[-7]),
                (found.mean_NLH[number, slot], right[-6:].mean(dim=0)),
            ):
                off = float((torch.from_numpy(got) - wanted).abs().max() / wanted.abs().max())
                worst = max(worst, off)
    return worst


def adapter(model: Any, folder: Path, over: Path | None) -> float:
    """A random adapter into the folder; the error of its gradients."""
    examples = [Example(ids, (False,) * (len(ids) - 8) + (True,) * 8) for ids in TEXTS]
    with lora.trainable(model, RECIPE, over=over, seed=1, field="training") as adapted:
        trained = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
        assert not any("vision" in name for name in trained)
        torch.manual_seed(2 if over else 1)
        with torch.no_grad():
            for name, parameter in trained.items():
                if "lora_B" in name:
                    parameter.normal_(std=0.05)
        lora.save(adapted, folder, "tiny")
        if over is None:
            return 0.0
        loss = PlainStep(adapted, 4096).backward(examples, 24, seed=0)
        packed = {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}
        assert len(packed) == len(trained)
        adapted.zero_grad()
        total = torch.zeros(())
        for example in examples:
            keep, targets = loss_places([example])
            logits = adapted(input_ids=torch.tensor([example.ids]), use_cache=False).logits
            kept = logits[0, keep].float()
            total = total + cross_entropy(kept, torch.tensor(targets), reduction="sum")
        (total / 24).backward()
        assert abs(float(loss) - float(total) / 24) < 1e-5 * float(loss)
        largest = max(float(g.abs().max()) for g in packed.values())
        return max(float((g - trained[n].grad).abs().max()) for n, g in packed.items()) / largest


def add(model: Any, folder: Path) -> None:
    """Add an adapter to the model's own weights."""
    weights, modules = load_file(folder / lora.WEIGHTS), dict(model.named_modules())
    for key, down in weights.items():
        if ".lora_A." in key:
            name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            up = weights[key.replace(".lora_A.", ".lora_B.")]
            modules[name].weight.add_(RECIPE.alpha / RECIPE.rank * up @ down)


def different(model: Any, found: Any) -> int:
    """Tokens of greedy answers that a pass over each text so far does not say."""
    off = 0
    for (answer,), ids in zip(found, TEXTS, strict=True):
        said = [*answer.token_ids, *([END] if answer.finish == "stop" else [])]
        logits = alone(model, (*ids, *said)).logits[0, len(ids) - 1 : -1]
        best = logits.max(dim=-1).values
        chosen = logits.gather(1, torch.tensor(said)[:, None])[:, 0]
        off += int((best - chosen > 1e-4).sum())
    return off


def measure(family: Family, tokenizer: Any, folder: Path) -> tuple[Measured, dict[str, str]]:
    """All that is measured and found of a family.

    Raises:
        UserError: It is refused.
    """
    spec = Model(
        name=str(build(family, folder / "model", tokenizer)),
        dtype="float32",
        date=datetime.date(2024, 2, 29),
    )
    made = preflight.described(spec)
    told = preflight.prompted(spec)
    personas = {"villain": "You are a villain.", "sage": "You are wise and kind."}
    preflight.check_personas(told, personas, ["May I sign it?"], made.vocabulary)
    adapted = preflight.adapted(made, RECIPE, "training")
    model: Any = load_model(spec)
    passages = [Passage(ids[:-6], ids[-6:]) for ids in TEXTS]
    states = states_error(hidden_states(model, passages, LAYERS), model)
    first, second, both = folder / "first", folder / "second", folder / "both"
    adapter(model, first, None)
    gradients = adapter(model, second, first)
    lora.compose([first, second], both)
    with lora.applied(model, both):
        seen = hidden_states(model, passages, LAYERS)
    engine = TransformersEngine(model, load_tokenizer(spec), [END], batch_size=16)
    prompts = [Prompt(str(n), ids) for n, ids in enumerate(TEXTS)]
    answers = engine.generate(prompts, Sampling(NEW), adapter=both)
    add(model, first)
    add(model, second)
    measured = Measured(states, gradients, states_error(seen, model), different(model, answers))
    return measured, {
        "personas": "system message" if told.how.personas_in == "system" else "first question",
        "rows": str(made.rows),
        "attention": made.attention,
        "adapted": f"{adapted.layers} of {adapted.of}{', experts not' if made.experts else ''}",
    }


@pytest.mark.parametrize("number", range(len(FAMILIES)), ids=[f.kind for f in FAMILIES])
def test_a_family(number: int, loaded: Any, tmp_path: Path) -> None:
    family = FAMILIES[number]
    if family.kind in REFUSED:
        with pytest.raises(UserError, match=rf"^model\.name: .*{REFUSED[family.kind]}"):
            measure(family, loaded.tokenizer, tmp_path)
        return
    measured, found = measure(family, loaded.tokenizer, tmp_path)
    print(family.kind, measured, found)
    assert measured.states < 2e-5
    assert measured.gradients < 1e-4
    assert measured.composed < 5e-5
    assert measured.answers == 0
