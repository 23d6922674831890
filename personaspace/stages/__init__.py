"""The stages, and running one: skip, fetch inputs, compute, commit."""

from personaspace.stages.run import Outcome, Work, prepare, run_node

__all__ = ["Outcome", "Work", "prepare", "run_node"]
