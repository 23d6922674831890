"""How many GPUs of one host large models take, by use and card: the table in docs/gpu.md.

    python -m benchmarks.gpus_needed            # prints it
    python -m benchmarks.gpus_needed --write    # into docs/gpu.md

Counted on models without weights, as `validate` counts a study's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.shapes import SHAPES
from personaspace.models import architecture, preflight
from personaspace.models.footprint import Footprint, Use, footprint
from personaspace.study.inputs import Model
from personaspace.study.measuring import Generation
from personaspace.study.recipe import Recipe

PAGE = Path(__file__).parent.parent / "docs" / "gpu.md"
SHOWN = ("Llama-3.3-70B", "Qwen3-32B", "Gemma-2-27B")
CARDS = (24, 80, 141)
BEGIN, END = "<!-- gpus -->\n", "<!-- end of gpus -->"


def taken(shape: str) -> Footprint:
    """What a shape takes with the published recipe."""
    from transformers import AutoConfig

    kind, sizes = SHAPES[shape]
    made = architecture.describe(AutoConfig.for_model(kind, **sizes))
    recipe = Recipe()
    targets = preflight.adapted(made, recipe, "training").targets
    return footprint(Model(name=shape), made, targets, recipe, Generation().gpu_memory)


def table() -> str:
    """Markdown."""
    uses = (Use.TRAINING, Use.READING, Use.ANSWERING, Use.WHOLE)
    lines = [
        "| shape | parameters | card | " + " | ".join(uses) + " | GB on each in training |",
        "| --- | --: | --: | " + "--: | " * len(uses) + "--: |",
    ]
    for shape in SHOWN:
        found = taken(shape)
        for card in CARDS:
            counts = [found.gpus(use, card) for use in uses]
            gpus = counts[0]
            need = "" if gpus is None else f"{found.need(Use.TRAINING, gpus) / 10**9:.0f}"
            cells = [str(count or "–") for count in counts]
            lines.append(
                f"| {shape} | {found.parameters / 10**9:.1f}·10⁹ | {card} GB | "
                + " | ".join(cells)
                + f" | {need or '–'} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table, or write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    if not parser.parse_args().write:
        print(table())
        return
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
