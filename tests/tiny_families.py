"""Tiny random models of many families, as their transformers configurations make them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chat_templates import CHANNELS, DATED, NO_SYSTEM, SYSTEM_FIRST, SYSTEM_LAST, THINKING
from conftest import CHATML

#: Sizes that most configurations share.
COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "initializer_range": 0.1,
}
VISION = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        kind: `model_type` of its configuration.
        people_say: Models of it that people know.
        config: Sizes and what else a tiny one needs, beside `COMMON`.
        text: Whether the sizes belong into a `text_config`.
        template: A chat template of the form of the family's.
    """

    kind: str
    people_say: str
    config: dict[str, Any] = field(default_factory=dict)
    text: bool = False
    template: str = CHATML


WINDOW = {"sliding_window": 12}
#: Windows on every second layer.
ALTERNATING = {
    **WINDOW,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
FACTORS = {
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.25,
    "logits_scaling": 8.0,
}
GEMMA3 = {**ALTERNATING, "query_pre_attn_scalar": 8}
MAMBA = {
    "mamba_d_ssm": 64,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
    "mamba_expand": 2,
    "mamba_chunk_size": 8,
}
LATENT = {
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "head_dim": 8,
}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}

#: What is refused before anything runs, and why.
REFUSED: dict[str, str] = {
    "gpt2": "its decoder layers cannot be found",
    "bloom": "its decoder layers cannot be found",
    "llama4_text": "its decoder layers cannot be found",
    "mamba": "no layer of it attends",
}

FAMILIES: list[Family] = [
    Family("llama", "Llama-2, Llama-3.x, SmolLM2, Yi", template=DATED),
    Family("qwen2", "Qwen2, Qwen2.5"),
    Family("qwen3", "Qwen3 (dense)", template=THINKING),
    Family(
        "mistral", "Mistral-7B-v0.2 and later, Nemo", {"sliding_window": None}, template=SYSTEM_LAST
    ),
    Family("mistral", "Mistral-7B-v0.1", WINDOW, template=NO_SYSTEM),
    Family("gemma", "Gemma", template=NO_SYSTEM),
    Family(
        "gemma2",
        "Gemma-2",
        {**ALTERNATING, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 5.0},
        template=NO_SYSTEM,
    ),
    Family("gemma3_text", "Gemma-3 1B", GEMMA3, template=SYSTEM_FIRST),
    Family("gemma3", "Gemma-3 4B to 27B", GEMMA3, text=True, template=SYSTEM_FIRST),
    Family("olmo", "OLMo"),
    Family("olmo2", "OLMo-2"),
    Family("olmo3", "OLMo-3", ALTERNATING),
    Family("olmoe", "OLMoE", EXPERTS),
    Family("phi", "Phi-1.5, Phi-2"),
    Family("phi3", "Phi-3, Phi-3.5, Phi-4"),
    Family("granite", "Granite-3.x", FACTORS, template=DATED),
    Family("granitemoe", "Granite-3.x MoE", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    Family("smollm3", "SmolLM3", {"no_rope_layer_interval": 2}, template=DATED),
    Family("mixtral", "Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    Family(
        "qwen2_moe",
        "Qwen1.5-MoE, Qwen2-MoE",
        {**EXPERTS, "shared_expert_intermediate_size": 40, "decoder_sparse_step": 1},
    ),
    Family("qwen3_moe", "Qwen3-30B-A3B", {**EXPERTS, "decoder_sparse_step": 1}, template=THINKING),
    Family("gpt_oss", "gpt-oss", {**ALTERNATING, "num_local_experts": 4}, template=CHANNELS),
    Family("cohere", "Command-R"),
    Family("cohere2", "Command-R7B", ALTERNATING),
    Family("stablelm", "StableLM-2"),
    Family("starcoder2", "StarCoder2"),
    Family("exaone4", "EXAONE-4", ALTERNATING),
    Family("glm4", "GLM-4"),
    Family("ministral", "Ministral", ALTERNATING),
    Family("seed_oss", "Seed-OSS"),
    Family("nemotron", "Nemotron-4, Minitron"),
    Family("gpt_neox", "Pythia"),
    Family("gpt2", "GPT-2"),
    Family("bloom", "BLOOM"),
    Family("opt", "OPT"),
    Family("mamba", "Mamba"),
    Family("lfm2", "LFM2", {"layer_types": ["conv", "full_attention", "conv"]}),
    Family("falcon_h1", "Falcon-H1", MAMBA),
    Family(
        "granitemoehybrid",
        "Granite-4-H",
        {
            **MAMBA,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "layer_types": ["mamba", "attention", "mamba"],
        },
    ),
    Family("qwen3_next", "Qwen3-Next", {**EXPERTS, **LINEAR}),
    Family("qwen3_5_text", "Qwen3.5", LINEAR, template=THINKING),
    Family("llama4_text", "Llama-4", {"num_local_experts": 2, "intermediate_size_mlp": 48}),
    Family("deepseek_v3", "DeepSeek-V3", LATENT),
]


def config_of(family: Family, vocabulary: int) -> Any:
    """Its configuration, tiny."""
    from transformers import AutoConfig

    sizes = {**COMMON, "vocab_size": vocabulary, **family.config}
    ends = {"eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 0}
    if family.text:
        sees = {key: COMMON[key] for key in VISION} | {"image_size": 28, "patch_size": 14}
        parts = {"text_config": {**sizes, **ends}, "vision_config": sees}
        return AutoConfig.for_model(family.kind, **parts, mm_tokens_per_image=4, **ends)
    return AutoConfig.for_model(family.kind, **sizes, **ends)


def build(family: Family, folder: Path, tokenizer: Any) -> Path:
    """A random model of the family in float32, with the tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(family, len(tokenizer)))
    model.float().save_pretrained(folder)
    told = copy.deepcopy(tokenizer)
    told.chat_template = family.template
    told.save_pretrained(folder)
    return folder
