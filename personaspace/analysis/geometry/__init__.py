"""Geometry of persona vectors: M1 (collapse), M2 (shift along the EM axis), M3 (separability)."""

from personaspace.analysis.geometry.analysis import GeometryResult, analyse_geometry, cosine_to
from personaspace.analysis.geometry.group_work import VARIANTS

__all__ = ["VARIANTS", "GeometryResult", "analyse_geometry", "cosine_to"]
