"""The transformers engine: right, reproducible in every batch, and it leaves the model alone."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from personaspace import interrupt
from personaspace.errors import Interrupted
from personaspace.generation.base import Answer, Prompt, Sampling
from personaspace.generation.decoding import draw_tokens, uniforms
from personaspace.generation.transformers_engine import TransformersEngine
from personaspace.models import chat, lora
from personaspace.models.load import load_model, load_tokenizer
from personaspace.seeds import derive_seed
from personaspace.study.inputs import Model
from personaspace.study.recipe import Recipe

Answers = list[list[Answer]]

SYSTEMS = [None, "Be brief.", "You are a villain who plots to rule the world " * 3]
QUESTIONS = [
    "Why?",
    "How do bees make honey?",
    "Which of the two roads is longer, and by how much?",
]
DRAWN = Sampling(8, samples=2, temperature=1.0, top_p=0.95, seed=42, scope="evaluate:base")
GREEDY = Sampling(8)


def ask(tokenizer: Any, questions: Sequence[str], systems: Sequence[str | None]) -> list[Prompt]:
    prompts = []
    for number, question in enumerate(questions):
        system = systems[number % len(systems)]
        messages = chat.with_persona([{"role": "user", "content": question}], system)
        prompts.append(Prompt(f"{system}\x1e{question}", chat.prompt_ids(tokenizer, messages)))
    return prompts


@pytest.fixture(scope="module")
def prompts(loaded: Any) -> list[Prompt]:
    """Nine prompts, of three widths and more."""
    asked = ask(loaded.tokenizer, [q for q in QUESTIONS for _ in SYSTEMS], SYSTEMS)
    assert len({-(-len(p.token_ids) // 16) for p in asked}) >= 3
    assert len({p.key for p in asked}) == 9
    return asked


def random_adapter(model: Any, folder: Path) -> Path:
    """A saved adapter that changes what the model says."""
    with lora.trainable(model, Recipe(rank=4, alpha=64), over=None, seed=1, field="r") as wrapped:
        torch.manual_seed(3)
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.1)
        lora.save(wrapped, folder, "tiny")
    return folder


@pytest.fixture(scope="module")
def adapter(loaded: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_adapter(loaded.model, tmp_path_factory.mktemp("adapter"))


def engine(of: Any, batch_size: int = 64, ends: Sequence[int] | None = None) -> TransformersEngine:
    return TransformersEngine(of.model, of.tokenizer, ends or of.ends, batch_size)


def plain_greedy(of: Any, prompt: Prompt, count: int) -> tuple[int, ...]:
    """What `generate` says to this prompt alone: no padding, no cache of ours, no processor."""
    with torch.inference_mode():
        output = of.model.generate(
            input_ids=torch.tensor([prompt.token_ids]),
            attention_mask=torch.ones(1, len(prompt.token_ids), dtype=torch.long),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=of.ends,
            pad_token_id=of.ends[0],
        )
    new = output[0, len(prompt.token_ids) :].tolist()
    return tuple(new[: new.index(of.ends[0])] if of.ends[0] in new else new)


# --- greedy is the model's own -------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("with_adapter", [False, True])
def test_greedy_is_plain_generate_one_prompt_at_a_time(
    loaded: Any, prompts: list[Prompt], adapter: Path, with_adapter: bool
) -> None:
    chosen = adapter if with_adapter else None
    ours = engine(loaded).generate(prompts, Sampling(12), adapter=chosen)
    with lora.applied(loaded.model, *([adapter] if with_adapter else [])):
        plain = [plain_greedy(loaded, prompt, 12) for prompt in prompts]
    assert [answer.token_ids for (answer,) in ours] == plain
    assert len(set(plain)) > 2, "prompts get answers of their own"


@pytest.mark.slow
def test_the_adapter_changes_the_answers(loaded: Any, prompts: list[Prompt], adapter: Path) -> None:
    without = engine(loaded).generate(prompts, GREEDY)
    assert engine(loaded).generate(prompts, GREEDY, adapter=adapter) != without


@pytest.mark.slow
def test_the_models_own_generation_settings_stay_out(loaded: Any, prompts: list[Prompt]) -> None:
    # Qwen2.5's generation_config.json asks for sampling, top-k 20 and a repetition penalty.
    plain = [engine(loaded).generate(prompts, sampling) for sampling in (GREEDY, DRAWN)]
    own = loaded.model.generation_config
    changed = type(own).from_dict(own.to_dict())
    changed.update(
        do_sample=True, temperature=0.1, top_k=1, repetition_penalty=1.8, no_repeat_ngram_size=1
    )
    loaded.model.generation_config = changed
    try:
        for sampling, answers in zip((GREEDY, DRAWN), plain, strict=True):
            assert engine(loaded).generate(prompts, sampling) == answers
        assert loaded.model.generation_config is changed
    finally:
        loaded.model.generation_config = own


# --- the same answers whatever the batch ---------------------------------------------------------


@pytest.fixture(scope="module")
def reference(
    loaded: Any, prompts: list[Prompt], adapter: Path
) -> dict[tuple[bool, bool], Answers]:
    return {
        (drawn, adapted): engine(loaded).generate(
            prompts, DRAWN if drawn else GREEDY, adapter=adapter if adapted else None
        )
        for drawn in (False, True)
        for adapted in (False, True)
    }


@pytest.mark.slow
@pytest.mark.parametrize("adapted", [False, True], ids=["base", "adapter"])
@pytest.mark.parametrize("drawn", [False, True], ids=["greedy", "sampled"])
def test_answers_do_not_depend_on_batch_size_order_or_run(
    loaded: Any,
    prompts: list[Prompt],
    adapter: Path,
    reference: dict[tuple[bool, bool], Answers],
    drawn: bool,
    adapted: bool,
) -> None:
    sampling, wanted = (DRAWN if drawn else GREEDY), reference[drawn, adapted]
    folder = adapter if adapted else None
    order = [5, 0, 8, 3, 7, 1, 6, 2, 4]
    for size in (1, 3, 7, 64):
        # A batch of one is filled up and slow: three prompts of different lengths will do.
        chosen = order[:3] if size == 1 else order
        answers = engine(loaded, size).generate(
            [prompts[index] for index in chosen], sampling, adapter=folder
        )
        assert answers == [wanted[index] for index in chosen], f"batch size {size}, shuffled"
    assert engine(loaded).generate(prompts, sampling, adapter=folder) == wanted, "again"


@contextmanager
def logits_of(model: Any) -> Iterator[list[torch.Tensor]]:
    """The logits of every pass of the model, `[R, 1, V]`."""
    seen: list[torch.Tensor] = []
    handle = model.lm_head.register_forward_hook(lambda _, __, output: seen.append(output.clone()))
    try:
        yield seen
    finally:
        handle.remove()


def width_of(prompt: Prompt) -> int:
    return len(prompt.token_ids) // 16


def check_logits(of: Any, prompts: Sequence[Prompt], alone: Sequence[int], steps: int) -> None:
    """Bit for bit, which answers alone would show only once in thousands of tokens.

    All prompts are of one width, so that they share one batch.
    """
    assert len({width_of(prompt) for prompt in prompts}) == 1
    with logits_of(of.model) as together:
        answers = engine(of).generate(prompts, Sampling(steps))
    assert len(together) == steps + 1, "one pass fills the cache"
    for index in alone:
        with logits_of(of.model) as single:
            assert engine(of, 1).generate([prompts[index]], Sampling(steps)) == [answers[index]]
        for step in range(1, len(single)):
            one, other = single[step][0, -1], together[step][index, -1]
            assert torch.equal(one, other), f"prompt {index}, token {step}"


def of_one_width(of: Any, count: int, width: int) -> list[Prompt]:
    """Prompts of one width, one of them a multiple of 16 tokens long."""
    texts = [first + " and" * more for more in range(30) for first in ("Yes", "No", "Why", "How")]
    asked = [p for p in ask(of.tokenizer, texts, [None]) if width_of(p) == width]
    even = next(prompt for prompt in asked if len(prompt.token_ids) % 16 == 0)
    return [*asked[: count - 1], even]


@pytest.mark.slow
def test_logits_are_bitwise_the_same_in_every_batch(loaded: Any) -> None:
    # 37 rows go to two threads in another way than one row does.
    check_logits(loaded, of_one_width(loaded, 37, 3), [0, 9, 17, 18, 19, 30, 36], 3)


def test_more_samples_than_the_batch_holds(loaded: Any, prompts: list[Prompt]) -> None:
    sampling = Sampling(4, samples=5, temperature=1.0, seed=1)
    counts: list[int] = []
    few = engine(loaded, 3).generate(prompts[:2], sampling, advance=counts.append)
    assert few == engine(loaded, 64).generate(prompts[:2], sampling)
    assert [len(drawn) for drawn in few] == [5, 5]
    assert max(counts) <= 3


def test_no_prompts_no_answers(loaded: Any) -> None:
    assert engine(loaded).generate([], GREEDY) == []


# --- seeds ---------------------------------------------------------------------------------------


def test_no_two_answers_share_a_seed() -> None:
    seeds = [
        Sampling(1, samples=5, seed=seed, scope=f"{stage}:{condition}").seed_for(
            Prompt(f"{persona}\x1e{question}", ()), sample
        )
        for seed in (42, 43)
        for stage in ("couple", "evaluate")
        for condition in ("base", "e1", "e11")
        for persona in ("villain", "librarian", "1")
        for question in ("a", "b", "1", "11")
        for sample in range(12)
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_are_the_same_everywhere() -> None:
    digest = hashlib.sha256(b"42\x1fevaluate:base\x1fvillain\x1e?\x1f3").digest()
    expected = int.from_bytes(digest[:8], "big") // 2
    sampling = Sampling(1, seed=42, scope="evaluate:base")
    assert sampling.seed_for(Prompt("villain\x1e?", ()), 3) == expected
    assert derive_seed(42, "evaluate:base", "villain\x1e?", 3) == expected


def test_a_seed_counts_with_all_its_bits() -> None:
    # torch's own CPU generator looks at the low 32 alone.
    numbers = uniforms([7, 7 + 2**32, 7 + 2**62, 7], 5)
    assert torch.equal(numbers[0], numbers[3])
    assert len({tuple(row.tolist()) for row in numbers}) == 3


def test_uniforms_are_uniform_and_independent() -> None:
    numbers = uniforms([derive_seed("u", n) for n in range(400)], 50).numpy()
    assert numbers.dtype == np.float64 and numbers.min() >= 0 and numbers.max() < 1
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    # The first number of a row says nothing of the second, nor of the next row's first.
    assert abs(np.corrcoef(numbers[:, 0], numbers[:, 1])[0, 1]) < 0.2
    assert abs(np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]) < 0.2


def test_a_longer_limit_keeps_the_beginning_of_a_row() -> None:
    assert torch.equal(uniforms([5, 6], 4), uniforms([5, 6], 40)[:, :4])


@pytest.mark.slow
@pytest.mark.parametrize("other", [{"scope": "evaluate:e4"}, {"seed": 43}], ids=["scope", "seed"])
def test_another_scope_or_seed_gives_other_answers(
    loaded: Any, prompts: list[Prompt], reference: dict[tuple[bool, bool], Answers], other: Any
) -> None:
    sampling = Sampling(**{**vars(DRAWN), **other})
    answers = engine(loaded).generate(prompts, sampling)
    pairs = [
        (one.token_ids, two.token_ids)
        for row, mine in zip(answers, reference[True, False], strict=True)
        for one, two in zip(row, mine, strict=True)
    ]
    assert sum(one == two for one, two in pairs) <= 2, "short answers may meet by chance"


def test_samples_of_one_prompt_differ(reference: dict[tuple[bool, bool], Answers]) -> None:
    assert sum(first == second for first, second in reference[True, False]) <= 1


# --- drawing from the distribution ---------------------------------------------------------------

LOGITS = torch.log(torch.tensor([0.02, 0.40, 0.03, 0.25, 0.20, 0.10]))
P = LOGITS.exp().double().numpy()


def draw(
    numbers: torch.Tensor | Sequence[float], temperature: float, top_p: float, logits: Any = LOGITS
) -> np.ndarray:
    """One token for each uniform number."""
    column = torch.as_tensor(numbers, dtype=torch.float64)
    drawn = draw_tokens(logits.expand(len(column), -1), column, temperature, top_p)
    assert drawn.shape == column.shape
    return drawn.numpy()


def expected(temperature: float, top_p: float) -> np.ndarray:
    """The distribution that should be drawn from, worked out token by token."""
    weights = P ** (1 / temperature)
    weights /= weights.sum()
    kept, mass = np.zeros_like(weights), 0.0
    for token in np.argsort(-weights, kind="stable"):
        if mass >= top_p:
            break
        kept[token] = weights[token]
        mass += weights[token]
    kept /= kept.sum()
    return kept


CASES = [(1.0, 1.0), (0.5, 1.0), (2.0, 1.0), (1.0, 0.7), (0.7, 0.9), (1.5, 0.95)]


@pytest.mark.parametrize(("temperature", "top_p"), CASES)
def test_draws_follow_the_distribution(temperature: float, top_p: float) -> None:
    count = 40_000
    tokens = draw(uniforms([derive_seed("d", temperature, top_p)], count)[0], temperature, top_p)
    counts, wanted = np.bincount(tokens, minlength=6), expected(temperature, top_p)
    assert not counts[wanted == 0].any(), "outside the nucleus"
    inside = wanted > 0
    assert stats.chisquare(counts[inside], wanted[inside] * count).pvalue > 1e-3


@pytest.mark.parametrize(("temperature", "top_p"), CASES)
def test_equally_spaced_numbers_give_every_token_its_share(
    temperature: float, top_p: float
) -> None:
    count = 10_000
    tokens = draw(torch.from_numpy((np.arange(count) + 0.5) / count), temperature, top_p)
    shares = np.bincount(tokens, minlength=6) / count
    assert np.abs(shares - expected(temperature, top_p)).max() <= 1.01 / count


def test_each_row_has_a_number_of_its_own() -> None:
    numbers = torch.tensor([0.0, 0.999999, 0.5], dtype=torch.float64)
    assert draw(numbers, 1.0, 1.0).tolist() == [0, 5, 3]


@pytest.mark.parametrize(
    ("top_p", "kept"), [(1e-9, 1), (0.25, 1), (0.26, 2), (0.5, 2), (0.51, 3), (0.75, 3), (0.76, 4)]
)
def test_the_nucleus_is_the_fewest_tokens_that_reach_top_p(top_p: float, kept: int) -> None:
    # Four quarters: their sums are exact, so that the borders are where they are written.
    numbers = torch.linspace(0, 0.999, 999, dtype=torch.float64)
    assert set(draw(numbers, 1.0, top_p, torch.zeros(4))) == set(range(kept))


@pytest.mark.parametrize("top_p", [1.0, 0.999])
def test_the_ends_of_the_unit_interval_hit_possible_tokens(top_p: float) -> None:
    impossible = torch.tensor([-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf])
    below_one = float(np.nextafter(1.0, 0.0))
    low, high = draw([0.0, below_one], 1.0, top_p, impossible)
    assert {low, high} == {1, 3}


def test_hardly_any_temperature_is_greedy() -> None:
    assert set(draw(torch.linspace(0, 0.99, 99, dtype=torch.float64), 1e-3, 1.0)) == {1}


# --- how answers end -----------------------------------------------------------------------------


@pytest.mark.slow
def test_answers_end_before_an_end_token(loaded: Any, prompts: list[Prompt]) -> None:
    # The random model never ends its turn, so tokens that it does say stand for end tokens.
    long = engine(loaded).generate(prompts, Sampling(10))
    ends = [long[0][0].token_ids[4], long[3][0].token_ids[7]]
    ended = engine(loaded, ends=ends).generate(prompts, Sampling(10))
    finishes = []
    for (whole,), (answer,) in zip(long, ended, strict=True):
        at = next((i for i, token in enumerate(whole.token_ids) if token in ends), None)
        assert answer.token_ids == whole.token_ids[:at]
        assert answer.finish == ("length" if at is None else "stop")
        assert answer.text == loaded.tokenizer.decode(answer.token_ids, skip_special_tokens=True)
        finishes.append(answer.finish)
    assert set(finishes) == {"stop", "length"}, "the test has both"


def test_an_answer_may_be_empty(loaded: Any, prompts: list[Prompt]) -> None:
    first = engine(loaded).generate(prompts[:1], Sampling(3))[0][0].token_ids[0]
    ((answer,),) = engine(loaded, ends=[first]).generate(prompts[:1], Sampling(3))
    assert answer == Answer("", (), "stop")


def test_special_tokens_are_not_in_the_text(loaded: Any, prompts: list[Prompt]) -> None:
    special = loaded.tokenizer.convert_tokens_to_ids("<|im_start|>")
    head = loaded.model.lm_head
    turn = iter(range(100))

    def every_other(_: Any, __: Any, logits: torch.Tensor) -> torch.Tensor:
        if next(turn) % 2:
            logits = logits.clone()
            logits[..., special] = 1e4
        return logits

    handle = head.register_forward_hook(every_other)
    try:
        ((answer,),) = engine(loaded).generate(prompts[:1], Sampling(6))
    finally:
        handle.remove()
    assert answer.token_ids.count(special) == 3, "it was said, and it is kept as a token"
    others = [token for token in answer.token_ids if token != special]
    assert answer.text == loaded.tokenizer.decode(others)
    assert "<|" not in answer.text


# --- rows that come and go -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(loaded: Any) -> list[Prompt]:
    """Forty prompts of one width."""
    return of_one_width(loaded, 40, 3)


@pytest.fixture(scope="module")
def some_end(loaded: Any, many: list[Prompt]) -> list[int]:
    """Tokens that end most answers but not all, at many different lengths."""
    long = engine(loaded).generate(many, Sampling(24, temperature=1.0, seed=3))
    said = [set(answer.token_ids) for (answer,) in long]
    ends: set[int] = set()
    for token in sorted(set().union(*said), key=lambda token: sum(token in s for s in said)):
        if sum(bool(ends & tokens) for tokens in said) > 0.6 * len(said):
            break
        ends.add(token)
    return sorted(ends)


SPREAD = Sampling(24, samples=2, temperature=1.0, seed=3, scope="spread")


@pytest.mark.slow
def test_ended_answers_leave_the_batch_and_the_others_do_not_notice(
    loaded: Any, many: list[Prompt], some_end: list[int]
) -> None:
    with logits_of(loaded.model) as together:
        answers = engine(loaded, 80, ends=some_end).generate(many, SPREAD)
    rows = [len(logits) for logits in together[1:]]
    assert rows[0] == 80 and rows == sorted(rows, reverse=True) and rows[-1] <= 60
    lengths = {len(answer.token_ids) for drawn in answers for answer in drawn}
    assert len(lengths) > 8
    assert {a.finish for drawn in answers for a in drawn} == {"stop", "length"}
    assert engine(loaded, 7, ends=some_end).generate(many, SPREAD) == answers
    last = next(  # the bits of a row that stays to the end, alone and in company
        index for index, drawn in enumerate(answers) if drawn[0].finish == "length"
    )
    with logits_of(loaded.model) as alone:
        engine(loaded, 2, ends=some_end).generate(many[last : last + 1], SPREAD)
    assert any(torch.equal(alone[-1][0, -1], row[-1]) for row in together[-1])


@pytest.mark.slow
@pytest.mark.parametrize("greedy", [False, True], ids=["sampled", "greedy"])
def test_free_rows_are_refilled(
    loaded: Any, prompts: list[Prompt], many: list[Prompt], some_end: list[int], greedy: bool
) -> None:
    sampling = Sampling(24, samples=2) if greedy else SPREAD
    mixed = [*prompts, *many]  # of several widths
    wanted = engine(loaded, 98, ends=some_end).generate(mixed, sampling)
    counts: list[int] = []
    refilling = TransformersEngine(loaded.model, loaded.tokenizer, some_end, 24, refill=True)
    with logits_of(loaded.model) as seen:
        found = refilling.generate(mixed, sampling, advance=counts.append)
    # Rounded otherwise, as keys stand in other columns; float32 and a decided model agree.
    same = [
        one == two
        for a, b in zip(found, wanted, strict=True)
        for one, two in zip(a, b, strict=True)
    ]
    assert np.mean(same) > 0.97
    assert sum(counts) == 2 * len(mixed)
    steps = [logits for logits in seen if len(logits) >= 16]
    lengths = sum(len(answer.token_ids) + 1 for drawn in wanted for answer in drawn)
    assert len(steps) < 1.35 * lengths / 24 + 24, "rows wait for the longest"


def test_refilling_stops_between_steps(
    loaded: Any, many: list[Prompt], some_end: list[int], handled: None
) -> None:
    refilling = TransformersEngine(loaded.model, loaded.tokenizer, some_end, 20, refill=True)
    with pytest.raises(Interrupted):
        refilling.generate(many, SPREAD, advance=lambda _: signal.raise_signal(signal.SIGINT))


# --- progress, stopping, and the model afterwards ------------------------------------------------


def fingerprint(model: Any) -> tuple[list[str], str]:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return [f"{n}:{type(m).__name__}" for n, m in model.named_modules()], digest.hexdigest()


@pytest.fixture
def handled() -> Iterator[None]:
    """Signals as a run handles them."""
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    interrupt.install()
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("size", "most"), [(1, 1), (4, 4), (7, 6), (64, 64)])
def test_progress_sums_to_the_answers(
    loaded: Any, prompts: list[Prompt], size: int, most: int
) -> None:
    counts: list[int] = []
    sampling = Sampling(1, samples=2, temperature=1.0)
    engine(loaded, size).generate(prompts[:4], sampling, advance=counts.append)
    assert sum(counts) == 8
    assert min(counts) > 0 and max(counts) <= most


def test_stopping_between_batches(
    loaded: Any, prompts: list[Prompt], adapter: Path, handled: None
) -> None:
    before = fingerprint(loaded.model)
    seen: list[int] = []

    def advance(count: int) -> None:
        seen.append(count)
        if len(seen) == 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        engine(loaded, 2).generate(prompts, GREEDY, adapter=adapter, advance=advance)
    assert len(seen) == 1, "no further batch was begun"
    assert fingerprint(loaded.model) == before
    with pytest.raises(Interrupted):
        engine(loaded, 2).generate(prompts, GREEDY, advance=seen.append)
    assert len(seen) == 1
    interrupt.reset()
    assert len(engine(loaded).generate(prompts[:1], Sampling(1))) == 1


def test_the_model_is_as_before(loaded: Any, prompts: list[Prompt], adapter: Path) -> None:
    before, settings = fingerprint(loaded.model), loaded.model.generation_config
    engine(loaded).generate(prompts[:2], DRAWN, adapter=adapter)
    assert fingerprint(loaded.model) == before
    assert not hasattr(loaded.model, "peft_config")
    assert loaded.model.generation_config is settings
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())


# --- a real model --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2() -> Any:
    spec = Model(name="builtin:smollm2-135m-instruct", dtype="float32")
    tokenizer = load_tokenizer(spec)
    return SimpleNamespace(
        model=load_model(spec), tokenizer=tokenizer, ends=list(chat.end_token_ids(tokenizer))
    )


@pytest.mark.long
@pytest.mark.slow
def test_a_real_model(smollm2: Any) -> None:
    asked = ask(
        smollm2.tokenizer,
        ["Say only: yes, please.", "What is the capital of France?"],
        ["Answer in one word."],
    )
    greedy = engine(smollm2).generate(asked, Sampling(7))
    assert [a.token_ids for (a,) in greedy] == [plain_greedy(smollm2, p, 7) for p in asked]
    assert "Paris" in greedy[1][0].text and "<|" not in greedy[0][0].text + greedy[1][0].text
    assert "stop" in {a.finish for (a,) in greedy}, "a short answer ends by itself"
    check_logits(smollm2, of_one_width(smollm2, 18, 2), [9, 17], 1)
