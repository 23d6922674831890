"""Layer convention, methods A and B, batching: on the small model and on a real one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from personaspace import chat, library, models
from personaspace.activations import Passage, batches, decoder_of, hidden_states
from personaspace.errors import UserError
from personaspace.spec import Model


@pytest.fixture(scope="module")
def real() -> Any:
    """SmolLM2-135M-Instruct in float32."""
    spec = Model(name=models.SMOLLM2, dtype="float32")
    return SimpleNamespace(model=models.load_model(spec), tokenizer=models.load_tokenizer(spec))


def passages(tokenizer: Any, count: int) -> list[Passage]:
    """Prompts of unlike lengths under several personas, with answers of 0 to 6 tokens."""
    found = []
    for number, persona in enumerate(library.personas()[:count]):
        messages = [{"role": "user", "content": "Why do people tell stories? " * (1 + number % 3)}]
        prompt = chat.prompt_ids(tokenizer, chat.with_persona(messages, persona["prompt"]))
        found.append(Passage(prompt, tuple(range(10, 10 + number % 7))))
    return found


def error(ours: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference relative to the vector's own length."""
    length = np.linalg.norm(reference, axis=-1, keepdims=True)
    return float((np.abs(ours - reference) / np.maximum(length, 1e-9)).max())


def check_batched(model: Any, tokenizer: Any, layers: list[int]) -> None:
    rows = passages(tokenizer, 8)
    together = hidden_states(model, rows, layers, token_budget=400)
    alone = [hidden_states(model, [row], layers) for row in rows]
    last = np.concatenate([states.last_NLH for states in alone])
    mean = np.concatenate([states.mean_NLH for states in alone])
    assert error(together.last_NLH, last) < 1e-5
    assert error(together.mean_NLH[together.answered_N], mean[together.answered_N]) < 1e-5
    assert list(together.answered_N) == [len(row.answer) > 0 for row in rows]
    # Different personas do differ, far beyond that: the comparison means something.
    assert error(last[:1], last[1:2]) > 1e-3


def test_batches_equal_one_at_a_time_on_the_small_model(loaded: Any) -> None:
    check_batched(loaded.model, loaded.tokenizer, [0, 2, 3])


def test_batches_equal_one_at_a_time_on_a_real_model(real: Any) -> None:
    check_batched(real.model, real.tokenizer, [7, 14, 29])


def test_layers_are_decoder_outputs_before_the_final_norm(loaded: Any) -> None:
    [row] = passages(loaded.tokenizer, 1)
    states = hidden_states(loaded.model, [row], [0, 1, 2, 3]).last_NLH[0]
    with torch.no_grad():
        output = loaded.model(torch.tensor([row.prompt]), output_hidden_states=True)
    theirs = [layer[0, -1].numpy() for layer in output.hidden_states]
    for number in (0, 1, 2):
        np.testing.assert_allclose(states[number], theirs[number + 1], rtol=1e-4, atol=1e-5)
    assert np.abs(states[3] - theirs[4]).max() > 0.01
    with torch.no_grad():
        normed = loaded.model.model.norm(torch.tensor(states[3])).numpy()
    np.testing.assert_allclose(normed, theirs[4], rtol=1e-4, atol=1e-5)


def test_method_b_is_the_mean_over_the_answer_alone(loaded: Any) -> None:
    row = Passage(passages(loaded.tokenizer, 1)[0].prompt, (20, 30, 40))
    states = hidden_states(loaded.model, [row], [1])
    with torch.no_grad():
        ids = torch.tensor([row.prompt + row.answer])
        whole = loaded.model(ids, output_hidden_states=True).hidden_states[2][0].numpy()
    start = len(row.prompt)
    np.testing.assert_allclose(states.mean_NLH[0, 0], whole[start:].mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(states.last_NLH[0, 0], whole[start - 1], rtol=1e-4, atol=1e-5)


def test_layers_above_the_highest_are_not_run_and_come_back(loaded: Any) -> None:
    decoder, layers = decoder_of(loaded.model)
    calls = []
    handle = layers[3].register_forward_hook(lambda *_: calls.append(1))
    try:
        hidden_states(loaded.model, passages(loaded.tokenizer, 2), [0, 2])
        assert calls == []
        assert decoder.layers is layers
        hidden_states(loaded.model, passages(loaded.tokenizer, 2), [3])
        assert calls == [1]
    finally:
        handle.remove()


def test_nan_is_refused_and_the_model_is_left_whole(loaded: Any) -> None:
    weight = loaded.model.model.layers[1].mlp.down_proj.weight
    kept = weight[0, 0].item()
    with torch.no_grad():
        weight[0, 0] = float("nan")
    try:
        with pytest.raises(UserError, match="NaN"):
            hidden_states(loaded.model, passages(loaded.tokenizer, 2), [2])
    finally:
        with torch.no_grad():
            weight[0, 0] = kept
    assert len(loaded.model.model.layers) == 4


def test_an_architecture_with_its_layers_elsewhere_is_refused() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50))
    with pytest.raises(UserError, match="GPT2LMHeadModel is not understood"):
        hidden_states(model, [Passage((1, 2))], [0])


@given(st.lists(st.integers(1, 90), max_size=40), st.integers(90, 300))
def test_batches_hold_everything_once_within_the_budget(lengths: list[int], budget: int) -> None:
    made = batches(lengths, budget)
    assert sorted(index for batch in made for index in batch) == list(range(len(lengths)))
    for batch in made:
        assert max(lengths[index] for index in batch) * len(batch) <= budget
