"""Hidden states: the right layer, the right token, the same in every batch."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from personaspace import interrupt
from personaspace.activations.extract import Passage, States, batches, hidden_states
from personaspace.errors import Interrupted, UserError
from personaspace.models import chat
from personaspace.models.architecture import decoder_of
from personaspace.models.load import load_model, load_tokenizer
from personaspace.study.inputs import Model

LAYERS = [0, 2, 3]
LAST = 3

#: Of float32 rounding, as a share of the largest value of the layer.
ROUNDING = 1e-5


def passages_of(tokenizer: Any) -> list[Passage]:
    """Prompts and answers of unlike lengths, one answer empty."""
    rows = [
        (None, "Why?", "Because it rained all night and the river rose."),
        ("You are a villain.", "How do bees make honey?", "They do."),
        (None, "Which road is longer, and by how much?", ""),
        ("Be brief. " * 6, "Name a colour.", "Blue, I should say, or some other one of that kind."),
        (None, "So?", "Yes"),
    ]
    return [
        Passage(
            chat.prompt_ids(
                tokenizer, chat.with_persona([{"role": "user", "content": question}], system)
            ),
            tuple(tokenizer(answer, add_special_tokens=False)["input_ids"]),
        )
        for system, question, answer in rows
    ]


@pytest.fixture(scope="module")
def passages(loaded: Any) -> list[Passage]:
    return passages_of(loaded.tokenizer)


@pytest.fixture(scope="module")
def states(loaded: Any, passages: list[Passage]) -> States:
    return hidden_states(loaded.model, passages, LAYERS)


@pytest.fixture(scope="module")
def smollm2() -> SimpleNamespace:
    spec = Model(name="builtin:smollm2-135m-instruct", dtype="float32")
    return SimpleNamespace(model=load_model(spec), tokenizer=load_tokenizer(spec))


def reference(model: Any, passage: Passage) -> tuple[torch.Tensor, ...]:
    """transformers' own hidden states `[T, H]`: of the embedding, then of each layer."""
    with torch.inference_mode():
        output = model(
            input_ids=torch.tensor([passage.prompt + passage.answer]), output_hidden_states=True
        )
    return tuple(states[0] for states in output.hidden_states)


def difference(one: Any, other: Any) -> float:
    """Largest absolute difference as a share of the largest value, layer by layer."""
    one, other = np.asarray(one), np.asarray(other)
    assert one.shape == other.shape and one.dtype == other.dtype == np.float32
    layers = range(one.shape[1]) if one.ndim == 3 else [Ellipsis]
    cut = [(one[:, n], other[:, n]) if one.ndim == 3 else (one, other) for n in layers]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in cut)


# --- batched = one at a time ---------------------------------------------------------------------


def check_batching(model: Any, passages: Sequence[Passage], layers: Sequence[int]) -> None:
    together = hidden_states(model, passages, layers)
    singly = [hidden_states(model, [passage], layers) for passage in passages]
    for name in ("last_NLH", "mean_NLH"):
        alone = np.concatenate([getattr(one, name) for one in singly])
        error = difference(getattr(together, name), alone)
        assert error <= ROUNDING, f"{name}: off by {error:.2g} of the layer's largest value"
        # It is rounding that is tested: other prompts are far away.
        assert difference(alone[[1, 0]], alone[[0, 1]]) > 100 * ROUNDING
    assert (together.answered_N == [one.answered_N[0] for one in singly]).all()


def test_batched_is_one_at_a_time(loaded: Any, passages: list[Passage]) -> None:
    check_batching(loaded.model, passages, LAYERS)


@pytest.mark.slow
def test_batched_is_one_at_a_time_on_a_real_model(smollm2: Any) -> None:
    check_batching(smollm2.model, passages_of(smollm2.tokenizer), [7, 14, 20, 29])


@pytest.mark.parametrize("budget", [1, 100, 150])
def test_every_token_budget_gives_the_same_in_the_same_order(
    loaded: Any, passages: list[Passage], states: States, budget: int
) -> None:
    counts: list[int] = []
    other = hidden_states(
        loaded.model, passages, LAYERS, token_budget=budget, advance=counts.append
    )
    assert difference(other.last_NLH, states.last_NLH) <= ROUNDING
    assert difference(other.mean_NLH, states.mean_NLH) <= ROUNDING
    assert sum(counts) == len(passages)
    assert len(counts) == (5 if budget == 1 else len(batches(list(map(len, passages)), budget)))


def test_layers_in_any_order_are_the_layers_asked_for(
    loaded: Any, passages: list[Passage], states: States
) -> None:
    other = hidden_states(loaded.model, passages, [3, 0])
    assert difference(other.last_NLH, states.last_NLH[:, [2, 0]]) <= ROUNDING
    assert difference(other.mean_NLH, states.mean_NLH[:, [2, 0]]) <= ROUNDING


# --- which layer ---------------------------------------------------------------------------------


def check_layers(model: Any, passage: Passage, last: int) -> None:
    theirs = reference(model, passage)
    assert len(theirs) == last + 2
    layers = [0, 1, last - 1, last]
    ours = hidden_states(model, [passage], layers).last_NLH[0]
    at = len(passage.prompt) - 1
    for number, layer in enumerate(layers[:-1]):
        assert difference(ours[number], theirs[layer + 1][at].numpy()) <= ROUNDING, layer
        for off in (layer, layer + 2):
            if off <= last:
                assert difference(ours[number], theirs[off][at].numpy()) > 0.01, "no neighbour"
    # transformers' last entry has gone through the final norm, ours has not.
    final = theirs[-1][at].numpy()
    assert difference(ours[-1], final) > 0.1
    with torch.inference_mode():
        normed = model.model.norm(torch.from_numpy(ours[-1]))
    assert difference(normed.numpy(), final) <= ROUNDING


def test_layer_numbers_count_decoder_layers_from_0(loaded: Any, passages: list[Passage]) -> None:
    for passage in passages:
        check_layers(loaded.model, passage, LAST)


@pytest.mark.slow
def test_layer_numbers_on_a_real_model(smollm2: Any) -> None:
    check_layers(smollm2.model, passages_of(smollm2.tokenizer)[1], 29)


@contextmanager
def calls(module: torch.nn.Module) -> Iterator[list[int]]:
    """Grows by one entry with each call of the module."""
    seen: list[int] = []
    handle = module.register_forward_hook(lambda *_: seen.append(1))
    try:
        yield seen
    finally:
        handle.remove()


def test_no_layer_above_the_highest_runs(loaded: Any, passages: list[Passage]) -> None:
    layers = loaded.model.model.layers
    with calls(layers[1]) as second, calls(layers[2]) as third, calls(loaded.model.lm_head) as head:
        hidden_states(loaded.model, passages, [1, 0])
        assert (len(second), len(third), len(head)) == (1, 0, 0)
        hidden_states(loaded.model, passages, [0, 2])
        assert (len(second), len(third), len(head)) == (2, 1, 0)


# --- which token ---------------------------------------------------------------------------------


def test_method_a_is_the_last_prompt_token_whatever_follows(
    loaded: Any, passages: list[Passage], states: States
) -> None:
    prompts = [Passage(passage.prompt) for passage in passages]
    without = hidden_states(loaded.model, prompts, LAYERS)
    assert difference(states.last_NLH, without.last_NLH) <= ROUNDING
    for number, passage in enumerate(passages):
        theirs = reference(loaded.model, passage)
        for slot, layer in enumerate(LAYERS[:-1]):
            at = theirs[layer + 1]
            wanted = at[len(passage.prompt) - 1].numpy()
            assert difference(states.last_NLH[number, slot], wanted) <= ROUNDING
            before = at[len(passage.prompt) - 2].numpy()
            assert difference(states.last_NLH[number, slot], before) > 0.01


def test_method_b_is_the_mean_over_the_answer_alone(
    loaded: Any, passages: list[Passage], states: States
) -> None:
    for number, passage in enumerate(passages):
        if not passage.answer:
            continue
        theirs = reference(loaded.model, passage)
        start, stop = len(passage.prompt), len(passage)
        for slot, layer in enumerate(LAYERS[:-1]):
            tokens = theirs[layer + 1].numpy().astype(np.float64)
            total = np.zeros(tokens.shape[1])
            for position in range(start, stop):
                total += tokens[position]
            wanted = (total / (stop - start)).astype(np.float32)
            ours = states.mean_NLH[number, slot]
            assert difference(ours, wanted) <= ROUNDING
            assert difference(ours, tokens[start - 1 : stop].mean(0).astype(np.float32)) > 1e-3


def test_an_answer_of_one_token_is_that_token(loaded: Any, passages: list[Passage]) -> None:
    passage = Passage(passages[0].prompt, passages[0].answer[:1])
    states = hidden_states(loaded.model, [passages[3], passage], [1])
    theirs = reference(loaded.model, passage)[2][-1].numpy()
    assert difference(states.mean_NLH[1, 0], theirs) <= ROUNDING


def test_an_empty_answer_is_said_to_be_none(states: States, passages: list[Passage]) -> None:
    assert states.answered_N.tolist() == [True, True, False, True, True]
    assert not states.mean_NLH[2].any()
    assert states.last_NLH[2].any(), "method A needs no answer"
    assert states.last_NLH.shape == states.mean_NLH.shape == (5, 3, 64)


def test_no_sequences(loaded: Any) -> None:
    states = hidden_states(loaded.model, [], LAYERS)
    assert states.last_NLH.shape == (0, 3, 64) and states.answered_N.shape == (0,)


# --- the model afterwards ------------------------------------------------------------------------


def whole(model: Any) -> tuple[int, int, int]:
    layers = model.model.layers
    return id(layers), len(layers), sum(len(layer._forward_hooks) for layer in layers)


def test_the_decoder_is_as_before(loaded: Any, passages: list[Passage]) -> None:
    before = whole(loaded.model)
    hidden_states(loaded.model, passages, [0])
    assert whole(loaded.model) == before


def test_the_decoder_is_as_before_after_an_error(loaded: Any, passages: list[Passage]) -> None:
    before = whole(loaded.model)
    outside = Passage((10**6,))
    with pytest.raises(IndexError):
        hidden_states(loaded.model, [*passages, outside], [0])
    assert whole(loaded.model) == before

    def stop(_: int) -> None:
        interrupt._asked.set()

    with pytest.raises(Interrupted):
        hidden_states(loaded.model, passages, [0], token_budget=1, advance=stop)
    assert whole(loaded.model) == before
    interrupt.reset()
    assert len(reference(loaded.model, passages[0])) == LAST + 2


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_states_that_are_no_numbers_are_refused(
    loaded: Any, passages: list[Passage], bad: float
) -> None:
    broken = copy.deepcopy(loaded.model)
    broken.model.layers[1].mlp.down_proj.weight.data[0, 0] = bad
    before = whole(broken)
    hidden_states(broken, passages, [0])  # below the fault all is well
    with pytest.raises(UserError, match="NaN or infinity") as caught:
        hidden_states(broken, passages, [0, 2])
    assert "\n" not in str(caught.value)
    assert whole(broken) == before


def test_only_an_answer_that_is_no_number_is_refused_too(
    loaded: Any, passages: list[Passage]
) -> None:
    broken = copy.deepcopy(loaded.model)
    token = next(iter(set(passages[0].answer) - {t for p in passages for t in p.prompt}))
    broken.model.embed_tokens.weight.data[token] = torch.nan
    with pytest.raises(UserError, match="NaN or infinity"):
        hidden_states(broken, passages, [0])


def test_an_architecture_that_is_not_understood_is_refused() -> None:
    config = GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=50, n_positions=32)
    model = GPT2LMHeadModel(config).eval()
    assert hasattr(model.transformer, "h"), "its layers are called otherwise"
    with pytest.raises(UserError, match=r"model\.name: architecture GPT2LMHeadModel") as caught:
        hidden_states(model, [Passage((1, 2, 3))], [0])
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError):
        decoder_of(model)


def test_layers_that_are_not_all_there_are_refused(loaded: Any) -> None:
    odd = copy.deepcopy(loaded.model)
    odd.model.layers = odd.model.layers[:2]
    with pytest.raises(UserError, match="cannot be found"):
        decoder_of(odd)


# --- batches -------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 1000))
def test_batches_respect_the_token_budget(lengths: list[int], budget: int) -> None:
    found = batches(lengths, budget)
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        padded = len(batch) * max(lengths[index] for index in batch)
        assert padded <= budget or len(batch) == 1
    # Like lengths lie together, and no batch could have taken the next one's first member.
    for batch, after in pairwise(found):
        widest = max(lengths[index] for index in batch)
        assert min(lengths[index] for index in batch) >= max(lengths[index] for index in after)
        assert (len(batch) + 1) * widest > budget
