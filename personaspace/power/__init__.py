"""Power before the study: which effects its tests could detect."""

from personaspace.power.plan import Assumptions, Design, Finding, Plan, plan

__all__ = ["Assumptions", "Design", "Finding", "Plan", "plan"]
