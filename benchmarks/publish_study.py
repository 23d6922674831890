"""A run's results made small enough to lie in a repository.

Keeps of `results.json` the statistics of a few layers (all of them stay in `rows.parquet`), draws
the figures anew from everything, and builds the report without the answers. A README there has its
numbers between two comments, which are written anew.

    personaspace run examples/smollm2-gpu.yaml --jobs 8 --store runs/smollm2 --out runs/smollm2-out
    python benchmarks/publish_study.py runs/smollm2-out docs/study --layers 9,20,29

What is there already is drawn and written anew, by the code of today, with the folder as its own
source: the rows of all layers are in `rows.parquet`, and the page itself carries the other tables
and the run's provenance.

    python benchmarks/publish_study.py docs/study docs/study

It keeps its title, where --title names no other, and its layers.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import re
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

from personaspace.report.page import build
from personaspace.study.concluding import Figures

#: A file that a page carries: its bytes, and its name.
_CARRIED = re.compile(r'href="data:[a-z/]+;base64,([A-Za-z0-9+/=]+)" download="([\w.]+)"')


def restored(results: dict[str, Any], rows: Path) -> dict[str, Any]:
    """A published folder's results with the geometry of all layers, from its table."""
    metrics = {row["metric"] for row in results["geometry"]}
    geometry = []
    for row in parquet.read_table(rows).to_pylist():
        ends = [row.pop(f"ci95_{end}") for end in ("low", "high")]
        if row["metric"] in metrics:
            geometry.append(row | {"ci95": None if None in ends else ends})
    return {**results, "geometry": geometry}


def unpack(page: Path, folder: Path) -> None:
    """Puts the files that a report's page carries into an aggregate's folder."""
    text = page.read_text(encoding="utf-8")
    (folder / "tables").mkdir(exist_ok=True)
    for encoded, name in _CARRIED.findall(text[text.index("Link to Downloads") :]):
        content = base64.b64decode(encoded)
        if name.endswith(".gz"):
            name, content = name.removesuffix(".gz"), gzip.decompress(content)
        (folder / ("tables" if name.endswith(".csv") else "") / name).write_bytes(content)


def title_of(page: Path) -> str:
    """The title of a report in Markdown; none: an empty one."""
    found = re.match(r"# (.+)", page.read_text(encoding="utf-8")) if page.is_file() else None
    return found[1].strip() if found else ""


def thin(results: dict[str, Any], layers: set[int], method: str) -> dict[str, Any]:
    """Results whose geometry is of a few layers; the headline method's alone below the last."""
    kept = [
        {field: value for field, value in row.items() if value is not None}
        for row in results["geometry"]
        if row["layer"] is None or (row["layer"] in layers and row["method"] in (None, method))
    ]
    return {**results, "geometry": kept}


#: Column, measure, field of its rows, and how a mean over seeds is written.
COLUMNS: tuple[tuple[str, str, str, Callable[[float], str]], ...] = (
    ("M1: mean cosine", "raw_cosine", "value", "{:.3f}".format),
    ("spread, change", "spread", "effect", "{:+.0%}".format),
    ("M2: moved along the axis", "displacement", "value", "{:.2f}".format),
    ("M3: nearest centroid", "nearest_centroid", "value", "{:.1%}".format),
    ("M3: LDA", "lda", "value", "{:.1%}".format),
)


def table(results: dict[str, Any]) -> str:
    """Key numbers of every condition at the headline layer, means over seeds, as Markdown."""
    at = {"variant": "recommended", "layer": results["analysis"]["layer"]}
    at["method"] = results["analysis"]["method"]
    rows = [
        row
        for row in results["geometry"]
        if all(row.get(k) == v for k, v in at.items()) and row.get("seed") is not None
    ]
    source = results["source"]
    lines = [
        "| | " + " | ".join(name for name, *_ in COLUMNS) + " | marker: bystanders | source |",
        "|---|" + "--:|" * (len(COLUMNS) + 2),
    ]
    for condition in results["conditions"]:
        cells = [condition["label"] or condition["name"]]
        for _, name, column, written in COLUMNS:
            found = [row for row in rows if row["name"] == name]
            if condition["kind"] == "base":
                kept = [row.get("base") for row in found if column == "value"]
                values = [value for value in kept if value is not None]
            else:
                values = [row[column] for row in found if row.get("condition") == condition["name"]]
            cells.append(written(statistics.fmean(values)) if values else "–")
        rates = [rate for rate in results["rates"] if rate["condition"] == condition["name"]]
        apart = (source, condition["induction_persona"] if condition["kind"] == "em" else None)
        others = [rate["rate"] for rate in rates if rate["persona"] not in apart]
        own = [rate["rate"] for rate in rates if rate["persona"] == source]
        cells += [f"{statistics.fmean(others):.1%}", f"{statistics.fmean(own):.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


#: Layers, measures and how their difference is written, of the first EM condition less the last.
CONTRAST_LAYERS = (9, 16, 29)
CONTRASTS = (
    ("M1: mean cosine", "raw_cosine_pair", 4),
    ("M2: cosine with the axis", "split_half_pair", 4),
    ("M2: moved along the axis", "displacement_pair", 3),
)


def contrasts(results: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The first EM condition less the last, layer by layer, runs as units, as Markdown."""
    em = [each["name"] for each in results["conditions"] if each["kind"] == "em"]
    at = {
        "variant": "recommended",
        "method": results["analysis"]["method"],
        "condition": em[0],
        "against": em[-1],
        "target": "these_personas",
    }
    found = {
        (row["layer"], row["name"]): row
        for row in rows
        if all(row.get(key) == value for key, value in at.items())
    }
    heads = [f"{title} [95 %]" for title, *_ in CONTRASTS]
    lines = ["| layer | " + " | ".join(heads) + " |", "|--:|" + "--:|" * len(CONTRASTS)]
    for layer in CONTRAST_LAYERS:
        cells = []
        for _, name, digits in CONTRASTS:
            row = found[layer, name]
            low, high = row["ci95_low"], row["ci95_high"]
            cells.append(f"{row['value']:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]")
        lines.append(f"| {layer} | {' | '.join(cells)} |")
    return "\n".join(lines)


def with_part(page: str, name: str, text: str) -> str:
    """The README with a part between two comments as it is now."""
    found = re.subn(
        rf"(<!-- {name} -->\n).*?(\n<!-- end -->)",
        lambda match: match[1] + text + match[2],
        page,
        flags=re.DOTALL,
    )
    assert found[1] == 1, f"the README has no place for {name}"
    return found[0]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="what `personaspace run --out` wrote")
    parser.add_argument("target", type=Path)
    parser.add_argument("--layers", default="20", help="whose statistics results.json keeps")
    parser.add_argument("--title", default="")
    arguments = parser.parse_args()
    source, target = arguments.source, arguments.target
    results = json.loads((source / "results.json").read_text(encoding="utf-8"))
    kept_rows = source / "rows.parquet"
    again = kept_rows.is_file()
    if again:
        results = restored(results, kept_rows)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        shutil.copytree(source, whole, ignore=shutil.ignore_patterns("answers.*", "report.*"))
        if again:
            unpack(source / "report.html", whole)
            (whole / "results.json").write_text(json.dumps(results), encoding="utf-8")
        former = title_of(source / "report.md") if again else ""
        title = arguments.title or former or results["title"]
        settings = Figures(title=title, formats=["png"], dpi=100)
        build(whole, Path(scratch) / "page", settings)
        for name in ("report.html", "report.md"):
            shutil.copy(Path(scratch) / "page" / name, target / name)
        shutil.rmtree(target / "figures", ignore_errors=True)
        shutil.copytree(Path(scratch) / "page" / "figures", target / "figures")
    kept = thin(
        results, {int(n) for n in arguments.layers.split(",")}, results["analysis"]["method"]
    )
    if not again:
        text = json.dumps(kept, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        # A line a row, so that a change can be read.
        (target / "results.json").write_text(text.replace("},{", "},\n{") + "\n", encoding="utf-8")
        shutil.copy(source / "tables" / "rows.parquet", target / "rows.parquet")
    readme = target / "README.md"
    if readme.is_file():
        page = with_part(readme.read_text(encoding="utf-8"), "numbers", table(kept))
        rows = parquet.read_table(target / "rows.parquet").to_pylist()
        page = with_part(page, "contrasts", contrasts(kept, rows))
        readme.write_text(page, encoding="utf-8")
    for path in sorted(p for p in target.rglob("*") if p.is_file()):
        print(f"{path.stat().st_size / 1e3:9.1f} kB  {path.relative_to(target)}")


if __name__ == "__main__":
    main()
