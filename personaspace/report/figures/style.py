"""One look for every figure: colours, sizes, and saving to the same bytes each time.

Colours are Okabe and Ito's palette (2008), told apart by the common forms of colour blindness;
each condition also has its own marker and line pattern, so that figures survive greyscale print.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, is_color_like, to_rgb
from matplotlib.figure import Figure as Canvas
from matplotlib.font_manager import FontProperties, findfont

from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import KINDS
from personaspace.errors import UserError
from personaspace.version import __version__

# The report turns these exact colours, and three of the palette, into CSS variables, so that inline
# figures follow the page's light or dark theme; nothing else may be drawn in them.
INK = "#1f2328"
MUTED = "#5c6670"
GRID = "#dde3e8"
PAPER = "#fefefe"

BLUE, VERMILLION, GREEN = "#0072b2", "#d55e00", "#009e73"
ORANGE, PURPLE, SKY, YELLOW = "#e69f00", "#cc79a7", "#56b4e9", "#f0e442"

_EM_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, YELLOW)
_EM_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_EM_LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))

#: Light to dark in one hue: order is kept in greyscale.
HEAT = LinearSegmentedColormap.from_list("heat", ["#f3f8fc", "#a9d0ea", "#0a70ae", "#06304d"])
CELL_DARK, CELL_LIGHT = "#000000", "#ffffff"

WIDE, NARROW = 7.2, 3.5  #: Figure widths in inches: two columns of a page; a phone or one column.
POINT = 1 / 72
_PALE = 1.5  #: Contrast with the paper below which a line is hard to see.

FONT_SIZE = 8.0  #: Points. Every size is written for it, and grows with the font that is set.


@dataclass(frozen=True)
class Style:
    """What may be set of a figure: colours, font and sizes. The default is the report's look.

    Attributes:
        colours: By condition's name, or by kind (`base`, `benign`, `em`); any colour that
            matplotlib knows. A name counts more than a kind.
        font_family: A font that is installed; DejaVu Sans comes with matplotlib.
        font_size: Of labels, in points; all other text is in proportion.
        width: In inches; None: what the font needs for two panels next to each other. In a narrow
            figure the panels are on top of each other.
        height: In inches; None: what rows and font need.
        dpi: Resolution of pixel formats.
    """

    colours: Mapping[str, str] = field(default_factory=dict)
    font_family: str = "DejaVu Sans"
    font_size: float = FONT_SIZE
    width: float | None = None
    height: float | None = None
    dpi: int = 160

    @property
    def scale(self) -> float:
        """Factor of all lengths that go with the font."""
        return self.font_size / FONT_SIZE

    def fitting(self, length: Literal["width", "height"], least: float) -> float:
        """Width or height in inches: what is set, else the least.

        Args:
            length: Which of the two.
            least: Inches that the content needs at the report's font size.

        Raises:
            UserError: What is set is too little.
        """
        needed = least * self.scale
        wanted = self.width if length == "width" else self.height
        if wanted is not None and wanted < needed - 0.005:
            raise UserError(
                f"style.{length}: {wanted:g} inches are too few for a font of {self.font_size:g} "
                f"points (at least {needed:.2f})"
            )
        return needed if wanted is None else wanted

    def check(self, results: Results) -> None:
        """Refuses what cannot be drawn of these results.

        Raises:
            UserError: An unknown condition, colour or font, or a size out of range.
        """
        for name, colour in self.colours.items():
            if name not in results.by_name and name not in KINDS:
                known = ", ".join([*results.by_name, *KINDS])
                raise UserError(f"style.colours: {name!r} is not a condition or kind ({known})")
            if not is_color_like(colour):
                raise UserError(f"style.colours: {name}: {colour!r} is not a colour")
        if not 4 <= self.font_size <= 72:
            raise UserError(f"style.font_size: {self.font_size:g} is not between 4 and 72")
        if not 20 <= self.dpi <= 2400:
            raise UserError(f"style.dpi: {self.dpi} is not between 20 and 2400")
        try:
            findfont(FontProperties(family=self.font_family), fallback_to_default=False)
        except ValueError:
            raise UserError(f"style.font_family: {self.font_family!r} is not installed") from None


REPORT = Style()

RC: dict[str, Any] = {
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "hatch.linewidth": 0.5,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "savefig.facecolor": PAPER,
    # Hinted, letters are of other widths at another resolution than the one of the layout.
    "text.hinting": "none",
    "text.parse_math": False,  # a dollar sign in a label is a dollar sign
    "svg.fonttype": "path",
    "svg.hashsalt": "personaspace",
    "pdf.fonttype": 42,
    "path.simplify": False,
}


#: Sizes of text, in points at `FONT_SIZE`.
_SIZES = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
}


@dataclass(frozen=True)
class Look:
    """How a condition is drawn everywhere."""

    colour: str
    marker: str
    line: Any
    edge: str


def looks(results: Results, style: Style = REPORT) -> dict[str, Look]:
    """A look for each condition, by name."""
    result: dict[str, Look] = {}
    em = 0
    for condition in results.ordered_conditions:
        line: Any = (0, (6, 2))
        marker, colour = "_", INK
        if condition.kind == "benign":
            marker, line, colour = "h", "-", MUTED
        elif condition.kind == "em":
            colour = _EM_COLOURS[em % len(_EM_COLOURS)]
            marker, line = _EM_MARKERS[em % len(_EM_MARKERS)], _EM_LINES[em % len(_EM_LINES)]
            em += 1
        colour = style.colours.get(condition.name) or style.colours.get(condition.kind) or colour
        # Yellow and paler is too pale for a line on white; its marker gets an ink edge.
        pale = contrast(to_rgb(colour), to_rgb(PAPER)) < _PALE
        result[condition.name] = Look(colour, marker, line, INK if pale else colour)
    return result


@contextmanager
def styled(style: Style = REPORT) -> Iterator[None]:
    """Matplotlib's settings for one figure; whatever the user has set elsewhere is ignored."""
    with mpl.rc_context():
        mpl.rcdefaults()
        sizes = {name: size * style.scale for name, size in _SIZES.items()}
        cast(Any, mpl.rcParams).update(RC | sizes | {"font.family": style.font_family})
        yield


def points(size: float) -> float:
    """A size of text at `FONT_SIZE`, for the font that is set now."""
    return size * float(mpl.rcParams["font.size"]) / FONT_SIZE


def canvas(width: float, height: float, dpi: float | None = None) -> Canvas:
    """An empty figure without pyplot's global state. Sizes in inches."""
    figure = Canvas(figsize=(width, height), layout="constrained", dpi=dpi)
    FigureCanvasAgg(figure)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(w_pad=4 * POINT, h_pad=4 * POINT, wspace=0.03, hspace=0.04)  # type: ignore[call-arg]
    return figure


def settled(figure: Canvas) -> Canvas:
    """The figure with its layout computed once and kept.

    Left on, the layout is computed anew for each format and starts from the last one's outcome, so
    that a file would depend on which others were written before it. With no engine, and not with
    one that does nothing, saving draws once and not twice.
    """
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    figure.set_layout_engine(None)
    return figure


def metadata(kind: str, digest: str | None) -> dict[str, Any]:
    """What a file says of itself: the version that drew it and the digest of spec and data.

    No dates or random ids, so that equal figures are equal files.

    Args:
        kind: png, svg or pdf; other formats: nothing.
        digest: SHA-256; None: not known.
    """
    maker, spec = f"personaspace {__version__}", f"sha256:{digest}" if digest else None
    known: dict[str, dict[str, Any]] = {
        "png": {"Software": maker, "Source": spec},
        "svg": {"Date": None, "Creator": maker, "Identifier": spec},
        "pdf": {"CreationDate": None, "Producer": None, "Creator": maker, "Keywords": spec},
    }
    dates = {"Date", "CreationDate", "Producer"}
    return {key: v for key, v in known.get(kind, {}).items() if v is not None or key in dates}


def render(figure: Canvas, kind: str, dpi: int = 160, digest: str | None = None) -> bytes:
    """The figure as PNG, SVG or PDF bytes, without dates or random ids; see `metadata`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata(kind, digest))
    return buffer.getvalue()


def write(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    scratch = path.with_name(f".{path.name}.part")
    scratch.write_bytes(content)
    scratch.replace(path)


def wrap(text: str, width: int, lines: int = 3) -> str:
    """Breaks a label into lines of about `width` characters, cut with an ellipsis."""
    return "\n".join(
        textwrap.wrap(text, width, max_lines=lines, placeholder="…", break_on_hyphens=False)
        or [text]
    )


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Moves label positions apart by at least `gap`, inside [low, high] where they fit.

    Neighbours that collide form a block centred on the mean of what they label (pool adjacent
    violators on the positions less their rank times the gap).
    """
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    blocks: list[tuple[float, int]] = []  # mean of (position - rank * gap), size
    for rank, index in enumerate(order):
        mean, size = positions[index] - rank * gap, 1
        while blocks and blocks[-1][0] > mean:
            other, count = blocks.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        blocks.append((mean, size))
    flat = [mean for mean, size in blocks for _ in range(size)]
    top = high - (len(positions) - 1) * gap
    result = [0.0] * len(positions)
    for rank, index in enumerate(order):
        result[index] = max(low, min(flat[rank], max(top, low))) + rank * gap
    return result


def _luminance(colour: Sequence[float]) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: Sequence[float], other: Sequence[float]) -> float:
    """Contrast ratio of two sRGB colours, 1 to 21 (WCAG 2.2)."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def readable_on(background: Sequence[float]) -> str:
    """Dark or light text, whichever stands out more from a background colour."""
    dark, light = to_rgb(CELL_DARK), to_rgb(CELL_LIGHT)
    return CELL_DARK if contrast(background, dark) > contrast(background, light) else CELL_LIGHT


def panel_title(axes: Axes, text: str, letter: str = "") -> None:
    """A left-aligned title with an optional panel letter."""
    axes.set_title(f"{letter}   {text}" if letter else text, pad=7)
