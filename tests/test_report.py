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
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_aggregate import MARKER, Size, write

from personaspace.errors import UserError
from personaspace.figures.findings import Findings, Row, load_findings
from personaspace.report import build
from personaspace.report.answers import CUT, DEGENERATE, HIT, SEEN, TERMINAL
from personaspace.report.headline import headline
from personaspace.report.tables import Cell, Column, Table, escape_markdown, without_empty
from personaspace.report.text import number, p_phrase, probability, row_interval, row_value
from personaspace.spec import Figures

SVG = Figures(formats=["svg"])
VOID = {"meta", "link", "br", "img", "input", "hr"}
HOSTILE = (
    "</script><script>window.bad = 1</script> [ZLT]",
    '<img src=x onerror="window.bad = 2"> <!-- <script> -->',
    "</p></li></ol></section></main><h1>owned</h1><style>*{display:none}</style>",
    "{{ 7 * 7 }} {% raw %} javascript:alert(1) \u2028 \u0000 [zlt]",
)


class Page(HTMLParser):
    """Elements of a page, with a check that tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.texts: dict[int, list[str]] = {}
        self.stack: list[int] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"{tag}: an attribute stands there twice"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
            self.stack.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        for place in self.stack:
            self.texts.setdefault(place, []).append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.elements if name == tag]

    def text(self, tag: str, **wanted: str) -> list[str]:
        """Text of the elements with that tag and these attributes."""
        return [
            " ".join("".join(self.texts.get(place, [])).split())
            for place, (name, attrs) in enumerate(self.elements)
            if name == tag and wanted.items() <= attrs.items()
        ]

    def raw(self, tag: str, **wanted: str) -> str:
        (place,) = [
            place
            for place, (name, attrs) in enumerate(self.elements)
            if name == tag and wanted.items() <= attrs.items()
        ]
        return "".join(self.texts.get(place, []))


def results(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return loaded


def rebuilt(folder: Path, found: dict[str, Any], out: Path) -> Page:
    (folder / "results.json").write_text(json.dumps(found))
    return Page(build(folder, out, SVG).read_text("utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("aggregate"), Size(layers=(14, 20)))


@pytest.fixture(scope="module")
def built(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    path = build(folder, out, SVG)
    assert path == out / "report.html"
    return out


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
        "figure-m2-layers",
        "figure-m3-layers",
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
        assert len(list(csv.DictReader(io.StringIO(table.decode())))) > 5


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
    large = b"persona_i,persona_j\n" + b"a,b\n" * 100_000
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


def cells(page: Page, table: str) -> list[list[str]]:
    """Texts of a table's body, one list a row."""
    found: list[list[str]] = []
    inside = body = False
    for place, (name, attrs) in enumerate(page.elements):
        if name == "table":
            inside, body = attrs["id"] == table, False
        elif inside and name == "tbody":
            body = True
        elif inside and body and name == "tr":
            found.append([])
        elif inside and body and name in ("td", "th"):
            found[-1].append(" ".join("".join(page.texts.get(place, [])).split()))
    return found


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
        kinds = {(r["variant"], r["name"], r["method"]) for r in found if r["metric"] == metric}
        assert len(kinds) >= 6
        for variant, name, method in kinds:
            table = f"{metric.lower()}-{variant}-{name}-{method}".replace("_", "-")
            assert [row[0] for row in cells(page, table)] == ["14", "20"]
        shown = cells(page, f"{metric.lower()}-hero")
        assert len(shown) == sum(r["metric"] == metric and r["layer"] == 20 for r in found)
    rows = [
        r
        for r in found
        if (r["variant"], r["name"], r["method"]) == ("published", "axis_shift", "b")
    ]
    villain = next(r for r in rows if r["condition"] == "e4-villain" and r["layer"] == 14)
    assert cells(page, "m2-published-axis-shift-b")[0][-1] == f"{villain['value']:.4f}"


def unpacked(page: Page, place: int) -> dict[str, Any]:
    payload = page.raw("script", id=f"answers-{place}")
    loaded: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(payload)))
    return loaded


def test_answers_travel_whole(page: Page, folder: Path) -> None:
    frame = pd.read_parquet(folder / "tables" / "answers.parquet")
    index = json.loads(page.raw("script", id="answers-index"))
    assert index["marker"] == MARKER and len(index["chunks"]) == 7 and index["seen_known"]
    options = page.all("option")
    assert [o["value"] for o in options][:7] == index["chunks"]
    found = []
    names = list(dict.fromkeys(frame.condition))
    for place, condition in enumerate(names):
        data = unpacked(page, place)
        for at, text in enumerate(data["text"]):
            flags = data["flags"][at]
            found.append(
                (
                    condition,
                    data["personas"][data["persona"][at]],
                    data["questions"][data["question"][at]],
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
    assert unpacked(page, 0)["personas"][-1] == "confab", "the source comes last"


def test_script_and_packer_agree_on_flags(page: Page) -> None:
    script = next(text for text in page.text("script") if "DecompressionStream" in text)
    for name, bit in (("HIT", HIT), ("DEGENERATE", DEGENERATE), ("CUT", CUT), ("SEEN", SEEN)):
        assert re.search(rf"\b{name} = {bit}\b", script)


def test_same_folder_gives_same_bytes(folder: Path, built: Path, tmp_path: Path) -> None:
    build(folder, tmp_path, SVG)
    names = sorted(path.relative_to(built) for path in built.rglob("*") if path.is_file())
    assert len(names) == 8
    for name in names:
        assert (tmp_path / name).read_bytes() == (built / name).read_bytes(), name


def test_hostile_text_is_inert(tmp_path: Path) -> None:
    """Markup in answers, labels, personas, notes, marker and spec stays text."""
    folder = write(tmp_path / "in", Size(conditions=3, layers=(20,), texts=HOSTILE))
    found = results(folder)
    bad = '</script><script>window.bad=3</script><b onclick="x">&amp;'
    found["title"] = bad + "title"
    found["marker"] = "</script>[ZLT](.*"
    found["conditions"][2]["label"] = bad + "label"
    found["personas"][0]["prompt"] = bad + "prompt"
    found["caveats"] = [bad + "caveat", "half a pair: \ud83d"]
    found["notes"] = [bad + "note"]
    found["geometry"][0]["note"] = bad + "row"
    provenance = json.loads((folder / "provenance.json").read_text())
    provenance["spec"]["name"] = bad + "spec"
    provenance["artifacts"][0]["device"] = bad + "device"
    (folder / "provenance.json").write_text(json.dumps(provenance))
    page = rebuilt(folder, found, tmp_path / "out")
    kinds = Counter(attrs.get("type") for attrs in page.all("script"))
    assert kinds == {None: 1, "application/json": 1, "text/plain": 3}
    assert not page.all("b") and not page.all("img") and len(page.all("h1")) == 1
    assert len(page.all("style")) == 1
    assert page.text("h1") == [bad + "title"]
    assert bad + "caveat" in page.text("li") and bad + "prompt" in page.text("td")
    assert "half a pair: ?" in page.text("li")
    texts = unpacked(page, 0)["text"]
    assert set(HOSTILE) <= set(texts)
    assert json.loads(page.raw("script", id="answers-index"))["marker"] == found["marker"]
    markdown = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert "<script" not in markdown.replace("\\<script", "")
    assert "<b " not in markdown.replace("\\<b ", "")


@pytest.mark.parametrize(
    ("without", "said", "gone"),
    [
        (("geometry",), "geometry (no M1, M2 or M3 rows)", "geometry"),
        (("leakage",), "tests of leakage", "tests-table"),
        (("rates", "leakage"), "marker rates", "leakage"),
        (("answers",), "the answers themselves", "answers"),
        (("provenance", "training"), "", "training"),
        (("geometry", "leakage", "rates", "training", "answers", "provenance"), "geometry", "m1"),
    ],
)
def test_partial_study_still_builds_and_says_so(
    tmp_path: Path, without: tuple[str, ...], said: str, gone: str
) -> None:
    folder = write(tmp_path / "in", Size(conditions=3, layers=(20,), methods=("a",)), without)
    page = Page(build(folder, tmp_path / "out", SVG).read_text("utf-8"))
    ids = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
    assert gone not in ids and {"summary", "key-table", "caveats", "provenance"} <= ids
    assert {a["href"] for a in page.all("a") if a["href"].startswith("#")} <= {f"#{i}" for i in ids}
    (markdown,) = [(tmp_path / "out" / "report.md").read_text("utf-8")]
    if said:
        assert any(said in text for text in page.text("li"))
        assert "Partial" in markdown
    else:
        assert "Partial" not in markdown and not page.text("div", **{"class": "absent"})


def test_absent_condition_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", Size(conditions=3, layers=(20,), methods=("a",)))
    found = results(folder)
    found["rates"] = [r for r in found["rates"] if r["condition"] != "benign"]
    page = rebuilt(folder, found, tmp_path / "out")
    assert "rates of Benign" in page.text("li")


def test_several_seeds_are_told_apart(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", Size(conditions=4, layers=(20,), methods=("a",), seeds=(1, 2)))
    page = Page(build(folder, tmp_path / "out", SVG).read_text("utf-8"))
    assert {row[2] for row in cells(page, "tests-table")} == {"1", "2", "all"}
    assert len(json.loads(page.raw("script", id="answers-index"))["chunks"]) == 8
    assert any("seed 2" in text for text in page.text("option"))
    (words,) = page.text("p", **{"class": "headline"})
    assert "with 2 seeds" in words and "With one seed" not in words


def row(**values: Any) -> dict[str, Any]:
    return Row(**{"variant": "recommended", **values}).model_dump()


def study(**parts: Any) -> Findings:
    """A study with the published means and cosines, and whatever else a rule needs."""
    kinds = {"base": "base", "benign": "benign", "e0": "em", "e3": "em"}
    cosines = {"benign": 0.9728, "e0": 0.9943, "e3": 0.9965}
    geometry = [
        row(metric="M1", name="raw_cosine", method="a", layer=20, condition=name, value=value,
            base=0.8996)
        for name, value in cosines.items()
    ]  # fmt: skip
    leakage = [
        row(metric="bystander_mean", condition=name, value=value)
        for name, value in {"e0": 0.4568, "e3": 0.5371}.items()
    ]
    content = {
        "study": "s",
        "model": {"name": "M"},
        "seeds": [42],
        "source": "confab",
        "analysis": {"layer": 20, "method": "a", "alpha": 0.05},
        "conditions": [{"name": n, "label": n.upper(), "kind": k} for n, k in kinds.items()],
        "geometry": geometry,
        "leakage": leakage + parts.pop("tests", []),
    }
    return Findings.model_validate({**content, **parts})


def test_headline_states_the_published_numbers() -> None:
    words = headline(study())
    assert "0.900 in the base model, 0.973 after benign fine-tuning and 0.994 to 0.997" in words
    # (0.9728 - 0.8996) / (mean of 0.9943 and 0.9965 - 0.8996)
    assert "76\u202f% of the mean rise under EM; EM less benign: +0.021 to +0.024." in words
    assert "in 45.7\u202f% (E0) to 53.7\u202f% (E3) of their answers" in words
    assert "No control arm was evaluated" in words
    assert "With one seed, differences between conditions cannot be told" in words


def test_headline_claims_no_more_than_the_tests() -> None:
    tests = [
        row(metric="H1", name="induction_minus_others", condition="e0", value=0.08, p=0.04,
            p_holm=0.16),
        row(metric="H1", name="induction_minus_others", condition="e3", value=0.2, p=0.001,
            p_holm=0.004),
        row(metric="H1", name="equivalence", condition="e0", value=0.08, p=0.6, effect=0.05),
        row(metric="H1", name="equivalence", condition="e3", value=0.2, p=0.9, effect=0.05),
        row(metric="H2", name="common_set", value=0.0804, p=0.01, p_holm=0.03),
        row(metric="H3", name="common_set", value=-0.9, p=1 / 12),
    ]  # fmt: skip
    words = headline(study(tests=tests)).replace("\u00a0", " ")
    assert "to leak more than bystanders in 1 of 2 tests (α = 0.05, corrected" in words
    assert "within ±5 points in 0 of 2" in words
    assert "8.0\u202fpts (adjusted p = 0.030)" in words
    assert "−0.90 (p = 0.083, not shown)" in words
    assert "no effect" not in words and "significant" not in words


def test_headline_prefers_recommended_over_published_per_seed() -> None:
    tests = [
        row(metric="H2", variant="published", name="range", seed=1, value=0.3, p=0.001),
        row(metric="H2", variant="published", name="range", seed=2, value=0.4, p=0.001),
        row(metric="H2", name="common_set", value=0.1, p=0.2),
        row(metric="H3", variant="published", name="spearman", seed=1, value=-0.9, p=0.01),
        row(metric="H3", variant="published", name="spearman", seed=2, value=0.1, p=0.9),
    ]
    words = headline(study(tests=tests, seeds=[1, 2])).replace("\u00a0", " ")
    assert "10.0\u202fpts (p = 0.200, not shown)" in words
    assert "−0.90 to 0.10 in 2 seeds taken one by one (p below 0.05 in 1 of 2)" in words


def test_headline_without_a_rise_makes_no_share_of_it() -> None:
    geometry = [
        row(metric="M1", name="raw_cosine", method="a", layer=20, condition=name, value=value,
            base=0.9)
        for name, value in {"benign": 0.93, "e0": 0.91, "e3": 0.88}.items()
    ]  # fmt: skip
    words = headline(study(geometry=geometry))
    assert "of the mean rise" not in words
    assert "under benign training was +0.030, under EM −0.005 on average" in words


def test_headline_counts_degenerate_answers() -> None:
    rate = {"condition": "e0", "seed": 42, "persona": "confab", "hits": 5, "total": 20}
    assert "degenerate" not in headline(study(rates=[{**rate, "degenerate": 0}]))
    assert "10.0\u202f% of all answers are degenerate" in headline(
        study(rates=[{**rate, "degenerate": 2}])
    )


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (number(-0.0004), "0.000"),
        (number(-1.5, 1, sign=True), "\u22121.5"),
        (number(0.25, 2, sign=True), "+0.25"),
        (number(None), "\u2013"),
        (probability(0.0), "<0.001"),
        (probability(0.00049), "<0.001"),
        (probability(0.0005), "0.001"),
        (p_phrase(1 / 12), "p\u00a0=\u00a00.083"),
        (row_value(Row(**row(metric="H1", value=-0.0461))), "\u22124.6\u202fpts"),
        (row_value(Row(**row(metric="H3", value=-0.9))), "\u22120.900"),
        (row_value(Row(**row(metric="bystander_mean", value=0.4568))), "45.7\u202f%"),
        (row_interval(Row(**row(metric="H2", value=0.1, ci95=(0.05, 0.2)))), "[5.0, 20.0]"),
    ],
)
def test_numbers_read_well(shown: str, expected: str) -> None:
    assert shown == expected


@given(st.text())
def test_markdown_text_stays_in_its_cell(text: str) -> None:
    shown = escape_markdown(text)
    assert "\n" not in shown
    for sign in "|<>`*[]":
        assert shown.count(sign) == shown.count("\\" + sign)


def test_empty_number_columns_go_with_their_group() -> None:
    blank, full = Cell("–"), Cell("1", 1)
    table = Table(
        "t",
        "c",
        [Column("a"), Column("b", True), Column("c", True), Column("d", True)],
        [[Cell("x"), blank, full, blank], [Cell("y"), blank, blank, blank]],
        groups=[("", 1), ("gone", 1), ("kept", 2)],
    )
    slim = without_empty(table)
    assert [column.title for column in slim.columns] == ["a", "c"]
    assert list(slim.groups) == [("", 1), ("kept", 1)]
    with pytest.raises(ValueError, match="table t"):
        Table("t", "c", [Column("a")], [[blank, blank]])


def test_markdown_summary_shows_headline_tables_and_pictures(folder: Path, built: Path) -> None:
    text = (built / "report.md").read_text("utf-8")
    assert text.startswith("# A made-up study of persona collapse\n")
    assert escape_markdown(headline(load_findings(folder))) in text
    pictures = re.findall(r"\]\((figures/[\w-]+\.svg)\)", text)
    assert len(pictures) == 6 and all((built / picture).is_file() for picture in pictures)
    for heading in ("Key numbers", "Tests of leakage", "Caveats", "Provenance"):
        assert re.search(rf"^## {heading}", text, re.MULTILINE)


def test_title_of_the_settings_wins(tmp_path: Path) -> None:
    parts = ("geometry", "leakage", "rates", "answers")
    folder = write(tmp_path / "in", Size(conditions=2, personas=3, layers=(3,)), parts)
    settings = Figures(title="Another title", formats=["svg"])
    page = Page(build(folder, tmp_path / "out", settings).read_text("utf-8"))
    assert page.text("h1") == ["Another title"] == page.text("title")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("provenance.json", b'{"artifacts": [{"key": "x"}]}', "provenance.json: artifacts.0.node"),
        ("provenance.json", b"{", "provenance.json: not JSON"),
        ("results.json", b"\xff\xfe", "results.json: cannot be read"),
        ("tables/answers.parquet", b"PAR1 cut short", "answers.parquet: not a readable Parquet"),
        ("tables/cosines.csv", b"a,b\n1,2\n", "cosines.csv"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, file: str, content: bytes, said: str
) -> None:
    folder = write(tmp_path / "in", Size(conditions=3, personas=5, layers=(3,), methods=("a",)))
    if file == "tables/cosines.csv":
        # It is only read for the chance level, where the rows do not tell.
        found = results(folder)
        found["geometry"] = [
            r for r in found["geometry"] if r["metric"] != "M3" or r["variant"] == "published"
        ]
        (folder / "results.json").write_text(json.dumps(found))
    (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        build(folder, tmp_path / "out", SVG)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").glob("**/report.*"))


def test_answers_table_without_a_column_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", Size(conditions=2, personas=3, layers=(3,), methods=("a",)))
    path = folder / "tables" / "answers.parquet"
    pd.read_parquet(path).drop(columns="text").to_parquet(path)
    with pytest.raises(UserError, match=r"answers\.parquet: column text is missing"):
        build(folder, tmp_path / "out", SVG)
    assert not (tmp_path / "out").exists()
