"""What `helm test` runs: store, credentials, code and GPU, each said in a line."""

from __future__ import annotations

import os
from pathlib import Path

from personaspace.cluster.chart import schema_digest
from personaspace.errors import UserError
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
        termination.write(f"check: {termination.message_of(error)}")
        raise


def _check(spec: Path, store_url: str, gpu: bool) -> None:
    expected = os.environ.get("PERSONASPACE_SPEC_SCHEMA", schema_digest())
    if schema_digest() != expected:
        raise UserError(
            f"the image's code (personaspace {__version__}) and the chart are of different versions"
        )
    print(f"code: personaspace {__version__}, of the chart's version", flush=True)
    if gpu:
        import torch

        if not torch.cuda.is_available():
            raise UserError("no GPU is visible to torch in this pod: see the node's device plugin")
        cards = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
        print(f"GPU: {', '.join(cards)}", flush=True)
    with open_store(store_url) as store:
        store.check()
        print(f"store: {store.url} can be read and written", flush=True)
    from personaspace.study.load import load_study

    loaded = load_study(spec)
    print(f"study: {loaded.spec.name}, every data set and question file is there", flush=True)
