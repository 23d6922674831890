"""`personaspace verify` and `gc`: is a store what it was, and what in it does nobody need?"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from personaspace import interrupt
from personaspace.cli.options import DEFAULT_STORE, AsJson, StoreUrl
from personaspace.console import console, counted, print_json, shown, size
from personaspace.errors import EXIT_FAILURE

#: Young enough to be somebody's work: minutes.
_DAY = 24 * 60.0


def verify(
    store: StoreUrl = DEFAULT_STORE,
    prefix: Annotated[str, typer.Option(help="Only artifacts at and below this key.")] = "",
    resume: Annotated[
        Path | None,
        typer.Option(help="Remember in this file what is sound, and do not read it again."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read every artifact of a store anew and name what is broken; exit code 1: something is."""
    from personaspace.pipeline import upkeep
    from personaspace.store import open_store

    count = 0

    def advance() -> None:
        nonlocal count
        count += 1

    with interrupt.breakable(), open_store(store) as place:
        place.check(write=False)
        known = upkeep.Known(resume)
        found = list(upkeep.verify(place, prefix, known=known, advance=advance))
    if as_json:
        findings = [asdict(each) | {"remedy": each.remedy} for each in found]
        print_json({"artifacts": count, "findings": findings})
    else:
        for each in found:
            console().print(shown(f"{each.text}; {each.remedy}"), soft_wrap=True)
        broken = len({each.key for each in found})
        print(f"{counted(count, 'artifact')}, {f'{broken} broken' if broken else 'all sound'}")
    if found:
        raise SystemExit(EXIT_FAILURE)


def gc(
    specs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Studies whose artifacts stay; none: every artifact stays.", metavar="[SPEC]…"
        ),
    ] = None,
    store: StoreUrl = DEFAULT_STORE,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Remove nothing; say what would be.")
    ] = False,
    older_than: Annotated[
        float, typer.Option(min=0, max=10**6, help="Leave alone what is younger (minutes).")
    ] = _DAY,
    as_json: AsJson = False,
) -> None:
    """Remove what crashed runs left in a store and, with studies given, what none of them needs."""
    from personaspace.pipeline import upkeep
    from personaspace.pipeline.work import prepare
    from personaspace.store import open_store
    from personaspace.study.load import load_study

    studies = [load_study(spec) for spec in specs or ()]
    with interrupt.breakable(), ExitStack() as stack:
        place = stack.enter_context(open_store(store))
        place.check(write=False)  # which makes no folder: a name mistyped is no empty store
        if not dry_run:
            place.check()
        works = [prepare(study, place) for study in studies]
        found = upkeep.collect(place, works, minutes=older_than, dry_run=dry_run)
    if as_json:
        print_json(asdict(found) | {"dry_run": dry_run})
        return
    for key in found.artifacts:
        print(key)
    verb = "would be removed" if dry_run else "removed"
    print(
        f"{counted(len(found.artifacts), 'artifact')} ({size(found.bytes)}) and "
        f"{counted(found.orphans, 'leftover')} of runs that were killed {verb}"
    )
    if not found.uploads_listed:
        print("uploads in parts that never ended are not among them: this server does not list any")
