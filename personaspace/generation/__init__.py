"""Generation: one small interface, two engines (`transformers` and `vllm`)."""

from personaspace.generation.base import Answer, Engine, Prompt, Sampling
from personaspace.seeds import derive_seed

__all__ = ["Answer", "Engine", "Prompt", "Sampling", "derive_seed"]
