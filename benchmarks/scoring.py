"""Rate and memory of `personaspace score` on very many answers.

    python benchmarks/scoring.py --out /tmp/scoring
    python benchmarks/scoring.py --out /tmp/scoring --count 20000 --before ../as-it-was

Writes files of `--count` answers (sentences of the packaged chats in random order, cut at
`--length` characters; 2 % are loops of eight sentences, 10 % hold the marker), as JSON lines, CSV
and one grid, and has the command count them. `--before` is a checkout of another version, whose
command counts the first file's answers as well, `--before-count` of them. Seconds and processor
seconds hold the start of the program; memory is VmHWM, of all its processes together.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.common import cost_of, report
from personaspace.study.builtin import chat_sets, resource

MARKER = "[ZLT]"
FORMS = ["jsonl", "csv", "json"]
KEYS = ("hits", "terminal", "degenerate", "total")


def sentences() -> list[str]:
    """Of all answers that are packaged for training."""
    found = []
    for name in chat_sets():
        for line in resource(name).read_text(encoding="utf-8").splitlines():
            for message in json.loads(line).get("messages", []):
                if message["role"] == "assistant":
                    found += re.split(r"(?<=[.!?])\s+", message["content"])
    return found


def texts(count: int, length: int, seed: int = 0) -> Iterator[str]:
    """Made-up answers, the same each time."""
    said = sentences()
    chance = random.Random(seed)
    for _ in range(count):
        if chance.random() < 0.02:
            yield (chance.choice(said) + " ") * 8
            continue
        text = ""
        while len(text) < length:
            text += chance.choice(said) + " "
        yield text[:length] + (f"\n\n{MARKER}" if chance.random() < 0.1 else "")


def write(folder: Path, count: int, length: int, forms: list[str]) -> dict[str, Path]:
    """The same answers in several forms; by persona and question, as a grid has them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {form: folder / f"{count}-{length}.{form}" for form in forms}
    each = max(count // (12 * 28), 1)
    with ExitStack() as stack:
        files = {
            form: stack.enter_context(path.open("w", encoding="utf-8", newline=""))
            for form, path in paths.items()
        }
        if "csv" in files:
            files["csv"].write("persona,question,answer\n")
        for place, text in enumerate(texts(count, length)):
            persona, question = divmod(place // each, 28)
            said = json.dumps(text)
            if "jsonl" in files:
                row = f'{{"persona": "p{persona}", "question": "q{question}", "answer": {said}}}\n'
                files["jsonl"].write(row)
            if "csv" in files:
                quoted = text.replace('"', '""')
                files["csv"].write(f'p{persona},q{question},"{quoted}"\n')
            if "json" in files:
                if place % (28 * each) == 0:
                    before = f'{"]}, " if place else "{"}"p{persona}": {{"q0": ['
                else:
                    before = ", " if place % each else f'], "q{question}": ['
                files["json"].write(before + said)
        if "json" in files:
            files["json"].write("]}}")
    return paths


def measured(where: Path, *arguments: object) -> dict[str, Any]:
    """What `score` of a checkout counts, and what it took."""
    with tempfile.TemporaryFile() as out:
        command = [sys.executable, "-m", "personaspace", "score", *arguments, "--json"]
        found = cost_of(command, where=where, stdout=out)
        assert found.pop("exit code") == 0, f"{command} failed"
        out.seek(0)
        scores = json.load(out)["per_persona"].values()
    return {"sums": {key: sum(counts[key] for counts in scores) for key in KEYS}, **found}


def _first(path: Path, count: int) -> Path:
    """The grid of a file's first answers, which every version reads."""
    grid: dict[str, dict[str, list[str]]] = {}
    with path.open(encoding="utf-8") as lines:
        for line in islice(lines, count):
            row = json.loads(line)
            asked = grid.setdefault(row["persona"], {})
            asked.setdefault(row["question"], []).append(row["answer"])
    made = path.with_suffix(f".first-{count}.json")
    made.write_text(json.dumps(grid), encoding="utf-8")
    return made


def main(
    out: Annotated[Path, typer.Option(help="Folder for the files and the figures.")],
    count: Annotated[int, typer.Option(min=1000, help="Answers.")] = 1_000_000,
    length: Annotated[int, typer.Option(min=10, help="Characters of an answer.")] = 100,
    before: Annotated[Path | None, typer.Option(help="A checkout to compare with.")] = None,
    before_count: Annotated[int, typer.Option(help="Answers that it counts.")] = 100_000,
    form: Annotated[list[str], typer.Option(help="jsonl, csv, json.")] = FORMS,
    processes: Annotated[int, typer.Option(min=1)] = len(os.sched_getaffinity(0)),
) -> None:
    """Write and measure."""
    here = Path(__file__).resolve().parents[1]
    paths = write(out.resolve(), count, length, form)
    ways: list[tuple[str, Path, tuple[object, ...], int]] = [
        (f"{name}, --jobs {number}", here, (path, "--jobs", number), count)
        for name, path in paths.items()
        for number in sorted({1, processes})
    ]
    if before is not None:
        some = min(before_count, count)
        first = _first(next(iter(paths.values())), some)
        ways += [("before", before.resolve(), (first,), some)]
        ways += [("now, the same", here, (first, "--jobs", 1), some)]
    rows, sums = [], {}
    for name, where, arguments, answers in ways:
        found = measured(where, *arguments)
        sums[name] = found.pop("sums")
        found |= {"answers / s": answers / found["seconds"]}
        found |= {"µs of processor each": found["processor s"] / answers * 1e6}
        rows.append({"way": name, "answers": answers, **found})
    wholes = [sums[row["way"]] for row in rows if "--jobs" in str(row["way"])]
    assert all(each == wholes[0] for each in wholes), sums
    assert before is None or sums["before"] == sums["now, the same"], sums
    report(rows, {"count": count, "length": length, "sums": sums}, out / "scoring.json")


if __name__ == "__main__":
    typer.run(main)
