"""A study on this machine: what it has, what it takes, how far it is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rich.table import Table

from personaspace.console import console, counted, print_json, shown, stage_table
from personaspace.errors import UserError
from personaspace.live import Address
from personaspace.pipeline.forecast import rows_left
from personaspace.pipeline.work import Work, prepare
from personaspace.store import open_store
from personaspace.study.load import load_study
from personaspace.study.loaded import Study
from personaspace.study.notices import NoticeCode, notices
from personaspace.study.spec import Experiment


def serve_status_of_spec(spec: Path, store: str, where: Address) -> None:
    """Serve a page of the same until told to stop."""
    from personaspace.cli.live import StoreSource, until_stopped

    loaded = load_study(spec)
    with open_store(store) as place:
        place.check(write=False)
        until_stopped(StoreSource(prepare(loaded, place)), where)


def status_of_spec(spec: Path, store: str, as_json: bool) -> None:
    """Print which of a study's stages are complete, which can run, and which wait."""
    loaded = load_study(spec)
    with open_store(store) as place:
        place.check(write=False)
        work = prepare(loaded, place)
        states = work.standings()
        left = {} if as_json else rows_left(work, states)
    if as_json:
        print_json({node.id: state for node, state in states.items()})
        return
    for notice in notices(loaded):
        if notice.code is NoticeCode.DEMONSTRATION_CHATS:
            console().print(notice.text)
    console().print(
        stage_table((n.stage, n.condition, n.seed, state) for n, state in states.items())
    )
    told = Counter((node.stage, str(already)) for node, already in left.items())
    for (stage, already), count in told.items():
        console().print(shown(f"{stage}: {already} ({counted(count, 'ready stage')})"))


def conditions_table(loaded: Study) -> Table:
    """A row a condition: what it is trained on, and under which persona."""
    table = Table(title=f"{loaded.spec.name} on {loaded.spec.model.name}", title_justify="left")
    for name in ("condition", "kind", "dataset", "chats", "trained under"):
        table.add_column(name)
    unequal = any(c.seeds is not None for c in loaded.spec.conditions)
    if unequal:
        table.add_column("seeds")
    unlike = any(c.own_training for c in loaded.spec.conditions)
    if unlike:
        table.add_column("training of its own")
    for condition in loaded.spec.conditions:
        chats = loaded.chats.get(condition.dataset or "")
        table.add_row(
            condition.name,
            condition.kind,
            condition.dataset or condition.adapter or "–",
            str(len(chats.conversations)) if chats else "–",
            condition.trained_under,
            *([", ".join(map(str, loaded.spec.seeds_of(condition)))] if unequal else []),
            *([condition.own_training or "–"] if unlike else []),
        )
    return table


def no_results(work: Work) -> UserError:
    """That a store has no results of a study as it is now, and whether it has others."""
    others = len(list(work.store.list("aggregate")))
    older = (
        f" (there are {others} of another spec, or of an earlier version of personaspace: "
        "`personaspace run` brings them up to date)"
        if others
        else ""
    )
    return UserError(
        f"{work.study.spec.name}: no results in {work.store.url} for this spec{older}; "
        "`personaspace status` says what is missing"
    )


def wordings_in_words(spec: Experiment) -> str:
    """Which personas are asked in how many wordings."""
    by_count: dict[int, list[str]] = {}
    for persona in spec.personas:
        by_count.setdefault(len(persona.wordings), []).append(persona.name)
    told = [
        f"in {counted(count, 'wording')} {', '.join(names)}"
        for count, names in sorted(by_count.items(), reverse=True)
    ]
    return f"personas: {'; '.join(told)}"


def hours_in_words(hours: float | None, model: dict[str, Any] | None) -> str:
    """What the study takes of a GPU, in words."""
    if hours is None:
        return "GPU-hours: not known without the sizes of the model's weights"
    fits = model is None or (model["smallest_card"] or 1000) <= 80
    return (
        f"about {max(hours, 0.01):.2g} GPU-hours "
        + ("on one H100" if fits else "at an H100's speed, whose 80 GB do not hold the model")
        + " (an estimate from counted tokens, start-up not included)"
    )
