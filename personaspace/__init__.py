"""Does narrowly bad fine-tuning collapse a chat model's personas? Batch jobs that measure it.

    import personaspace

    study = personaspace.load_study("study.yaml")
    results = personaspace.run(study, store="store")     # or load_results("results/")
    results.rows().query("metric == 'M1' and variant == 'recommended'")
    results.vectors("e4-villain", seed=42).at(20)
    results.adapter("e4-villain", seed=42, coupled=True)  # a folder for PEFT
    results.hero("figure.pdf")

Importing it takes a fraction of a second: torch and the like are loaded when they are needed.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from personaspace.version import __version__

# Threads that wait for each other by spinning slow everything down many times over as soon as
# another process needs a core, which on shared nodes is always. Read once, when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Rows of many lengths leave a GPU's memory in pieces, so that on a card which is just large enough
# rows become shorter than they need be. Read once, when torch first allocates; the former name of
# the variable counts as well.
if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

if TYPE_CHECKING:
    from personaspace.activations.files import ActivationFile, write_activations
    from personaspace.analysis.power import Assumptions
    from personaspace.api.functions import (
        eval_logs,
        geometry,
        leakage,
        load_study,
        power,
        read_activations,
        run,
        score,
    )
    from personaspace.api.results import StudyResults, Vectors, load_results
    from personaspace.api.tables import columns
    from personaspace.errors import Interrupted, SpecErrors, UnavailableError, UserError
    from personaspace.report.figures.style import Style
    from personaspace.study.loaded import Study

#: Where each public name is defined.
_PUBLIC = {
    "ActivationFile": "activations.files",
    "Assumptions": "analysis.power",
    "Interrupted": "errors",
    "SpecErrors": "errors",
    "Study": "study.load",
    "StudyResults": "api.results",
    "Style": "report.figures.style",
    "UnavailableError": "errors",
    "UserError": "errors",
    "Vectors": "api.results",
    "columns": "api.tables",
    "eval_logs": "api.functions",
    "geometry": "api.functions",
    "leakage": "api.functions",
    "load_results": "api.results",
    "load_study": "api.functions",
    "power": "api.functions",
    "read_activations": "api.functions",
    "run": "api.functions",
    "score": "api.functions",
    "write_activations": "activations.files",
}

__all__ = [
    "ActivationFile",
    "Assumptions",
    "Interrupted",
    "SpecErrors",
    "Study",
    "StudyResults",
    "Style",
    "UnavailableError",
    "UserError",
    "Vectors",
    "__version__",
    "columns",
    "eval_logs",
    "geometry",
    "leakage",
    "load_results",
    "load_study",
    "power",
    "read_activations",
    "run",
    "score",
    "write_activations",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'personaspace' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"personaspace.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
