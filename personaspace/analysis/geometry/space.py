"""Where every persona is: on base's principal components, and along the assistant–EM axis.

For pictures: coordinates, no tests. Shape suffixes: P personas, H hidden.
"""

from __future__ import annotations

import numpy as np

from personaspace.analysis.geometry.cells import Cell, Roles
from personaspace.analysis.results_parts import PersonaPlace, PersonaSpace


def space_of(cell: Cell, roles: Roles) -> PersonaSpace:
    """Coordinates of all persona vectors of a cell in base's own basis."""
    base_PH = cell.means[0]
    centre_H = base_PH.mean(axis=0)
    _, sizes, basis = np.linalg.svd(base_PH - centre_H, full_matrices=False)
    # Signs of components are arbitrary: the largest persona is on the positive side.
    plane = basis[:2]
    on_plane = (base_PH - centre_H) @ plane.T
    farthest = on_plane[np.abs(on_plane).argmax(axis=0), np.arange(len(plane))]
    plane = plane * np.where(farthest < 0, -1, 1)[:, None]
    origin_H, axis_H = np.zeros_like(centre_H), None
    if roles.axis in cell.conditions and roles.assistant in cell.personas:
        at = cell.personas.index(roles.assistant)
        origin_H = base_PH[at]
        axis_H = cell.vectors(str(roles.axis))[at] - origin_H
    squares = sizes**2 / max(float((sizes**2).sum()), np.finfo(float).tiny)
    places = []
    for condition, vectors_PH in zip(cell.conditions, cell.means, strict=True):
        flat = (vectors_PH - centre_H) @ plane.T
        for persona, vector_H, point in zip(cell.personas, vectors_PH, flat, strict=True):
            along = None
            if axis_H is not None and axis_H.any():
                along = float((vector_H - origin_H) @ axis_H / (axis_H @ axis_H))
            first, second = (float(point[i]) if i < len(point) else 0.0 for i in range(2))
            places.append(
                PersonaPlace(
                    condition=condition, persona=persona, first=first, second=second, along=along
                )
            )
    shares = [float(each) for each in squares[:2]]
    return PersonaSpace(
        method=cell.method,
        layer=cell.layer,
        seed=cell.seed,
        assistant=roles.assistant,
        axis=roles.axis,
        shares=shares,
        places=places,
    )
