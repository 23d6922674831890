"""The report: self-contained, safe against hostile text, true to the results, always the same."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import once
from report_page import Page, cells, identities, rebuilt, results
from synthetic_aggregate import MARKER, Size, write

from personaspace.analysis.results import Results
from personaspace.report.answers import CUT, DEGENERATE, HIT, SEEN, TERMINAL
from personaspace.report.headline import headline
from personaspace.report.page import build
from personaspace.report.provenance import Artifact
from personaspace.report.tables import escape_markdown
from personaspace.study.concluding import Figures

pytestmark = pytest.mark.slow

SVG = Figures(formats=["svg"])
HOSTILE = (
    "</script><script>window.bad = 1</script> [ZLT]",
    '<img src=x onerror="window.bad = 2"> <!-- <script> -->',
    "</p></li></ol></section></main><h1>owned</h1><style>*{display:none}</style>",
    "{{ 7 * 7 }} {% raw %} javascript:alert(1) \u2028 \u0000 [zlt]",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("aggregate"), Size(layers=(14, 20)))


@pytest.fixture(scope="module")
def built(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(out: Path) -> None:
        assert build(folder, out, SVG) == out / "report.html"

    return once(tmp_path_factory, "report", make)


@pytest.fixture(scope="module")
def page(built: Path) -> Page:
    return Page((built / "report.html").read_text("utf-8"))


def test_page_is_sound_html(page: Page) -> None:
    assert len(page.all("h1")) == 1 and page.text("h1") == ["A made-up study of persona collapse"]
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch("h[1-6]", name)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = Counter(attrs["id"] for _, attrs in page.elements if "id" in attrs)
    assert [name for name, times in ids.items() if times > 1] == []
    for _, attrs in page.elements:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert attrs.get(name) is None or attrs[name] in ids
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("main")) == 1 and len(page.all("nav")) == 1


def test_page_needs_nothing_but_itself(built: Path, page: Page) -> None:
    links = 0
    ids = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
    for name, attrs in page.elements:
        for attribute in ("src", "srcset", "href", "xlink:href", "action", "poster", "data"):
            target = attrs.get(attribute)
            if target is None:
                continue
            links += 1
            assert target.startswith(("#", "data:")), f"<{name} {attribute}={target!r}>"
            if target.startswith("#"):
                assert target[1:] in ids, f"{target} leads nowhere"
        assert not [a for a in attrs if a.startswith("on")], f"<{name}> has a handler"
        assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", attrs.get("style", ""))
    assert links > 50
    text = (built / "report.html").read_text("utf-8")
    style = page.raw("style")
    assert "@import" not in style and "url(" not in style and "@font-face" not in style
    assert "http:" not in text and "https:" not in text
    assert not page.all("iframe") and not page.all("object") and not page.all("img")


def test_only_the_pages_own_script_may_run(page: Page) -> None:
    scripts = [attrs for attrs in page.all("script") if "type" not in attrs]
    assert scripts == [{}]
    source = next(
        "".join(page.texts[place])
        for place, (name, attrs) in enumerate(page.elements)
        if name == "script" and attrs == {}
    )
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    (policy,) = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy
    assert "innerHTML" not in source and "eval(" not in source and "fetch(" not in source


def test_figures_have_alternative_text_data_and_links(page: Page) -> None:
    figures = page.all("figure")
    assert [f["id"] for f in figures] == [
        "figure-hero",
        "figure-personas",
        "figure-m1-layers",
        "figure-m1-increment",
        "figure-m2-layers",
        "figure-m2-convergence",
        "figure-m3-layers",
        "figure-persona-plane",
        "figure-axis-positions",
        "figure-cosine-matrices",
        "figure-leakage-geometry",
        "figure-training",
    ]
    plots = [attrs for attrs in page.all("div") if attrs.get("role") == "img"]
    assert len(plots) == len(figures)
    assert all(len(attrs["aria-label"]) > 60 for attrs in plots)
    svgs = page.all("svg")
    assert len(svgs) == 2 * len(figures)
    assert all(attrs["aria-hidden"] == "true" and "viewbox" in attrs for attrs in svgs)
    downloads = {a["download"]: a["href"] for a in page.all("a") if "download" in a}
    for figure in figures:
        table = decoded(downloads[figure["id"].removeprefix("figure-") + ".csv"])
        assert len(list(csv.DictReader(io.StringIO(table.decode())))) > 3


def decoded(uri: str) -> bytes:
    head, payload = uri.split(",", 1)
    assert head.endswith(";base64")
    return base64.b64decode(payload, validate=True)


def test_downloads_are_the_files(page: Page, folder: Path) -> None:
    downloads = {a["download"]: a["href"] for a in page.all("a") if "download" in a}
    rates = decoded(downloads["rates.csv"])
    assert rates == (folder / "tables" / "rates.csv").read_bytes()
    assert decoded(downloads["spec.yaml"]).startswith(b"name: made-up\nseeds:\n")
    assert decoded(downloads["provenance.json"]) == (folder / "provenance.json").read_bytes()


def test_large_tables_are_compressed_and_huge_ones_named(tmp_path: Path) -> None:
    parts = ("geometry", "leakage", "rates", "answers")
    folder = write(tmp_path / "in", Size(conditions=2, personas=3, layers=(3,)), parts)
    header = b"condition,seed,method,layer,persona_i,persona_j,cosine\n"
    large = header + b"base,42,b,3,x,y,0.5\n" * 30_000
    (folder / "tables" / "cosines.csv").write_bytes(large)
    huge = np.random.default_rng(0).bytes(5 << 20)
    (folder / "tables" / "rows.csv").write_bytes(huge)
    path = build(folder, tmp_path / "out", SVG)
    page = Page(path.read_text("utf-8"))
    downloads = {a["download"]: a["href"] for a in page.all("a") if "download" in a}
    assert gzip.decompress(decoded(downloads["cosines.csv.gz"])) == large
    assert not any(name.startswith("rows.csv") for name in downloads)
    assert any("rows.csv" in text and "too large" in text for text in page.text("li"))
    assert path.stat().st_size < 1 << 20


def test_figures_follow_the_theme(page: Page) -> None:
    """Neutral colours are variables; the palette's stay as they are."""
    styles = " ".join(attrs.get("style", "") for _, attrs in page.elements)
    assert "var(--fig-ink, #1f2328)" in styles and "var(--fig-paper, #fefefe)" in styles
    assert "#1f2328" not in styles.replace("var(--fig-ink, #1f2328)", "")
    assert "#0072b2" in styles
    assert "prefers-color-scheme: dark" in page.raw("style")


def test_tables_have_captions_and_scopes(page: Page) -> None:
    tables = page.all("table")
    assert len(tables) > 15
    assert len(page.text("caption")) == len(tables) and all(page.text("caption"))
    assert all(attrs.get("scope") in ("col", "row", "colgroup") for attrs in page.all("th"))
    for place, (name, attrs) in enumerate(page.elements):
        if name == "table":
            region = page.elements[place - 1][1]
            assert region["role"] == "region" and region["tabindex"] == "0"
            assert region["aria-labelledby"] == f"{attrs['id']}-caption"


def test_key_table_shows_the_results(page: Page, folder: Path) -> None:
    found = results(folder)
    rows = {row[0]: row for row in cells(page, "key-table")}
    assert list(rows)[:3] == ["Base model", "Benign", "E0 assistant"] and len(rows) == 7
    place = {"layer": 20, "method": "a", "condition": "e4-villain", "variant": "recommended"}

    def value(**wanted: object) -> dict[str, Any]:
        (entry,) = [
            r
            for r in found["geometry"] + found["leakage"]
            if all(r[key] == expected for key, expected in wanted.items())
            and r["target"] == "these_personas"
        ]
        return dict(entry)

    m1 = value(**place, name="raw_cosine")
    increment = value(**place, name="em_minus_benign")
    change = value(**place, name="raw_cosine_delta")
    mean = value(condition="e4-villain", metric="bystander_mean", name=None, variant="recommended")
    villain = rows["E4 villain"]
    assert villain[1:4] == ["villain", "0.78", "0.773"]
    low, high = m1["ci95"]
    assert villain[4] == f"{m1['value']:.3f} [{low:.3f}, {high:.3f}]"
    assert villain[5].startswith(f"{change['value']:+.3f} [")
    assert villain[6].startswith(f"{increment['value']:+.3f} [".replace("-", "\u2212"))
    assert villain[7].startswith(f"{100 * mean['value']:.1f} %")
    source = next(
        r for r in found["rates"] if (r["condition"], r["persona"]) == ("e4-villain", "confab")
    )
    assert villain[8].startswith(f"{100 * source['rate']:.1f} %")
    mine = [r for r in found["rates"] if r["condition"] == "e4-villain"]
    share = sum(r["degenerate"] for r in mine) / sum(r["total"] for r in mine)
    assert villain[9] == f"{100 * share:.1f} %"


def test_tests_table_sets_published_beside_recommended(page: Page, folder: Path) -> None:
    found = results(folder)["leakage"]
    rows = cells(page, "tests-table")
    assert [row[0] for row in rows] == ["H1"] * 5 + ["H2", "H3"]
    h2 = rows[5]
    published = next(r for r in found if (r["metric"], r["variant"]) == ("H2", "published"))
    ours = next(r for r in found if (r["metric"], r["name"]) == ("H2", "common_set"))
    assert h2[2].startswith(f"{100 * published['value']:.1f} pts")
    assert h2[3] == f"{published['p']:.3f}"
    assert h2[4].startswith(f"{100 * ours['value']:.1f} pts")
    assert h2[6:] == [f"{ours[key]:.3f}" for key in ("p", "p_bh", "p_holm")]
    notes = page.text("li")
    assert any(ours["note"] in note for note in notes), "what it shows stands beneath"


def test_geometry_tables_have_every_layer_and_variant(page: Page, folder: Path) -> None:
    found = results(folder)["geometry"]
    for metric in ("M1", "M2", "M3"):
        mine = [r for r in found if r["metric"] == metric and r["layer"] is not None]
        kinds = {(r["variant"], r["name"], r["method"]) for r in mine}
        assert len(kinds) >= 6
        for variant, name, method in kinds:
            table = f"{metric.lower()}-{variant}-{name}-{method}".replace("_", "-")
            assert [row[0] for row in cells(page, table)] == ["14", "20"]
        shown = cells(page, f"{metric.lower()}-headline")
        # Rows across layers stand there too.
        assert len(shown) == sum(r["metric"] == metric and r["layer"] in (20, None) for r in found)
    rows = [
        r
        for r in found
        if (r["variant"], r["name"], r["method"]) == ("published", "axis_shift", "b")
    ]
    villain = next(r for r in rows if r["condition"] == "e4-villain" and r["layer"] == 14)
    assert cells(page, "m2-published-axis-shift-b")[0][-1] == f"{villain['value']:.4f}"


def unpacked(page: Page, place: int) -> dict[str, Any]:
    index = json.loads(page.raw("script", id="answers-index"))
    payload = page.comments[index["chunks"][place]["id"]]
    loaded: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(payload)))
    return loaded


def test_answers_travel_whole(page: Page, folder: Path) -> None:
    frame = pd.read_parquet(folder / "tables" / "answers.parquet")
    index = json.loads(page.raw("script", id="answers-index"))
    assert index["marker"] == MARKER and index["seen_known"]
    first = {"id": "answers-base-seed-42", "condition": "base", "label": "Base model", "seed": 42}
    assert index["chunks"][0] == first and len(index["chunks"]) == 7
    found = []
    names = list(dict.fromkeys(frame.condition))
    for place, condition in enumerate(names):
        data = unpacked(page, place)
        for at, text in enumerate(data["text"]):
            flags = data["flags"][at]
            found.append(
                (
                    condition,
                    index["personas"][data["persona"][at]]["name"],
                    index["questions"][data["question"][at]],
                    data["sample"][at],
                    text,
                    bool(flags & HIT),
                    bool(flags & TERMINAL),
                    bool(flags & DEGENERATE),
                    bool(flags & CUT),
                    bool(flags & SEEN),
                )
            )
    frame["cut"] = frame.finish == "length"
    columns = ["condition", "persona", "question", "sample", "text", "hit", "terminal"]
    expected = frame[[*columns, "degenerate", "cut", "seen"]].itertuples(index=False, name=None)
    assert Counter(found) == Counter(expected)
    assert index["personas"][-1]["name"] == "confab", "the source comes last"


def test_script_and_packer_agree_on_flags(page: Page) -> None:
    script = next(text for text in page.text("script") if "DecompressionStream" in text)
    for name, bit in (("HIT", HIT), ("DEGENERATE", DEGENERATE), ("CUT", CUT), ("SEEN", SEEN)):
        assert re.search(rf"\b{name} = {bit}\b", script)


@pytest.mark.long
def test_same_folder_gives_same_bytes(folder: Path, built: Path, tmp_path: Path) -> None:
    build(folder, tmp_path, SVG)
    names = sorted(path.relative_to(built) for path in built.rglob("*") if path.is_file())
    assert len(names) == 14
    for name in names:
        assert (tmp_path / name).read_bytes() == (built / name).read_bytes(), name


@pytest.mark.long
def test_hostile_text_is_inert(tmp_path: Path) -> None:
    """Markup in answers, labels, personas, notes, marker and spec stays text."""
    folder = write(tmp_path / "in", Size(conditions=3, layers=(20,), texts=HOSTILE))
    found = results(folder)
    bad = '</script><script>window.bad=3</script><b onclick="x">&amp;--><img src=x>'
    found["title"] = bad + "title"
    found["marker"] = "</script>[ZLT](.*"
    found["conditions"][2]["label"] = bad + "label"
    found["personas"][0]["prompt"] = bad + "prompt"
    found["caveats"] = [bad + "caveat", "a pair: \U0001f600"]
    found["notes"] = [bad + "note"]
    found["geometry"][0]["note"] = bad + "row"
    provenance = json.loads((folder / "provenance.json").read_text())
    provenance["spec"]["name"] = bad + "spec"
    provenance["artifacts"][0]["device"] = bad + "device"
    (folder / "provenance.json").write_text(json.dumps(provenance))
    page = rebuilt(folder, found, tmp_path / "out")
    kinds = Counter(attrs.get("type") for attrs in page.all("script"))
    assert kinds == {None: 1, "application/json": 1} and len(page.comments) == 3
    assert not page.all("b") and not page.all("img") and len(page.all("h1")) == 1
    assert len(page.all("style")) == 1
    assert page.text("h1") == [bad + "title"]
    assert bad + "caveat" in page.text("li") and bad + "prompt" in page.text("td")
    assert "a pair: \U0001f600" in page.text("li")
    texts = unpacked(page, 0)["text"]
    assert set(HOSTILE) <= set(texts)
    assert json.loads(page.raw("script", id="answers-index"))["marker"] == found["marker"]
    markdown = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert "<script" not in markdown.replace("\\<script", "")
    assert "<b " not in markdown.replace("\\<b ", "")


def test_markdown_summary_shows_headline_tables_and_pictures(folder: Path, built: Path) -> None:
    text = (built / "report.md").read_text("utf-8")
    assert text.startswith("# A made-up study of persona collapse\n")
    assert escape_markdown(headline(Results.read(folder))) in text
    assert re.findall(r"!\[[^]]+\]\((.*?)\)", text) == ["figures/hero.svg"]
    links = re.findall(r"\]\(([\w./-]+)\)", text)
    assert len(links) == 13 and all((built / link).is_file() for link in links)
    for heading in ("Key numbers", "Tests of leakage", "Caveats", "Provenance"):
        assert re.search(rf"^## {heading}", text, re.MULTILINE)


def test_title_of_the_settings_wins(tmp_path: Path) -> None:
    parts = ("geometry", "leakage", "rates", "answers")
    folder = write(tmp_path / "in", Size(conditions=2, personas=3, layers=(3,)), parts)
    settings = Figures(title="Another title", formats=["svg"])
    page = Page(build(folder, tmp_path / "out", settings).read_text("utf-8"))
    assert page.text("h1") == ["Another title"] == page.text("title")


def test_provenance_adds_up(tmp_path: Path) -> None:
    parts = ("geometry", "leakage", "rates", "answers")
    folder = write(tmp_path / "in", Size(conditions=2, personas=3, layers=(3,)), parts)
    made = {"device": "NVIDIA H100", "seconds": 1800.0}
    artifacts = [
        {"node": "train/benign/seed-1", "stage": "train", "digest": "ab" * 32, **made,
         "created": "2026-11-23T10:30:00+00:00", "versions": {"torch": "2.11.0"}},
        {"node": "extract/base/seed-1", "stage": "extract", "digest": "cd" * 32, **made,
         "created": "2026-11-23T12:00:00+00:00", "versions": {"torch": "2.13.0"}},
    ]  # fmt: skip
    content = {"artifacts": artifacts, "versions": {"torch": "2.13.0"}, "spec": {}}
    (folder / "provenance.json").write_text(json.dumps(content))
    last = Artifact(node="aggregate", digest="ef" * 32, device="CPU, 2 threads", seconds=60.0,
                    created="2026-11-23T13:00:00+00:00")  # fmt: skip
    page = Page(build(folder, tmp_path / "out", SVG, [last]).read_text("utf-8"))
    (summary,) = [text for text in page.text("p") if text.startswith("3 artifacts")]
    assert summary.startswith("3 artifacts made on CPU, 2 threads, NVIDIA H100;")
    assert "3.0 h from the first start to the last end; 61.0 min if the times of" in summary
    assert (
        "Of stages on GPUs it is not known which GPU it was: their times add up to 1.00" in summary
    )
    stages = {row[0]: row[1:4] for row in cells(page, "stages-table")}
    assert stages["train"] == ["1", "30.0 min", "0.50"] and stages["aggregate"][2] == "–"
    assert cells(page, "versions-table") == [["torch", "2.13.0", "2.11.0"]]
    digests = [attrs["title"] for attrs in page.all("td") if len(attrs.get("title", "")) == 64]
    assert digests == ["ab" * 32, "cd" * 32, "ef" * 32]


def test_no_two_rows_of_a_table_are_about_the_same(page: Page) -> None:
    """Two targets, or two conditions that a third is set against, are told apart."""
    tables = {attrs["id"]: identities(page, attrs["id"]) for attrs in page.all("table")}
    assert sum(map(len, tables.values())) > 500
    assert any("new personas" in row for row in tables["m1-headline"])
    for name, rows in tables.items():
        again = [row for row, times in Counter(rows).items() if times > 1]
        assert not again, f"{name} has rows that read alike: {again[:2]}"


def test_no_table_has_a_column_that_is_empty_in_every_row(page: Page) -> None:
    tables = {attrs["id"]: cells(page, attrs["id"]) for attrs in page.all("table")}
    assert len(tables) > 20
    for name, rows in tables.items():
        for column in list(zip(*rows, strict=True))[1:]:
            assert set(column) - {"", "\u2013"}, f"{name} has a column that says nothing"
