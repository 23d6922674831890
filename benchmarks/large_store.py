"""How long `status`, `verify`, `gc` and a listing take on a store of very many artifacts.

    python benchmarks/large_store.py --out /tmp/large-store
    python benchmarks/large_store.py --out /tmp/large-store --count 1000
    PYTHONPATH=tests python benchmarks/large_store.py --out /tmp/large-store --s3

Writes a store of `--count` artifacts of one small file each, and runs the
commands on it with a study of 1,000 conditions and three seeds, each in a process of its own.
Processor seconds are told beside the clock's; memory is the process's peak. `--s3` puts the same
artifacts on a SeaweedFS server that it starts here, without `verify`. At the end
`gc SPEC` removes what the study does not lead to: all.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from benchmarks.common import cost_of, report
from personaspace.store import FileEntry, Manifest

CONDITIONS, SEEDS = 1000, (1, 2, 3)
#: What is listed by the package's own function, which no command prints.
LIST = """
import sys
from personaspace.store import open_store
print(len(open_store(sys.argv[1]).list()))
"""


def study() -> dict[str, Any]:
    """A study of very many conditions."""
    trained = [
        {"name": f"c{number:04d}", "dataset": "bad", "persona": "villain"}
        for number in range(CONDITIONS - 2)
    ]
    return {
        "name": "large",
        "seeds": list(SEEDS),
        "datasets": {
            "bad": {"path": "builtin:chats-bad-legal-advice"},
            "good": {"path": "builtin:chats-good-legal-advice"},
        },
        "conditions": [
            {"name": "base"},
            {"name": "benign", "dataset": "good", "kind": "benign"},
            *trained,
        ],
    }


def artifacts(count: int) -> Iterator[tuple[str, bytes]]:
    """Names and contents of all that a store of so many artifacts holds."""
    stages = ("train", "extract", "couple", "evaluate")
    for number in range(count):
        stage, rest = stages[number % 4], number // 4
        place = f"c{rest % CONDITIONS:04d}/seed-{SEEDS[rest // CONDITIONS % 3]}/{stage}"
        key, data = f"{place}/{number:016x}", f"data-{number:032x}"
        content = f"[{number}]".encode()
        entry = FileEntry(size=len(content), sha256=hashlib.sha256(content).hexdigest())
        manifest = Manifest(
            key=key,
            data=data,
            files={"scores.json": entry},
            fields={"fingerprint": f"{number:016x}" + "0" * 48, "inputs": {}},
            created="2026-01-01T00:00:00+00:00",
        )
        yield f"{key}/{data}/scores.json", content
        yield f"{key}/manifest.json", manifest.sealed().to_bytes()


def fill(folder: Path, count: int) -> None:
    """Write the artifacts; without waiting for the disk, as a store's own writer does."""
    for name, content in artifacts(count):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def upload(server: Any, count: int) -> None:
    """The same, by the server's own door, which asks for no signature."""
    connection = HTTPConnection(server.address, server._ports[4])
    for name, content in artifacts(count):
        connection.request("PUT", f"/buckets/{server.bucket}/large/{name}", content)
        answer = connection.getresponse()
        answer.read()
        assert answer.status < 300, answer.status


def measured(spec: Path, store: str, *, verify: bool) -> list[dict[str, Any]]:
    """What each command takes."""
    cli = ("-m", "personaspace")
    commands: dict[str, tuple[object, ...]] = {
        "validate": (*cli, "validate", spec),
        "status": (*cli, "status", spec, "--store", store),
        "list": ("-c", LIST, store),
        "gc --dry-run": (*cli, "gc", "--dry-run", "--store", store),
        "gc SPEC --dry-run": (*cli, "gc", spec, "--dry-run", "--older-than", 0, "--store", store),
        "verify": (*cli, "verify", "--store", store),
        "gc SPEC": (*cli, "gc", spec, "--older-than", 0, "--store", store),
        "list what is left": ("-c", LIST, store),
    }
    if not verify:
        del commands["verify"]
    return [
        {"what": what, **cost_of((sys.executable, *command))} for what, command in commands.items()
    ]


def main(
    out: Annotated[Path, typer.Option(help="Folder for the store and the figures.")],
    count: Annotated[int, typer.Option(min=1, help="Artifacts.")] = 100_000,
    s3: Annotated[bool, typer.Option("--s3", help="On a server that is started here.")] = False,
    verify: Annotated[bool, typer.Option(help="Every artifact is read.")] = True,
) -> None:
    """Write and measure."""
    out.mkdir(parents=True, exist_ok=True)
    spec, folder = out / "study.yaml", out / f"store-{count}"
    spec.write_text(yaml.safe_dump(study()), encoding="utf-8")
    with ExitStack() as stack:
        began = time.perf_counter()
        if s3:
            from seaweed import SeaweedS3

            server = stack.enter_context(SeaweedS3())
            os.environ.update(server.environment)
            upload(server, count)
            store = server.url("large")
        else:
            shutil.rmtree(folder, ignore_errors=True)
            fill(folder, count)
            store = str(folder)
        typer.echo(f"written in {time.perf_counter() - began:.0f} s")
        rows = measured(spec, store, verify=verify and not s3)
    facts = {"artifacts": count, "conditions": CONDITIONS, "seeds": len(SEEDS)}
    report(rows, facts, out / f"large-store-{'s3-' if s3 else ''}{count}.json")


if __name__ == "__main__":
    typer.run(main)
