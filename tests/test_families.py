"""Tiny models of many families, through what computes, against transformers one text at a time.

`docs/models.md` is held to what is measured here; `python tests/test_families.py` writes it.
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_tiny_model
from safetensors.torch import load_file
from tiny_families import FAMILIES, REFUSED, Family, build, config_of
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from personaspace import fastlora
from personaspace.activations.extract import Passage, hidden_states
from personaspace.errors import UserError
from personaspace.fastlora import ObstacleCode, loss_places, training_step
from personaspace.fastlora.obstacles import computation_obstacle
from personaspace.generation.base import Prompt, Sampling
from personaspace.generation.transformers_engine import TransformersEngine
from personaspace.models import lora, preflight
from personaspace.models.architecture import Rows
from personaspace.models.chat import Example
from personaspace.models.load import load_model, load_tokenizer
from personaspace.study.adapters import WEIGHTS
from personaspace.study.inputs import Model
from personaspace.study.recipe import Recipe
from personaspace.training import packing
from personaspace.training.plain import PlainStep

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
        fused: The larger of both with the fused path; None: it does not compute the family.
        composed: Hidden states with both adapters composed, against weights they were added to.
        answers: Tokens of greedy answers that differ, ties apart.
    """

    states: float
    gradients: float
    fused: float | None
    composed: float
    answers: int

    def cells(self) -> list[str]:
        """For the page: three times as much, which other machines stay below as well."""
        errors = (self.states, self.gradients, self.fused, self.composed)
        said = [
            "–" if error is None else f"{3 * error:.0e}".replace("e-0", "e-") for error in errors
        ]
        return [*said, "the same" if self.answers == 0 else f"{self.answers} tokens differ"]


def alone(model: Any, ids: tuple[int, ...]) -> Any:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True)


def states_error(last_NLH: Any, mean_NLH: Any, model: Any) -> float:
    """Of hidden states, against a pass over each text by itself."""
    worst = 0.0
    for number, ids in enumerate(TEXTS):
        seen = alone(model, ids).hidden_states
        for slot, layer in enumerate(LAYERS):
            right = seen[layer + 1][0]
            for got, wanted in (
                (last_NLH[number, slot], right[-7]),
                (mean_NLH[number, slot], right[-6:].mean(dim=0)),
            ):
                off = float((torch.from_numpy(got) - wanted).abs().max() / wanted.abs().max())
                worst = max(worst, off)
    return worst


def one_by_one(adapted: Any, examples: Sequence[Example]) -> float:
    """Mean loss over the tokens with loss, a text at a time; leaves its gradients."""
    total, tokens = torch.zeros(()), 0
    for example in examples:
        keep, targets = loss_places([example])
        logits = adapted(input_ids=torch.tensor([example.ids]), use_cache=False).logits
        kept = logits[0, keep].float()
        total = total + cross_entropy(kept, torch.tensor(targets), reduction="sum")
        tokens += len(targets)
    (total / tokens).backward()
    return float(total.detach()) / tokens


def step_error(adapted: Any, engine: Any) -> float:
    """Of an engine's gradients, against a text at a time, as a share of the largest."""
    examples = [Example(ids, (False,) * (len(ids) - 8) + (True,) * 8) for ids in TEXTS]
    trained = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    loss = engine.backward(examples, 24, seed=0)
    packed = {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}
    assert len(packed) == len(trained)
    adapted.zero_grad()
    wanted = one_by_one(adapted, examples)
    assert abs(float(loss) - wanted) < 1e-5 * wanted
    largest = max(float(g.abs().max()) for g in packed.values())
    apart = max(float((g - trained[n].grad).abs().max()) for n, g in packed.items())
    adapted.zero_grad()
    return apart / largest


@contextmanager
def trainable(model: Any, over: Path | None) -> Iterator[Any]:
    """A random adapter that trains, over a frozen one."""
    with lora.trainable(model, RECIPE, over=over, seed=1, field="training") as adapted:
        torch.manual_seed(2 if over else 1)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if parameter.requires_grad and "lora_B" in name:
                    parameter.normal_(std=0.05)
        yield adapted


def adapter(model: Any, folder: Path, over: Path | None) -> tuple[float, float | None]:
    """A random adapter into the folder; errors of its gradients, plain and fused."""
    with trainable(model, over) as adapted:
        assert not any("vision" in n for n, p in adapted.named_parameters() if p.requires_grad)
        lora.save(adapted, folder, "tiny")
        if over is None:
            return 0.0, None
        plain = step_error(adapted, PlainStep(adapted, 4096))
        if (unable := computation_obstacle(adapted.get_base_model())) is not None:
            assert unable.code is ObstacleCode.ARCHITECTURE
            return plain, None
        step = training_step(adapted, longest=40, examples=3)
        return plain, step_error(adapted, step)


def add(model: Any, folder: Path) -> None:
    """Add an adapter to the model's own weights."""
    weights, modules = load_file(folder / WEIGHTS), dict(model.named_modules())
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


def measure(family: Family, tokenizer: Any, folder: Path) -> tuple[Measured, list[str]]:
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
    found = hidden_states(model, passages, LAYERS)
    states = states_error(found.last_NLH, found.mean_NLH, model)
    first, second, both = folder / "first", folder / "second", folder / "both"
    adapter(model, first, None)
    gradients, fused = adapter(model, second, first)
    if fused is not None:
        last, mean = fastlora.hidden_states(model, passages, LAYERS)
        fused = max(fused, states_error(last, mean, model))
    lora.compose([first, second], both)
    engine = TransformersEngine(model, told.tokenizer, [END], batch_size=16)
    prompts = [Prompt(str(n), ids) for n, ids in enumerate(TEXTS)]
    with lora.applied(model, both):
        seen = hidden_states(model, passages, LAYERS)
        answers = engine.generate(prompts, Sampling(NEW))
    add(model, first)
    add(model, second)
    measured = Measured(
        states,
        gradients,
        fused,
        states_error(seen.last_NLH, seen.mean_NLH, model),
        different(model, answers),
    )
    in_system = told.how.personas_in == "system"
    return measured, [
        "system message" if in_system else "first question",
        {"mask": "several", "positions": "several, by positions", "single": "one"}[made.rows],
        f"{adapted.layers} of {adapted.of}{', experts not' if made.experts else ''}",
    ]


def named(family: Family) -> list[str]:
    """The first cells of a family's row."""
    return [f"`{family.kind}`", family.people_say]


def rows_of_page() -> list[list[str]]:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:3] == "| `"]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(FAMILIES)), ids=[f.kind for f in FAMILIES])
def test_a_family(number: int, loaded: Any, tmp_path: Path) -> None:
    family = FAMILIES[number]
    (row,) = [row for row in rows_of_page() if row[:2] == named(family)]
    if family.kind in REFUSED:
        with pytest.raises(UserError, match=rf"^model\.name: .*{REFUSED[family.kind]}"):
            measure(family, loaded.tokenizer, tmp_path)
        assert row[2:] == [REFUSED[family.kind]]
        return
    measured, found = measure(family, loaded.tokenizer, tmp_path)
    assert measured.answers == 0
    assert row[2:5] == found and row[9] == "the same"
    for error, said in zip(astuple(measured), row[5:9], strict=False):
        if error is None:
            assert said == "–"
        else:
            assert error <= float(said) <= 1e-4, "docs/models.md says less than was measured"


@pytest.mark.parametrize(
    ("kind", "rows", "apart"),
    [
        ("qwen2", Rows.MASK, True),
        ("olmo3", Rows.POSITIONS, True),
        ("falcon_h1", Rows.MASK, False),
        ("gpt_oss", Rows.POSITIONS, False),
    ],
)
def test_examples_that_leak_are_seen(
    kind: str, rows: Rows, apart: bool, loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = next(family for family in FAMILIES if family.kind == kind)
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config_of(family, len(loaded.tokenizer)))
    assert packing.keeps_apart(model, rows) == apart
    with (
        monkeypatch.context() as patch,
        lora.trainable(model, RECIPE, over=None, seed=1, field="training") as adapted,
    ):
        patch.setattr("personaspace.models.architecture.rows_of", lambda _: rows)
        assert PlainStep(adapted, 4096).rows == (rows if apart else Rows.SINGLE)


def test_the_page_tells_of_no_other_family() -> None:
    assert sorted(row[:2] for row in rows_of_page()) == sorted(map(named, FAMILIES))


HEAD = ("model_type", "models")
RIGHT = (
    *HEAD,
    *("personas in", "examples a row", "linear layers adapted", "hidden states", "gradients"),
    *("fused", "both adapters", "greedy answers"),
)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def written(page: str, name: str, content: str) -> str:
    """The page with the part between two comments replaced."""
    before, begin, rest = page.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"\n<!-- end of {name} -->")
    assert begin and end
    return before + begin + content + end + after


def main() -> None:
    right = []
    with tempfile.TemporaryDirectory() as scratch:
        spec = Model(name=str(build_tiny_model(Path(scratch) / "tiny")), dtype="float32")
        tokenizer = load_tokenizer(spec)
        for number, family in enumerate(FAMILIES):
            if family.kind not in REFUSED:
                measured, found = measure(family, tokenizer, Path(scratch) / str(number))
                right.append([*named(family), *found, *measured.cells()])
    refused = [[*named(f), REFUSED[f.kind]] for f in FAMILIES if f.kind in REFUSED]
    page = written(PAGE.read_text(encoding="utf-8"), "families", table(RIGHT, right))
    page = written(page, "refused", table((*HEAD, "why"), refused))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
