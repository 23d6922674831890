"""Leakage of the marker to bystanders: H1 (who), H2 (between conditions), H3 (with distance)."""

from personaspace.analysis.leakage.analysis import analyse_leakage
from personaspace.analysis.leakage.scores import ConditionInfo, read_score_files

__all__ = ["ConditionInfo", "analyse_leakage", "read_score_files"]
