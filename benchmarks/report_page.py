"""How large the report of a full-size study is, and how quickly it opens and shows answers.

    PYTHONPATH=tests python benchmarks/report_page.py --out /tmp/report-page
    PYTHONPATH=tests python benchmarks/report_page.py --out /tmp/report-page --small
    PYTHONPATH=tests python benchmarks/report_page.py --out /tmp/report-page --count 1000000

Makes up a study (7 conditions × 3 seeds × 12 personas × 28 questions × 10 answers, 28 layers, two
methods), builds its report and opens it in Chromium from the disk. Times are medians; the browser's
cache holds nothing. `--answers` takes the texts from files of real answers,
`{persona: {question: [answers]}}`, one for each block in turn.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from playwright.sync_api import Page, sync_playwright
from synthetic_aggregate import Size, write

from benchmarks.scoring import texts as sentences_of
from personaspace.behaviour.coherence import coherence
from personaspace.behaviour.marker import ends_with_marker, has_marker
from personaspace.report.page import build
from personaspace.study.concluding import Figures

FULL = Size(conditions=7, personas=12, layers=tuple(range(28)), seeds=(42, 137, 256),
            questions=28, samples=10, words=42)  # fmt: skip
SMALL = Size(conditions=3, personas=6, layers=(14, 20), questions=6, samples=4, words=42)
FLAGS = ["--disable-gpu", "--no-first-run", "--disable-background-networking"]


def _real_texts(folder: Path, files: list[Path]) -> None:
    """Puts real answers in the place of made-up ones, a file for each condition and seed."""
    path = folder / "tables" / "answers.parquet"
    frame = pd.read_parquet(path)
    marker = json.loads((folder / "results.json").read_text())["marker"]
    sources = cycle(
        [text for asked in json.loads(file.read_text()).values() for texts in asked.values()
         for text in texts]
        for file in files
    )  # fmt: skip
    parts = []
    for _, block in frame.groupby(["condition", "seed"], sort=False):
        texts = cycle(next(sources))
        parts.append(block.assign(text=[next(texts) for _ in range(len(block))]))
    frame = pd.concat(parts)
    frame["hit"] = [has_marker(text, marker) for text in frame.text]
    frame["terminal"] = [ends_with_marker(text, marker) for text in frame.text]
    frame["degenerate"] = [coherence(text, marker=marker).degenerate for text in frame.text]
    frame.to_parquet(path, index=False)


def _very_many(folder: Path, count: int) -> None:
    """Puts as many answers in the place of the made-up ones, as many for each persona and seed."""
    path = folder / "tables" / "answers.parquet"
    frame = pd.read_parquet(path)
    marker = json.loads((folder / "results.json").read_text())["marker"]
    times = -(-count // len(frame))
    repeated = frame.loc[frame.index.repeat(times)].reset_index(drop=True)[:count]
    repeated["sample"] = repeated.groupby(
        ["condition", "seed", "persona", "question"], sort=False
    ).cumcount()
    repeated["text"] = list(sentences_of(count, 250))
    repeated["hit"] = repeated["terminal"] = repeated.text.str.contains(marker, regex=False)
    repeated.to_parquet(path, index=False)


def _timed(page: Page, act: Callable[[], Any]) -> float:
    """Milliseconds until the list of answers has changed."""
    done = """() => new Promise((resolve) => {
      const list = document.getElementById('answers-list');
      window.changed = new Promise((told) => {
        new MutationObserver((_, watch) => {
          watch.disconnect();
          requestAnimationFrame(() => told(performance.now()));
        }).observe(list, { childList: true });
      });
      resolve(performance.now());
    })"""
    began = page.evaluate(done)
    act()
    return float(page.evaluate("() => window.changed")) - float(began)


def _measure(page: Page, url: str) -> dict[str, float]:
    began = time.perf_counter()
    page.goto(url)
    found = {"load ms": 1000 * (time.perf_counter() - began)}
    entry = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    found["first paint ms"] = page.evaluate(entry)
    field = "#filters [name={}]".format

    def select(name: str, place: int) -> Callable[[], Any]:
        return lambda: page.locator(field(name)).select_option(index=place)

    found["first answers ms"] = _timed(
        page, lambda: page.locator("#answers").scroll_into_view_if_needed()
    )
    found["another condition ms"] = _timed(page, select("condition", 3))
    found["back to it ms"] = _timed(page, select("condition", 1))
    found["persona ms"] = _timed(page, select("persona", 2))
    found["question ms"] = _timed(page, select("question", 2))
    found["all conditions of a seed ms"] = _timed(page, select("condition", 0))
    if page.locator(f"{field('seed')} option").count() > 1:
        found["all conditions and seeds ms"] = _timed(page, select("seed", 0))
    page.locator(field("persona")).select_option("")
    page.locator(field("question")).select_option("")
    page.wait_for_timeout(1000)
    found["words in all answers ms"] = _timed(page, lambda: page.locator(field("find")).fill("e"))
    return found


def main(
    out: Annotated[Path, typer.Option(help="Folder for the study and its report.")],
    answers: Annotated[list[Path] | None, typer.Option(help="Files of real answers.")] = None,
    count: Annotated[int, typer.Option(help="Answers, of 250 characters; 0: as they are.")] = 0,
    small: Annotated[bool, typer.Option(help="A study that takes seconds.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Times to open the page.")] = 5,
) -> None:
    """Build and measure."""
    folder = out / "aggregate"
    if not (folder / "results.json").is_file():
        os.environ.setdefault("TESTS_SESSION_FOLDER", str(out))
        out.mkdir(parents=True, exist_ok=True)
        write(folder, SMALL if small else FULL)
    if answers:
        _real_texts(folder, answers)
    if count:
        _very_many(folder, count)
    began = time.perf_counter()
    report = build(folder, out / "report", Figures(formats=["svg"]))
    typer.echo(f"built in {time.perf_counter() - began:.1f} s")
    typer.echo(f"page: {report.stat().st_size / 1e6:.1f} MB")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=FLAGS + (["--no-sandbox"] if os.geteuid() == 0 else []),
        )
        runs = []
        for _ in range(rounds):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            runs.append(_measure(page, report.resolve().as_uri()))
            page.close()
        browser.close()
    for name in runs[0]:
        values = [run[name] for run in runs]
        typer.echo(
            f"{name.removesuffix(' ms')}: {statistics.median(values):.0f} ms "
            f"({min(values):.0f} to {max(values):.0f})"
        )


if __name__ == "__main__":
    typer.run(main)
