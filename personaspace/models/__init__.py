"""The base model: loading it, its chat template, LoRA adapters on it."""
