"""The smallest results there can be."""

from __future__ import annotations

import json

from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import StudyCondition


def least_results(study: str) -> str:
    """`results.json` of a study of which nothing is known but its base model."""
    base = StudyCondition(name="base", kind="base")
    return json.dumps(Results(study=study, conditions=[base]).to_dict())
