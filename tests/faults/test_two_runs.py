"""One node in two runs at once: what the other run finishes first is no failure of this one."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from personaspace.errors import Interrupted
from personaspace.pipeline import run as running
from personaspace.pipeline.context import Context
from personaspace.pipeline.node import Node
from personaspace.pipeline.progress import Board, StageProgress
from personaspace.pipeline.run import run_node
from personaspace.pipeline.runtime import Runtime
from personaspace.pipeline.stages import STAGES
from personaspace.pipeline.states import NodeState
from personaspace.pipeline.work import Work, prepare
from personaspace.store import open_store
from personaspace.study.load import load_study

NODE = Node("train", "benign", 42)


def beaten(work: Work, monkeypatch: pytest.MonkeyPatch, error: Exception, complete: bool) -> str:
    """Runs the node while another run completes it, or not, and ours fails; what was said."""

    def run(_: Context) -> None:
        if complete:
            with work.store.writer(work.key(NODE)) as other:
                (other.folder / "theirs").write_bytes(b"first")
                other.commit({"fingerprint": work.fingerprints[NODE], "inputs": {}})
        raise error

    monkeypatch.setitem(STAGES, "train", replace(STAGES["train"], run=run))
    said = io.StringIO()
    board = Board([NODE], said)
    outcome = run_node(work, NODE, Runtime(work.study), lambda: StageProgress(board, NODE))
    assert outcome.state is NodeState.SKIPPED and set(outcome.manifest.files) == {"theirs"}
    return said.getvalue()


@pytest.fixture
def work(study_dict: dict[str, Any], tmp_path: Path) -> Any:
    spec = tmp_path / "study.yaml"
    spec.write_text(yaml.safe_dump(study_dict))
    with open_store(str(tmp_path / "store")) as store:
        yield prepare(load_study(spec), store)


def test_a_checkpoint_that_the_other_run_took_away(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = beaten(work, monkeypatch, FileNotFoundError("step-00000003"), complete=True)
    assert "another run has completed it meanwhile (FileNotFoundError: step-00000003)" in said
    assert (
        running.run_node(
            work, NODE, Runtime(work.study), lambda: pytest.fail("it is complete")
        ).state
        is NodeState.SKIPPED
    )


@pytest.mark.parametrize(
    ("error", "complete"),
    [(FileNotFoundError("gone"), False), (Interrupted("asked to stop"), True)],
    ids=["nobody completed it", "asked to stop"],
)
def test_other_failures_stay(
    work: Work, monkeypatch: pytest.MonkeyPatch, error: Exception, complete: bool
) -> None:
    with pytest.raises(type(error)):
        beaten(work, monkeypatch, error, complete)
