"""The spec's reference page, made from its JSON schema."""

from __future__ import annotations

from personaspace.schema_page import page
from personaspace.study.spec import Experiment


def markdown() -> str:
    """All sections of the spec with their fields, types, defaults and meanings."""
    intro = [
        "One YAML file describes a study. Written by `make schema` from the models in",
        "`personaspace/study/spec.py`; defaults are the published recipe.",
    ]
    return page("The spec", intro, Experiment.model_json_schema())
