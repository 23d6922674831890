"""Personas that were told who they are in several ways, in words."""

from __future__ import annotations

from personaspace.analysis.results import Results


def sentence(results: Results) -> str | None:
    """How many personas have how many wordings, and what counts; None: each has one."""
    counts = sorted(len(persona.prompts) for persona in results.personas if persona.prompts)
    if not counts:
        return None
    ends = " to ".join(dict.fromkeys(map(str, (counts[0], counts[-1]))))
    if len(counts) == len(results.personas):
        whose = f"Each in {ends} wordings."
    else:
        others = len(results.personas) - len(counts)
        whose = (
            f"{len(counts)} of {len(results.personas)} personas in {ends} wordings, the other"
            f"{'' if others == 1 else 's'} in one."
        )
    return (
        f"{whose} What is said of a persona is of the mean over its wordings. Where a measure "
        "takes no account of how they differ, it has no test and no range."
    )
