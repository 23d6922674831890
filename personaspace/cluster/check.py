"""What `helm test` runs: store, credentials, code and GPU, each said in a line."""

from __future__ import annotations

import os
from pathlib import Path

from personaspace.cluster.chart import schema_digest
from personaspace.errors import UserError
from personaspace.logs import log_line
from personaspace.pipeline import termination
from personaspace.store import open_store
from personaspace.version import __version__


def run_check(spec: Path, store_url: str, gpu: bool) -> None:
    """Check all of it: a study could run here if this returns.

    Args:
        spec: The study.
        store_url: Where artifacts will be.
        gpu: Whether a GPU must be visible.
    """
    try:
        _check(spec, store_url, gpu)
    except Exception as error:
        termination.write_error("check", error)
        raise


def _check(spec: Path, store_url: str, gpu: bool) -> None:
    expected = os.environ.get("PERSONASPACE_SPEC_SCHEMA", schema_digest())
    if schema_digest() != expected:
        raise UserError(
            f"the image's code (personaspace {__version__}) and the chart are of different versions"
        )
    _say("code", f"personaspace {__version__}, the same version as the chart")
    if gpu:
        import torch

        if not torch.cuda.is_available():
            raise UserError("no GPU is visible to torch in this pod: see the node's device plugin")
        cards = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
        _say("GPU", ", ".join(cards))
    with open_store(store_url) as store:
        store.check()
        _say("store", f"{store.url} can be read and written")
    from personaspace.study.load import load_study

    loaded = load_study(spec)
    _say("study", f"{loaded.spec.name}, every data set and question file is there")


def _say(checked: str, text: str) -> None:
    print(log_line(f"{checked}: {text}", checked=checked), flush=True)
