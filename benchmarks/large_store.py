"""How long `status`, `verify`, `gc` and a listing take on a store of very many artifacts.

    python benchmarks/large_store.py --out /tmp/large-store
    python benchmarks/large_store.py --out /tmp/large-store --count 1000

Writes a store of `--count` artifacts of one small file each (once; it is found again), and runs the
commands on it with a study of 1,000 conditions and three seeds, each in a process of its own.
Processor seconds are told beside the clock's; memory is the process's peak.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from benchmarks.common import cost_of, report
from personaspace.store import open_store

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


def fill(folder: Path, count: int) -> None:
    """Write artifacts until there are so many."""
    stages = ("train", "extract", "couple", "evaluate")
    with open_store(str(folder)) as store:
        for number in range(len(store.list()) if folder.is_dir() else 0, count):
            stage, rest = stages[number % 4], number // 4
            place = f"c{rest % CONDITIONS:04d}/seed-{SEEDS[rest // CONDITIONS % 3]}/{stage}"
            with store.writer(f"{place}/{number:016x}") as writer:
                (writer.folder / "scores.json").write_text(f"[{number}]")
                writer.commit({"fingerprint": f"{number:016x}" + "0" * 48, "inputs": {}})


def main(
    out: Annotated[Path, typer.Option(help="Folder for the store and the figures.")],
    count: Annotated[int, typer.Option(min=1, help="Artifacts.")] = 100_000,
) -> None:
    """Write and measure."""
    out.mkdir(parents=True, exist_ok=True)
    spec, store = out / "study.yaml", out / f"store-{count}"
    spec.write_text(yaml.safe_dump(study()), encoding="utf-8")
    began = time.perf_counter()
    fill(store, count)
    typer.echo(f"written in {time.perf_counter() - began:.0f} s")
    cli = ("-m", "personaspace")
    commands: dict[str, tuple[object, ...]] = {
        "validate": (*cli, "validate", spec),
        "status": (*cli, "status", spec, "--store", store),
        "list": ("-c", LIST, store),
        "gc --dry-run": (*cli, "gc", "--dry-run", "--store", store),
        "gc SPEC --dry-run": (*cli, "gc", spec, "--dry-run", "--store", store),
        "verify": (*cli, "verify", "--store", store),
    }
    rows = [
        {"what": what, **cost_of((sys.executable, *command))} for what, command in commands.items()
    ]
    facts = {"artifacts": count, "conditions": CONDITIONS, "seeds": len(SEEDS)}
    report(rows, facts, out / f"large-store-{count}.json")


if __name__ == "__main__":
    typer.run(main)
