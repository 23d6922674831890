"""Builds the report: draws the figures, fills the page, writes HTML and Markdown."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from personaspace.report import (
    answers,
    key,
    markdown,
    provenance,
    published_vs_recommended,
    results,
)
from personaspace.report import headline as words
from personaspace.report.downloads import downloads
from personaspace.report.embed import data_uri, figure_markup
from personaspace.report.figures import Figure, Settings, draw, style
from personaspace.report.figures.findings import Findings, load_findings
from personaspace.report.figures.style import pretty
from personaspace.report.tables import Cell, Column, Table
from personaspace.report.text import NONE, THIN, count

_FIGURES_OF = {
    "M1": ("m1-layers", "m1-increment"),
    "M2": ("m2-layers", "m2-convergence"),
    "M3": ("m3-layers",),
}
#: The page's script, in one piece.
_SCRIPTS = ("common.js", "page.js", "answers.js")


def _template_file(name: str) -> str:
    return (resources.files("personaspace.report") / "templates" / name).read_text("utf-8")


def _model_line(findings: Findings) -> str:
    model = findings.model
    parts = [model.name + (f" at {model.revision}" if model.revision else "")]
    parts += [f"{model.num_layers} layers"] if model.num_layers else []
    parts += [model.dtype] if model.dtype else []
    if findings.seeds:
        word = "seed" if len(findings.seeds) == 1 else "seeds"
        parts.append(f"{word} {', '.join(map(str, findings.seeds))}")
    return " · ".join(parts)


def _analysis_line(findings: Findings) -> str:
    a = findings.analysis
    parts = [f"\u03b1 = {a.alpha:g}"]
    parts += [count(a.permutations, "permutation")] if a.permutations is not None else []
    parts += [count(a.bootstrap, "bootstrap draw")] if a.bootstrap is not None else []
    parts += [f"analysis seed {a.seed}"] if a.seed is not None else []
    return f"Statistics: {', '.join(parts)}."


def absent_parts(findings: Findings, has_answers: bool) -> list[str]:
    """What a partial study lacks, in words."""
    missing = []
    if not findings.geometry:
        missing.append("geometry (no M1, M2 or M3 rows)")
    if not findings.rates:
        missing.append("marker rates (nothing was evaluated, or not yet)")
    if not findings.leakage:
        missing.append("tests of leakage")
    if not has_answers:
        missing.append("the answers themselves")
    with_rates = {rate.condition for rate in findings.rates}
    with_geometry = {row.condition for row in findings.geometry}
    for arm in findings.arms:
        lacks = []
        if findings.rates and arm.name not in with_rates:
            lacks.append("rates")
        # The base model may stand in the other conditions' rows alone.
        if findings.geometry and arm.name not in with_geometry and arm.kind != "base":
            lacks.append("geometry")
        if lacks:
            missing.append(f"{' and '.join(lacks)} of {arm.title}")
    return missing


def _personas_table(findings: Findings) -> Table | None:
    if not findings.personas:
        return None
    induced: dict[str, list[str]] = {}
    for arm in findings.arms:
        if arm.kind == "em" and arm.induced:
            induced.setdefault(arm.induced, []).append(arm.title)
    rows = []
    for persona in findings.personas:
        roles = ["source"] if persona.name == findings.source else []
        roles += ["trained not to mark"] if persona.name in findings.negatives else []
        roles += [f"trained under in {', '.join(induced.get(persona.name, []))}"] * (
            persona.name in induced
        )
        prompt = "(the chat template's default)" if persona.prompt is None else persona.prompt
        rows.append(
            [
                Cell(pretty(persona.name), persona.name),
                Cell("; ".join(roles) or NONE, "; ".join(roles) or None),
                Cell(prompt),
            ]
        )
    return Table(
        "personas-table",
        "Personas",
        [Column("Persona"), Column("role"), Column("prompt")],
        rows,
        classes="notes",
    )


def _measures(findings: Findings) -> list[dict[str, Any]]:
    present = dict.fromkeys(row.metric for row in findings.geometry)
    known = [metric for metric in published_vs_recommended.MEASURES if metric in present]
    found = []
    for metric in known + [metric for metric in present if metric not in known]:
        hero = [
            row
            for row in findings.geometry
            if row.metric == metric and row.layer in (findings.hero_layer, None)
        ]
        found.append(
            {
                "id": metric.lower(),
                "metric": metric,
                "title": published_vs_recommended.MEASURES.get(metric, metric),
                "figures": _FIGURES_OF.get(metric, ()),
                "beside": published_vs_recommended.measure_table(findings, metric),
                "meaning": published_vs_recommended.meaning_table(
                    findings, f"{metric.lower()}-meaning", [metric]
                ),
                "hero": results.rows_table(
                    f"{metric.lower()}-hero",
                    f"{metric} at layer {findings.hero_layer}, every variant",
                    findings,
                    hero,
                ),
                "layers": results.layer_tables(findings, metric),
            }
        )
    return found


def _leakage(findings: Findings) -> dict[str, Any] | None:
    if not (findings.leakage or findings.rates):
        return None
    rows = None
    if findings.leakage:
        rows = results.rows_table(
            "leakage-rows", "Leakage: every row", findings, list(findings.leakage)
        )
    return {
        "tests": published_vs_recommended.tests_table(findings),
        "checks": published_vs_recommended.checks_table(findings),
        "ways": results.ways_table(findings),
        "meaning": published_vs_recommended.meaning_table(
            findings, "tests-meaning", [*published_vs_recommended.TESTS, "bystander_mean"]
        ),
        "rows": rows,
        "rates": results.rates_table(findings),
    }


def _answers(packed: answers.Packed | None) -> dict[str, Any] | None:
    if packed is None:
        return None
    return {
        "chunks": packed.chunks,
        "total": f"{packed.total:,}".replace(",", THIN),
        "index": packed.index,
    }


def _contents(context: dict[str, Any]) -> list[dict[str, str]]:
    shown = [
        ("summary", "Summary", True),
        ("leakage", "Leakage", context["leakage"]),
        ("geometry", "Geometry", context["measures"]),
        ("training", "Training", any(f["id"] == "training" for f in context["figures"])),
        ("answers", "Answers", context["answers"]),
        ("caveats", "Caveats", True),
        ("provenance", "Provenance", True),
    ]
    return [{"id": place, "title": title} for place, title, present in shown if present]


def _page_figure(figure: Figure) -> dict[str, Any]:
    return {
        "id": figure.id,
        "title": figure.title,
        "caption": figure.caption,
        "alt": figure.alt,
        "markup": figure_markup(figure),
        "data": data_uri(figure.csv().encode(), "text/csv"),
    }


def _html(context: dict[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("personaspace.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    script = "\n".join(_template_file(name) for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return environment.get_template("report.html.j2").render(
        css=Markup(_template_file("report.css")),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        # Only this very script may run, whatever text the page holds.
        script_hash=f"sha256-{digest}",
        **context,
    )


def build(
    aggregate_folder: Path,
    out: Path,
    settings: Settings,
    made_from: Sequence[provenance.Artifact] = (),
) -> Path:
    """Draws the figures of an aggregate folder and writes `report.html` and `report.md`.

    Args:
        aggregate_folder: Holds `results.json`; `tables/` and `provenance.json` where there are any.
        out: Folder for `report.html`, `report.md` and `figures/`; made if absent.
        settings: Title, figure formats, resolution.
        made_from: The aggregate artifact itself, which its own files cannot name.

    Returns:
        Path of `report.html`. It needs no other file and no network.

    Raises:
        UserError: Missing or malformed input; nothing is half-written.
    """
    folder, out = Path(aggregate_folder), Path(out)
    findings = load_findings(folder)
    origin = provenance.load(folder, made_from)
    packed = answers.pack(folder, findings)
    figures = draw(folder, out / "figures", settings)
    title = settings.title or findings.title or f"Study {findings.study}"
    context: dict[str, Any] = {
        "title": title,
        "findings": findings,
        "model_line": _model_line(findings),
        "analysis_line": _analysis_line(findings),
        "headline": words.headline(findings),
        "details": words.details(findings),
        "cautions": words.cautions(findings),
        "absent": absent_parts(findings, packed is not None),
        "figures": [_page_figure(figure) for figure in figures],
        "key_table": key.key_table(findings),
        "leakage": _leakage(findings),
        "measures": _measures(findings),
        "answers": _answers(packed),
        "personas": _personas_table(findings),
        "origin": origin,
        "downloads": downloads(folder, origin.spec if origin else ""),
    }
    context["contents"] = _contents(context)
    page = _html(context)
    summary = markdown.summary(findings, figures, out, title, context)
    # JSON can hold half a surrogate pair, which is no UTF-8.
    style.write(out / "report.md", summary.encode("utf-8", errors="replace"))
    style.write(out / "report.html", page.encode("utf-8", errors="replace"))
    return out / "report.html"
