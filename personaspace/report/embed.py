"""Making figures and files part of the page itself."""

from __future__ import annotations

import base64
import re

from markupsafe import Markup

from personaspace.report.figures import Figure, style

_THEME = {
    style.INK: "var(--fig-ink, {0})",
    style.MUTED: "var(--fig-muted, {0})",
    style.GRID: "var(--fig-grid, {0})",
    style.PAPER: "var(--fig-paper, {0})",
    # Blue, vermillion and green are too dark for a dark page; the others are light enough.
    style.BLUE: "var(--fig-blue, {0})",
    style.VERMILLION: "var(--fig-vermillion, {0})",
    style.GREEN: "var(--fig-green, {0})",
}
_PROLOGUE = re.compile(r"^.*?(?=<svg\b)", re.DOTALL)
_METADATA = re.compile(r"<metadata>.*?</metadata>\s*", re.DOTALL)
_NAMESPACES = re.compile(r'\s+xmlns(:\w+)?="[^"]*"')
_STYLE = re.compile(r'style="([^"]*)"')
_SHEET = re.compile(r"<style\b.*?</style>\s*", re.DOTALL)  # would apply to the whole page
_COMMENT = re.compile(r"<!--.*?-->\s*", re.DOTALL)


def data_uri(content: bytes, media_type: str) -> str:
    """A file as a link of its own."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def _themed(match: re.Match[str]) -> str:
    declarations = match.group(1)
    for colour, variable in _THEME.items():
        declarations = declarations.replace(colour, variable.format(colour))
    return f'style="{declarations}"'


def inline_svg(svg: str, prefix: str, classes: str) -> Markup:
    """An SVG by matplotlib as part of an HTML page.

    Ids get a prefix, so that two figures never share one; the style module's neutral colours
    become CSS variables, so that the figure follows the page's theme. The element is hidden from
    assistive software: whoever embeds it gives the alternative text.
    """
    body = _PROLOGUE.sub("", svg, count=1)
    for part in (_COMMENT, _METADATA, _SHEET):
        body = part.sub("", body)
    head, rest = body.split(">", 1)
    width = re.search(r'width="([\d.]+)pt"', head)
    head = _NAMESPACES.sub("", re.sub(r'\s(?:width|height)="[\d.]+pt"', "", head))
    points = float(width.group(1)) if width else 518.0
    head = head.replace(
        "<svg",
        f'<svg class="{classes}" aria-hidden="true" focusable="false" '
        f'style="max-width: {points * 1.75:.0f}px"',
        1,
    )
    rest = rest.replace("xlink:href", "href")
    rest = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', rest)
    rest = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', rest)
    rest = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", rest)
    return Markup(f"{head}>{_STYLE.sub(_themed, rest)}".strip())  # noqa: S704 - drawn by us


def figure_markup(figure: Figure) -> Markup:
    """Both layouts of a figure; the page's style sheet shows the one that fits."""
    wide = inline_svg(figure.svg, f"fig-{figure.id}-w", "wide")
    narrow = inline_svg(figure.svg_narrow, f"fig-{figure.id}-n", "narrow")
    return wide + Markup("\n") + narrow
