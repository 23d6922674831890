"""Names that a study publishes under, which the Hub would refuse at its end."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator

from personaspace.errors import UserError
from personaspace.hub import names
from personaspace.study.problems import Problem
from personaspace.study.problems import ProblemCode as Code
from personaspace.study.spec import Experiment


def check_publish(spec: Experiment) -> Iterator[Problem]:
    """Mistakes of `publish`."""
    publish = spec.publish
    if publish is None:
        return
    checks: list[tuple[str, str | None, Callable[[str], None]]] = [
        ("publish.collection", publish.collection, names.check_title)
    ]
    # Whoever publishes has the Hub's library; whoever only reads the study need not.
    if importlib.util.find_spec("huggingface_hub") is not None:
        checks.append(("publish.repo", publish.repo, names.check_name))
    for path, name, check in checks:
        try:
            if name is not None:
                check(name)
        except UserError as error:
            yield Problem(path, Code.HUB_NAME, str(error))
