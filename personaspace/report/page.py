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

from personaspace.analysis.results import Results
from personaspace.report import (
    answers,
    dimension_tables,
    form_tables,
    full_tables,
    judged,
    key,
    markdown,
    noticed,
    provenance,
    published_vs_recommended,
    shape_tables,
    steered,
)
from personaspace.report import headline as words
from personaspace.report.downloads import downloads
from personaspace.report.embed import data_uri, figure_markup
from personaspace.report.figures import PICTURES, Figure, Settings, draw, style
from personaspace.report.tables import Cell, Column, Table
from personaspace.report.text import NONE, count, pretty
from personaspace.report.trajectory_table import trajectory_table
from personaspace.report.verdict import verdict

_FIGURES_OF = {
    "M1": ("m1-layers", "m1-increment"),
    "M2": ("m2-layers", "m2-convergence"),
    "M3": ("m3-layers",),
}
#: The page's script, in one piece.
_SCRIPTS = ("common.js", "page.js", "answers.js")


def _template_file(name: str) -> str:
    return (resources.files("personaspace.report") / "templates" / name).read_text("utf-8")


def _model_line(results: Results) -> str:
    model = results.model
    parts = [model.name + (f" at {model.revision}" if model.revision else "")]
    parts += [count(model.num_layers, "layer")] if model.num_layers else []
    parts += [model.dtype] if model.dtype else []
    if results.seeds:
        word = "seed" if len(results.seeds) == 1 else "seeds"
        parts.append(f"{word} {', '.join(map(str, results.seeds))}")
    return " · ".join(parts)


def _analysis_line(results: Results) -> str:
    a = results.analysis
    parts = [f"\u03b1 = {a.alpha:g}"]
    parts += [count(a.permutations, "permutation")] if a.permutations is not None else []
    parts += [count(a.bootstrap, "bootstrap draw")] if a.bootstrap is not None else []
    parts += [f"analysis seed {a.seed}"] if a.seed is not None else []
    samples = [
        f"{asked.what} in {asked.themes} themes"
        for asked in results.questions
        if asked.themes is not None and asked.themes > 1
    ]
    themed = f" Themes are the samples of tests over questions: {', '.join(samples)}."
    return f"Statistics: {', '.join(parts)}.{themed if samples else ''}"


def absent_parts(results: Results, has_answers: bool) -> list[str]:
    """What a partial study lacks, in words."""
    missing = []
    if not results.geometry:
        missing.append("geometry (no M1, M2 or M3 rows)")
    if not results.rates:
        missing.append("marker rates (nothing was evaluated, or not yet)")
    if not results.leakage:
        missing.append("tests of leakage")
    if not has_answers:
        missing.append("the answers themselves")
    with_rates = {rate.condition for rate in results.rates}
    with_geometry = {row.condition for row in results.geometry}
    for condition in results.ordered_conditions:
        lacks = []
        if results.rates and condition.name not in with_rates:
            lacks.append("rates")
        # The base model may stand in the other conditions' rows alone.
        if results.geometry and condition.name not in with_geometry and condition.kind != "base":
            lacks.append("geometry")
        if lacks:
            missing.append(f"{' and '.join(lacks)} of {condition.title}")
    return missing


def _personas_table(results: Results) -> Table | None:
    if not results.personas:
        return None
    induced: dict[str, list[str]] = {}
    for condition in results.ordered_conditions:
        if condition.kind == "em" and condition.induced:
            induced.setdefault(condition.induced, []).append(condition.title)
    rows = []
    for persona in results.personas:
        roles = ["source"] if persona.name == results.source else []
        roles += ["trained not to mark"] if persona.name in results.negatives else []
        roles += [f"trained under in {', '.join(induced.get(persona.name, []))}"] * (
            persona.name in induced
        )
        prompt = "(the chat template's default)" if persona.told is None else persona.told
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


def _measures(results: Results) -> list[dict[str, Any]]:
    present = dict.fromkeys(row.metric for row in results.geometry)
    known = [metric for metric in published_vs_recommended.MEASURES if metric in present]
    found = []
    apart = {*known, shape_tables.METRIC}
    for metric in known + [metric for metric in present if metric not in apart]:
        headline = [
            row
            for row in results.geometry
            if row.metric == metric and row.layer in (results.headline_layer, None)
        ]
        found.append(
            {
                "id": metric.lower(),
                "metric": metric,
                "title": published_vs_recommended.MEASURES.get(metric, metric),
                "figures": _FIGURES_OF.get(metric, ()),
                "compared": published_vs_recommended.measure_table(results, metric),
                "meaning": published_vs_recommended.meaning_table(
                    results, f"{metric.lower()}-meaning", [metric]
                ),
                "headline": full_tables.rows_table(
                    f"{metric.lower()}-headline",
                    f"{metric} at layer {results.headline_layer}, every variant",
                    results,
                    headline,
                ),
                "layers": full_tables.layer_tables(results, metric),
            }
        )
    return found


def _leakage(results: Results) -> dict[str, Any] | None:
    if not (results.leakage or results.rates):
        return None
    rows = None
    if results.leakage:
        rows = full_tables.rows_table(
            "leakage-rows", "Leakage: every row", results, list(results.leakage)
        )
    return {
        "tests": published_vs_recommended.tests_table(results),
        "checks": published_vs_recommended.checks_table(results),
        "ways": full_tables.ways_table(results),
        "length": form_tables.length_table(results),
        "forms": form_tables.forms_table(results),
        "meaning": published_vs_recommended.meaning_table(
            results, "tests-meaning", [*published_vs_recommended.TESTS, "bystander_mean", "length"]
        ),
        "rows": rows,
        "rates": full_tables.rates_table(results),
    }


def _answers(packed: answers.Packed | None) -> dict[str, Any] | None:
    if packed is None:
        return None
    return {
        "chunks": packed.chunks,
        "total": f"{packed.total:,}",
        "index": packed.index,
    }


def _contents(context: dict[str, Any]) -> list[dict[str, str]]:
    shown = [
        ("summary", "Summary", True),
        ("misalignment", "Misalignment", context["misalignment"]),
        ("steering", "Steering", context["steering"]),
        ("leakage", "Leakage", context["leakage"]),
        ("geometry", "Geometry", context["measures"]),
        ("trajectories", "Over the steps", context["trajectories"]),
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
    results = Results.read(folder)
    origin = provenance.load(folder, made_from)
    packed = answers.pack(folder, results)
    figures = draw(folder, out / "figures", settings)
    title = settings.title or results.title or f"Study {results.study}"
    context: dict[str, Any] = {
        "title": title,
        "results": results,
        "model_line": _model_line(results),
        "analysis_line": _analysis_line(results),
        "notices": noticed.general(results),
        "known": noticed.of_parts(results),
        "verdict": verdict(results),
        "headline": words.headline(results),
        "details": words.details(results),
        "cautions": words.cautions(results),
        "absent": absent_parts(results, packed is not None),
        "figures": [_page_figure(figure) for figure in figures],
        "key_table": key.key_table(results),
        "misalignment": judged.section(results),
        "steering": steered.section(results),
        "leakage": _leakage(results),
        "measures": _measures(results),
        "dimensions": dimension_tables.dimensions_table(results),
        "robustness": dimension_tables.robustness_table(results),
        "shape": shape_tables.section(results),
        "trajectories": trajectory_table(results),
        "pictures": [name for name in PICTURES if name != "hero"],
        "answers": _answers(packed),
        "personas": _personas_table(results),
        "origin": origin,
        "downloads": downloads(folder, origin.spec if origin else ""),
    }
    context["contents"] = _contents(context)
    page = _html(context)
    summary = markdown.summary(results, figures, out, title, context)
    # JSON can hold half a surrogate pair, which is not UTF-8.
    style.write(out / "report.md", summary.encode("utf-8", errors="replace"))
    style.write(out / "report.html", page.encode("utf-8", errors="replace"))
    return out / "report.html"
