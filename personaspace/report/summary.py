"""The headline of a study's results as a small table, for terminals."""

from __future__ import annotations

from typing import Any

from rich.table import Table


def _find(rows: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def _mean(rows: list[dict[str, Any]], key: str = "value") -> float | None:
    values = [row[key] for row in rows if row[key] is not None]
    return sum(values) / len(values) if values else None


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def headline(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry per condition: M1 and its change from base, leakage, source rate, degenerate share.

    Means over seeds; rates are fractions.
    """
    layer, method = results["analysis"]["layer"], results["analysis"]["method"]
    m1 = _find(
        results["geometry"],
        metric="M1",
        variant="published",
        layer=layer,
        method=method,
        name="raw_cosine",
    )
    means = _find(results["leakage"], metric="bystander_mean", variant="published")
    entries = []
    for condition in results["conditions"]:
        name = condition["name"]
        rates = _find(results["rates"], condition=name)
        source = _find(rates, persona=results["source"])
        own = _find(m1, condition=name)
        collapse = _mean(own) if condition["kind"] != "base" else _mean(m1, "base")
        total = sum(row["total"] for row in rates)
        entries.append(
            {
                "condition": name,
                "cosine": collapse,
                "cosine_change": _mean(own, "delta"),
                "bystander_leakage": _mean(_find(means, condition=name)),
                "source_rate": _mean(source, "rate"),
                "degenerate": sum(r["degenerate"] for r in rates) / total if total else None,
            }
        )
    return entries


def table(results: dict[str, Any]) -> Table:
    """The headline as a table."""
    analysis = results["analysis"]
    view = Table(
        title=f"{results['study']}: layer {analysis['layer']}, method {analysis['method'].upper()}",
        title_justify="left",
        caption="as published; the report also has what is recommended instead",
        caption_justify="left",
    )
    view.add_column("condition")
    for name in ("mean cosine", "vs base", "bystanders", "source", "degenerate"):
        view.add_column(name, justify="right")
    for entry in headline(results):
        view.add_row(
            entry["condition"],
            _text(entry["cosine"], ".4f"),
            _text(entry["cosine_change"], "+.4f"),
            _text(entry["bystander_leakage"], ".1%"),
            _text(entry["source_rate"], ".1%"),
            _text(entry["degenerate"], ".1%"),
        )
    return view
