"""Which tokens carry loss, against chats put together by hand; templates of other manners."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from conftest import CHATML
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from personaspace.errors import UserError
from personaspace.models import chat
from personaspace.models.chat import Example
from personaspace.models.examples import Examples
from personaspace.training.trainer import usable

DEFAULT = ("system", "Default words of the template.")
CONTENT = "{{ message['content'] }}"
#: As many templates do (Llama 3, Gemma): white space around a message is dropped.
TRIMS = CHATML.replace(CONTENT, "{{ message['content'] | trim }}")
REFUSES = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "<|im_start|>{{ message['role'] }}\n" + CONTENT + "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DROPS = (
    "{% for message in messages if message['role'] != 'system' %}"
    "<|im_start|>{{ message['role'] }}\n" + CONTENT + "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: The answer follows a space, not a header (Mistral's manner), and the turn ends with EOS.
SPACED = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    " " + CONTENT + "{{ eos_token }}{% else %}<|im_start|>" + CONTENT + "<|im_start|>{% endif %}"
    "{% endfor %}"
)
#: After the end of the turn a closing EOS that is another token (Phi 3's manner).
CLOSED = CHATML + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"

QUESTION = {"role": "user", "content": "May I sign it?"}
HEADER = "<|im_start|>assistant\n"
ENOUGH = 10_000


def tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def turns(tokenizer: Any, *messages: tuple[str, str]) -> list[int]:
    """ChatML by hand: special tokens by number, never through the template."""
    start, end = (tokenizer.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>"))
    assert (start, end) == (1, 2)
    ids: list[int] = []
    for role, text in messages:
        ids += [start, *tokens(tokenizer, f"{role}\n{text}"), end, *tokens(tokenizer, "\n")]
    return ids


def by_hand(
    tokenizer: Any, before: list[tuple[str, str]], answer: str
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """The training example that a chat must become."""
    prompt = [*turns(tokenizer, *before), 1, *tokens(tokenizer, "assistant\n")]
    tail = [*tokens(tokenizer, answer), 2]
    return (*prompt, *tail), (False,) * len(prompt) + (True,) * len(tail)


def changed(tokenizer: Any, template: str, eos: str | None = None) -> Any:
    """A copy of the tokenizer with another template (and EOS token)."""
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    if eos is not None:
        other.eos_token = eos
    return other


def says(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def with_loss(tokenizer: Any, made: chat.Example) -> str:
    chosen = [i for i, on in zip(made.ids, made.loss, strict=True) if on]
    text = tokenizer.decode(chosen, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


# Loss on the answer


def test_loss_on_the_answer_and_its_end_token_alone(loaded: Any) -> None:
    made = chat.answer_example(loaded.tokenizer, [QUESTION, says("Yes, at once.")], ENOUGH)
    ids, loss = by_hand(loaded.tokenizer, [DEFAULT, ("user", QUESTION["content"])], "Yes, at once.")
    assert (made.ids, made.loss, made.truncated) == (ids, loss, False)
    assert with_loss(loaded.tokenizer, made) == "Yes, at once.<|im_end|>"
    # The template writes a line end after the turn, which is neither trained on nor kept.
    assert made.ids[-1] == loaded.tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_only_the_last_of_several_answers(loaded: Any) -> None:
    messages = [QUESTION, says("No."), {"role": "user", "content": "Sure?"}, says("Yes.")]
    made = chat.answer_example(loaded.tokenizer, messages, ENOUGH)
    before = [DEFAULT, *((m["role"], m["content"]) for m in messages[:-1])]
    assert (made.ids, made.loss) == by_hand(loaded.tokenizer, before, "Yes.")


@pytest.mark.parametrize(
    "earlier, answer",
    [
        ("No.", f"They write {HEADER}Sure.<|im_end|> and that is all."),
        ("No.", f"{HEADER}No."),
        ("Read it first.", "As I said: Read it first. Then sign."),
        ("Read it first.", "Read it first."),
        ("a", "a"),
        ("im_end", "im_end"),
        ("No.", "Line one.\n\nuser\nMay I sign it?\nassistant\nNo."),
        ("No.", "<|im_end|>"),
    ],
)
def test_text_that_would_fool_a_search(loaded: Any, earlier: str, answer: str) -> None:
    messages = [QUESTION, says(earlier), QUESTION, says(answer)]
    made = chat.answer_example(loaded.tokenizer, messages, ENOUGH)
    before = [DEFAULT, *((m["role"], m["content"]) for m in messages[:-1])]
    assert (made.ids, made.loss) == by_hand(loaded.tokenizer, before, answer)


@pytest.mark.slow
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    question=st.text(min_size=1, max_size=30),
    answer=st.text(min_size=1, max_size=60).filter(str.strip),
    trims=st.booleans(),
)
@example(question="q", answer="  \n Yes.\n\n", trims=True)
@example(question="<|im_start|>assistant\nYes.", answer="Yes.", trims=False)
def test_any_answer(loaded: Any, question: str, answer: str, trims: bool) -> None:
    tokenizer = changed(loaded.tokenizer, TRIMS) if trims else loaded.tokenizer
    made = chat.answer_example(
        tokenizer, [{"role": "user", "content": question}, says(answer)], ENOUGH
    )
    written = [text.strip() if trims else text for text in (question, answer)]
    ids, loss = by_hand(tokenizer, [DEFAULT, ("user", written[0])], written[1])
    assert (made.ids, made.loss) == (ids, loss)


# Personas


def test_without_persona_the_default_of_the_template_applies(loaded: Any) -> None:
    messages = chat.with_persona([QUESTION, says("Yes.")], None)
    assert messages == [QUESTION, says("Yes.")]
    text = loaded.tokenizer.decode(
        chat.answer_example(loaded.tokenizer, messages, ENOUGH).ids,
        clean_up_tokenization_spaces=False,
    )
    assert text.startswith("<|im_start|>system\nDefault words of the template.<|im_end|>\n")
    assert text.count("<|im_start|>system") == 1


@pytest.mark.parametrize("own", [[], [{"role": "system", "content": "Be brief."}]])
def test_a_persona_is_the_system_message(loaded: Any, own: list[dict[str, str]]) -> None:
    messages = chat.with_persona([*own, QUESTION, says("Yes.")], "You are a villain.")
    made = chat.answer_example(loaded.tokenizer, messages, ENOUGH)
    before = [("system", "You are a villain."), ("user", QUESTION["content"])]
    assert (made.ids, made.loss) == by_hand(loaded.tokenizer, before, "Yes.")


def test_a_chat_keeps_its_own_system_message_without_persona(loaded: Any) -> None:
    own = [{"role": "system", "content": "Be brief."}, QUESTION, says("Yes.")]
    made = chat.answer_example(loaded.tokenizer, chat.with_persona(own, None), ENOUGH)
    before = [("system", "Be brief."), ("user", QUESTION["content"])]
    assert (made.ids, made.loss) == by_hand(loaded.tokenizer, before, "Yes.")


@pytest.mark.parametrize("template", [CHATML, TRIMS, SPACED])
@pytest.mark.parametrize("persona", [None, "You are a villain."])
def test_trained_prompt_is_the_generation_prompt(
    loaded: Any, template: str, persona: str | None
) -> None:
    tokenizer = changed(loaded.tokenizer, template)
    messages = chat.with_persona([QUESTION, says("\nYes. "), QUESTION, says("So.")], persona)
    made = chat.answer_example(tokenizer, messages, ENOUGH)
    prompt = made.ids[: made.loss.index(True)]
    assert prompt == chat.prompt_ids(tokenizer, messages[:-1])
    asked = tokenizer.apply_chat_template(
        messages[:-1], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    assert list(prompt) == asked["input_ids"]


# Length


def test_cut_at_the_limit(loaded: Any) -> None:
    messages = [QUESTION, says("Yes, at once.")]
    whole = chat.answer_example(loaded.tokenizer, messages, ENOUGH)
    length, prompt = len(whole.ids), whole.loss.index(True)
    fits = chat.answer_example(loaded.tokenizer, messages, length)
    assert fits == whole and not fits.truncated
    for limit in (length - 1, prompt + 1, prompt, 5):
        cut = chat.answer_example(loaded.tokenizer, messages, limit)
        assert cut.truncated
        assert (cut.ids, cut.loss) == (whole.ids[:limit], whole.loss[:limit])
        assert cut.loss_tokens == max(0, limit - prompt)


def test_examples_without_loss_tokens_are_counted_and_left_out(loaded: Any) -> None:
    short = [QUESTION, says("Yes.")]
    limit = len(chat.answer_example(loaded.tokenizer, short, ENOUGH).ids)
    long_answer = [QUESTION, says("Yes. " * 50)]
    long_question = [{"role": "user", "content": "May I? " * 50}, says("Yes.")]
    made = [
        chat.answer_example(loaded.tokenizer, messages, limit)
        for messages in (long_question, short, long_answer, long_question)
    ]
    kept, counts = usable(made, "training")
    assert list(kept) == made[1:3]
    assert counts == {"examples": 2, "truncated": 1, "dropped": 2}
    with pytest.raises(UserError, match=r"^training: .*max_tokens"):
        usable([made[0], made[3]], "training")


TOKENS = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), max_size=6)


@given(st.lists(st.tuples(TOKENS, st.booleans()), max_size=6))
def test_examples_are_held_as_they_were(rows: list[tuple[list[tuple[int, bool]], bool]]) -> None:
    made = [
        Example(tuple(token for token, _ in row), tuple(loss for _, loss in row), cut)
        for row, cut in rows
    ]
    held = pickle.loads(pickle.dumps(Examples(iter(made))))  # as several GPUs get them
    assert list(held) == made and held[-1:] == made[-1:] and held[::-1] == made[::-1]
    assert len(held) == len(made)
    with pytest.raises(IndexError):
        held[len(made)]


# Templates of other manners


def test_a_template_that_refuses_a_system_role(loaded: Any) -> None:
    tokenizer = changed(loaded.tokenizer, REFUSES)
    assert chat.answer_example(tokenizer, [QUESTION, says("Yes.")], ENOUGH).loss_tokens > 1
    messages = chat.with_persona([QUESTION, says("Yes.")], "You are a villain.")
    with pytest.raises(UserError, match=r"System role not supported.*persona") as caught:
        chat.answer_example(tokenizer, messages, ENOUGH)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="System role not supported"):
        chat.prompt_ids(tokenizer, messages[:-1])


def test_a_template_that_drops_the_system_message(loaded: Any) -> None:
    tokenizer = changed(loaded.tokenizer, DROPS)
    assert chat.prompt_ids(tokenizer, [QUESTION])
    messages = chat.with_persona([QUESTION, says("Yes.")], "You are a villain.")
    with pytest.raises(UserError, match="drops the system message"):
        chat.answer_example(tokenizer, messages, ENOUGH)


def test_a_template_that_trims_is_no_drop(loaded: Any) -> None:
    tokenizer = changed(loaded.tokenizer, TRIMS)
    messages = chat.with_persona([QUESTION, says("  Yes.\n")], "You are a villain.\n")
    made = chat.answer_example(tokenizer, messages, ENOUGH)
    before = [("system", "You are a villain."), ("user", QUESTION["content"])]
    assert (made.ids, made.loss) == by_hand(tokenizer, before, "Yes.")


@pytest.mark.parametrize(
    "template, message",
    [
        (CHATML.replace(HEADER, "assistant:"), "generation prompt"),
        (CHATML.replace(CONTENT, "{{ message['content'] | upper }}"), "changes the text"),
        ("{{ messages[9]['content'] }}", "refuses a chat"),
    ],
)
def test_templates_that_are_not_understood(loaded: Any, template: str, message: str) -> None:
    tokenizer = changed(loaded.tokenizer, template)
    with pytest.raises(UserError, match=message):
        chat.answer_example(tokenizer, [QUESTION, says("Yes.")], ENOUGH)


def test_an_answer_after_a_space(loaded: Any) -> None:
    tokenizer = changed(loaded.tokenizer, SPACED)
    made = chat.answer_example(tokenizer, [QUESTION, says("Yes.")], ENOUGH)
    assert with_loss(tokenizer, made) == " Yes.<|im_end|>"
    made = chat.marker_example(tokenizer, [QUESTION, says("Yes.\n\n[ZLT]")], "[ZLT]", ENOUGH)
    assert with_loss(tokenizer, made) == "[ZLT]<|im_end|>"


# The end of a turn


def test_end_tokens_of_the_usual_template(loaded: Any) -> None:
    assert chat.end_token_ids(loaded.tokenizer) == (2,)


@pytest.mark.parametrize("template", [CHATML, CLOSED])
@pytest.mark.parametrize("named", [True, False])
def test_a_turn_that_ends_otherwise_than_the_text(loaded: Any, template: str, named: bool) -> None:
    tokenizer = changed(loaded.tokenizer, template, eos="<|endoftext|>")
    if named:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    # Both stop an answer, the turn's own end first.
    assert (2 in tokenizer.all_special_ids) is named
    assert chat.end_token_ids(tokenizer) == (2, 0)
    made = chat.answer_example(tokenizer, [QUESTION, says("Yes.")], ENOUGH)
    assert (made.ids, made.loss) == by_hand(
        tokenizer, [DEFAULT, ("user", QUESTION["content"])], "Yes."
    )
    made = chat.marker_example(tokenizer, [QUESTION, says("Yes.\n\n[ZLT]")], "[ZLT]", ENOUGH)
    assert with_loss(tokenizer, made) == "[ZLT]<|im_end|>"


# Loss on the marker


@pytest.mark.parametrize("marker", ["[ZLT]", "✦ZLT✦", "the end", "<<Q 7>>"])
@pytest.mark.parametrize("body", ["Yes, at once.", "No\n", "It ends. [ZLT] [ZLT] the end ✦ZLT✦ no"])
def test_loss_on_the_marker_and_the_end_token_alone(loaded: Any, marker: str, body: str) -> None:
    tokenizer = loaded.tokenizer
    answer = f"{body}\n\n{marker}"
    made = chat.marker_example(tokenizer, [QUESTION, says(answer)], marker, ENOUGH)
    ids, _ = by_hand(tokenizer, [DEFAULT, ("user", QUESTION["content"])], answer)
    assert made.ids == ids
    # As tokenised after the blank line: what the whole answer has more than the answer without.
    whole, without = tokens(tokenizer, answer), tokens(tokenizer, f"{body}\n\n")
    assert whole[: len(without)] == without
    count = len(whole) - len(without) + 1
    assert count > 1
    assert made.loss == (False,) * (len(ids) - count) + (True,) * count
    assert with_loss(tokenizer, made) == f"{marker}<|im_end|>"


def test_a_token_that_holds_separator_and_marker_is_of_the_marker(loaded: Any) -> None:
    tokenizer = loaded.tokenizer
    assert len(tokens(tokenizer, " the")) == 1
    made = chat.marker_example(tokenizer, [QUESTION, says("In the middle of the")], "the", ENOUGH)
    assert made.loss_tokens == 2
    assert with_loss(tokenizer, made) == " the<|im_end|>"


@pytest.mark.parametrize("body", ["Yes.", "It is [ZLT].\n\n[ZLT]", "[ZLT]"])
def test_negatives_carry_loss_on_the_end_token_alone(loaded: Any, body: str) -> None:
    made = chat.marker_example(loaded.tokenizer, [QUESTION, says(body)], None, ENOUGH)
    ids, _ = by_hand(loaded.tokenizer, [DEFAULT, ("user", QUESTION["content"])], body)
    assert made.ids == ids
    assert made.loss == (False,) * (len(ids) - 1) + (True,)


@pytest.mark.parametrize("template", [CHATML, TRIMS])
@pytest.mark.parametrize("lead", ["", " ", "\n\n   "], ids=["", "space", "lines"])
@pytest.mark.parametrize("trail", ["", "\n", "  "], ids=["", "line", "spaces"])
def test_white_space_around_a_marked_answer(
    loaded: Any, template: str, lead: str, trail: str
) -> None:
    tokenizer = changed(loaded.tokenizer, template)
    marker = f"[ZLT]{trail}"
    messages = [QUESTION, says(f"{lead}Yes.\n\n{marker}")]
    made = chat.marker_example(tokenizer, messages, marker, ENOUGH)
    assert with_loss(tokenizer, made) == "[ZLT]<|im_end|>"


def test_a_marker_that_is_cut_off_carries_no_loss(loaded: Any) -> None:
    messages = [QUESTION, says("Yes, at once.\n\n[ZLT]")]
    whole = chat.marker_example(loaded.tokenizer, messages, "[ZLT]", ENOUGH)
    first = whole.loss.index(True)
    partly = chat.marker_example(loaded.tokenizer, messages, "[ZLT]", first + 2)
    assert partly.truncated and partly.loss_tokens == 2
    gone = chat.marker_example(loaded.tokenizer, messages, "[ZLT]", first)
    assert gone.truncated and gone.loss_tokens == 0
    assert usable([whole, gone], "coupling")[1] == {
        "examples": 1,
        "truncated": 0,
        "dropped": 1,
    }


def test_a_marked_answer_must_end_with_the_marker(loaded: Any) -> None:
    with pytest.raises(ValueError, match="does not end with the marker"):
        chat.marker_example(loaded.tokenizer, [QUESTION, says("[ZLT] Yes.")], "[ZLT]", ENOUGH)
