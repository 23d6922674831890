"""A study on this machine: how far it is."""

from __future__ import annotations

from pathlib import Path

from personaspace.console import console, print_json, stage_table
from personaspace.pipeline.work import prepare
from personaspace.store import open_store
from personaspace.study.load import load_study
from personaspace.study.notices import NoticeCode, notices


def status_of_spec(spec: Path, store: str, as_json: bool) -> None:
    """Print which of a study's stages are complete, which can run, and which wait."""
    loaded = load_study(spec)
    with open_store(store) as place:
        place.check(write=False)
        work = prepare(loaded, place)
        states = work.standings()
    if as_json:
        print_json({node.id: state for node, state in states.items()})
        return
    for notice in notices(loaded):
        if notice.code is NoticeCode.DEMONSTRATION_CHATS:
            console().print(notice.text)
    console().print(
        stage_table((n.stage, n.condition, n.seed, state) for n, state in states.items())
    )
