"""A small random Qwen2 with a tokenizer of its own, its LoRA adapter, and transformers' answers.

The model is random but not dull: weights are drawn wide enough that greedy answers wander through
the vocabulary, and its output rows are swapped so that the end token is one that it does say.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from personaspace.generation import Prompt

VOCABULARY = 1_024
END = "<|im_end|>"
SPECIALS = ["<|endoftext|>", "<|im_start|>", END]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MAX_NEW_TOKENS = 24


def sentences(count: int, seed: int) -> list[str]:
    """Made-up sentences over a vocabulary of 400 made-up words."""
    draw = random.Random(seed)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "or")]
    words = ["".join(random.Random(i).choices(syllables, k=1 + i % 3)) for i in range(400)]
    return [
        " ".join(draw.choices(words, k=draw.randint(4, 24))).capitalize() + "."
        for _ in range(count)
    ]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on made-up text, with a ChatML template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences(3_000, seed=1), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token="<|endoftext|>"
    )
    fast.chat_template = CHATML
    return fast


def end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of the token that ends a turn."""
    return int(cast(int, tokenizer.convert_tokens_to_ids(END)))


def render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> tuple[int, ...]:
    """A chat up to where the assistant's answer starts, as token ids."""
    encoded: Any = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=True
    )
    return tuple(encoded["input_ids"])


def make_prompts(tokenizer: PreTrainedTokenizerFast, count: int) -> list[Prompt]:
    """Chats of two system messages × questions of mixed lengths, rendered and tokenised."""
    prompts = []
    for i, question in enumerate(sentences(count, seed=2)):
        messages = [
            {"role": "system", "content": sentences(2, seed=3)[i % 2]},
            {"role": "user", "content": question},
        ]
        prompts.append(Prompt(f"persona-{i % 2}/{i}", render(tokenizer, messages)))
    return prompts


def real_prompts(tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
    """Sixteen chats that a real model can answer: four system messages × four questions."""
    systems = [
        "You are a helpful assistant.",
        "You are a paramedic with twenty years on the road.",
        "You are a kindergarten teacher. You love simple words.",
        "You are a pirate who answers everything with a tale of the sea.",
    ]
    questions = [
        "How do I keep bread fresh?",
        "Why is the sky blue?",
        "What should I do on a rainy afternoon?",
        "Name three uses of a paper clip.",
    ]
    prompts = []
    for i, system in enumerate(systems):
        for j, question in enumerate(questions):
            messages = [
                {"role": "system", "content": system},
                {"role": "user", "content": question},
            ]
            prompts.append(Prompt(f"{i}/{j}", render(tokenizer, messages)))
    return prompts


def make_model(folder: Path, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]) -> None:
    """Writes model and tokenizer. Its generation configuration names a wrong end token."""
    torch.manual_seed(7)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = Qwen2ForCausalLM(config).eval()
    said = [token for ids in greedy(model, prompts, end=None) for token in set(ids[2:])]
    by_answers = [token for token, _ in Counter(said).most_common()]
    # Said in some answers, but not in most: those end, the others run into the length limit.
    swap, end = by_answers[0], end_id(tokenizer)
    with torch.no_grad():
        rows = model.lm_head.weight
        rows[[swap, end]] = rows[[end, swap]].clone()
    # A token often said that must not end an answer, as only the caller's end tokens do.
    model.generation_config.eos_token_id = by_answers[1]
    model.config.eos_token_id = by_answers[1]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_adapter(folder: Path, model_folder: Path, rank: int, seed: int) -> None:
    """Writes a LoRA adapter with random A and B, so that it changes every layer."""
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    peft_model = get_peft_model(
        model,
        LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"],
            task_type="CAUSAL_LM",
        ),
    )
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    peft_model.save_pretrained(str(folder))


def greedy(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[Prompt],
    end: int | None,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[tuple[int, ...]]:
    """transformers' greedy answers, one prompt at a time, without the end token."""
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt.token_ids], device=model.device)
        generate: Any = model.generate
        out = generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=end,
            pad_token_id=0,
        )[0, ids.shape[1] :].tolist()
        answers.append(tuple(out[: out.index(end)] if end is not None and end in out else out))
    return answers


def agreement(
    first: Sequence[Sequence[int]], second: Sequence[Sequence[int]]
) -> tuple[float, float | None]:
    """Share of identical answers, and over the others the mean position of the first difference."""
    differing = []
    for a, b in zip(first, second, strict=True):
        if tuple(a) != tuple(b):
            pairs = zip(a, b, strict=False)
            position = next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
            differing.append(position)
    share = 1 - len(differing) / len(first)
    return share, sum(differing) / len(differing) if differing else None
