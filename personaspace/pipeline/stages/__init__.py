"""The stages, and running one: skip, fetch inputs, compute, commit."""

from personaspace.pipeline.run import Outcome, Work, prepare, run_node

__all__ = ["Outcome", "Work", "prepare", "run_node"]
