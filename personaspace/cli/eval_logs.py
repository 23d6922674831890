"""`personaspace eval-logs`: a study's answers for Inspect's viewer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from personaspace.cli.options import DEFAULT_STORE, SpecPath, StoreUrl, local
from personaspace.console import counted
from personaspace.files import check_folder
from personaspace.logs import tell


def eval_logs(
    spec: SpecPath,
    store: StoreUrl = DEFAULT_STORE,
    out: Annotated[Path, local("Folder for the logs.")] = Path("eval-logs"),
) -> None:
    """Write a study's answers, their scores and a judge's verdicts as logs for `inspect view`.

    One log for each condition, seed and task: the answers in which the marker is looked for, and
    those that a judge scored. The format is that of inspect_ai, which need not be installed here.
    """
    from personaspace.pipeline.eval_logs import write_logs
    from personaspace.pipeline.work import prepare
    from personaspace.store import open_store
    from personaspace.study.load import load_study

    check_folder(out, "--out")
    loaded = load_study(spec)
    with open_store(store) as place:
        place.check(write=False)
        written, notes = write_logs(prepare(loaded, place), out)
    for note in notes:
        tell(f"note: {note}")
    for log in written:
        print(f"{log.path}: {counted(log.answers, 'answer')}")
