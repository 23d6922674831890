"""Rate and memory of `personaspace score` on very many answers, beside one after the other.

    python benchmarks/scoring.py --out /tmp/scoring
    python benchmarks/scoring.py --out /tmp/scoring --count 20000 --plain 2000

Writes files of `--count` answers (sentences of the packaged chats in random order, cut at
`--length` characters; 2 % are loops of eight sentences, 10 % hold the marker), and counts them in
processes of their own: as JSON lines, CSV and one grid. "plain" is what `score` was before: the
file held whole, and each answer measured by itself; it counts the first `--plain` answers. Memory
is VmHWM, of all processes together.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.common import report
from personaspace.behaviour.coherence import coherence
from personaspace.behaviour.marker import ends_with_marker, has_marker
from personaspace.behaviour.score_file import score_file
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


def plain(path: Path, count: int) -> dict[str, int]:
    """All of the file's lines held, then one answer after the other."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    sums = dict.fromkeys(KEYS, 0)
    for row in rows[:count]:
        answer = row["answer"]
        sums["hits"] += has_marker(answer, MARKER)
        sums["terminal"] += ends_with_marker(answer, MARKER)
        sums["degenerate"] += coherence(answer, marker=MARKER).degenerate
        sums["total"] += 1
    return sums


def now(path: Path, processes: int) -> dict[str, int]:
    """As the command does."""
    scores = score_file(path, MARKER, processes=processes)["per_persona"].values()
    return {key: sum(counts[key] for counts in scores) for key in KEYS}


def _peaks(pid: int) -> dict[int, int]:
    """VmHWM in kB of a process and of those that it started."""
    found = {}
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        found[pid] = int(re.findall(r"VmHWM:\s+(\d+)", status)[0])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except (OSError, IndexError):
        return found
    for child in children:
        found |= _peaks(int(child))
    return found


def _measured(pipe: Any, work: Any, arguments: tuple[Any, ...]) -> None:
    ended = threading.Event()
    peaks: dict[int, int] = {}

    def watch() -> None:
        while not ended.wait(0.1):
            peaks.update(_peaks(os.getpid()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    before = os.times()
    began = time.perf_counter()
    sums = work(*arguments)
    took = time.perf_counter() - began
    after = os.times()
    ended.set()
    watcher.join()
    peaks.update(_peaks(os.getpid()))
    spent = sum(after[:4]) - sum(before[:4])
    pipe.send((sums, took, spent, sum(peaks.values()) / 2**20))


def measured(work: Any, *arguments: Any) -> tuple[dict[str, int], float, float, float]:
    """Counts, seconds, processor seconds and GiB of something in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measured, args=(theirs, work, arguments))
    process.start()
    found: tuple[dict[str, int], float, float, float] = ours.recv()
    process.join()
    return found


def main(
    out: Annotated[Path, typer.Option(help="Folder for the files and the figures.")],
    count: Annotated[int, typer.Option(min=1000, help="Answers.")] = 1_000_000,
    length: Annotated[int, typer.Option(min=10, help="Characters of an answer.")] = 100,
    plain_count: Annotated[int, typer.Option("--plain", help="Answers counted as before.")] = 0,
    form: Annotated[list[str], typer.Option(help="jsonl, csv, json.")] = FORMS,
    processes: Annotated[int, typer.Option(min=1)] = len(os.sched_getaffinity(0)),
) -> None:
    """Write and measure."""
    paths = write(out, count, length, form)
    rows = []
    ways: list[tuple[str, Any, tuple[Any, ...], int]] = [
        (f"{form}, {number} process{'es' * (number > 1)}", now, (paths[form], number), count)
        for form in paths
        for number in sorted({1, processes})
    ]
    if plain_count:
        ways.insert(0, ("jsonl, plain", plain, (paths["jsonl"], plain_count), plain_count))
    counted = {}
    for name, work, arguments, answers in ways:
        sums, took, spent, memory = measured(work, *arguments)
        rows.append(
            {
                "way": name,
                "answers": answers,
                "seconds": took,
                "processor s": spent,
                "answers / s": answers / took,
                "µs of processor each": spent / answers * 1e6,
                "GiB": memory,
            }
        )
        counted[name] = sums
    assert len({str(sums) for name, sums in counted.items() if "plain" not in name}) == 1, counted
    if plain_count == count:
        assert len({str(sums) for sums in counted.values()}) == 1, counted
    report(rows, {"count": count, "length": length, "sums": counted}, out / "scoring.json")


if __name__ == "__main__":
    typer.run(main)
