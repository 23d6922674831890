"""Power before the study: which effects its tests could detect."""

from personaspace.analysis.power.design import Assumptions, Design, Endpoint, Finding, Plan

__all__ = ["Assumptions", "Design", "Endpoint", "Finding", "Plan"]
