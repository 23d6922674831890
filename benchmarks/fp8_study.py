"""A small study trained in bf16 and with frozen weights in FP8: M1 to M3 beside its seeds' scatter.

    python -m benchmarks.fp8_study study.yaml --out fp8-study.json

A study with several seeds, on a GPU. It is run twice in this process, whole, each time to a store
of its own that is deleted afterwards: what FP8 trained has the fingerprints of what bf16 trains,
and must never be mixed with it. Hidden states are read in bf16 both times. For every number of M1
to M3 that each seed has: how far FP8 is from bf16 with the same seed, and how far two seeds of bf16
are from each other. Where FP8 did no more than another seed does, the medians' ratio is below 1.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.fp8_products import How, checked, swapped

METRICS = ("M1", "M2", "M3")
#: Of a row, what says which number it is.
KEY = ("metric", "variant", "method", "layer", "condition", "against", "name", "target")
Values = Mapping[tuple[Any, ...], Mapping[int, float]]


def values(rows: Sequence[Mapping[str, Any]]) -> Values:
    """Numbers of M1 to M3 by what they are and by seed."""
    found: dict[tuple[Any, ...], dict[int, float]] = defaultdict(dict)
    for row in rows:
        if row["metric"] in METRICS and row["seed"] is not None and row["value"] is not None:
            found[tuple(str(row[name]) for name in KEY)][int(row["seed"])] = float(row["value"])
    return found


def compare(exact: Values, rough: Values) -> list[dict[str, Any]]:
    """A row for each metric and variant."""
    groups: dict[tuple[str, str], list[tuple[float, float, float]]] = defaultdict(list)
    for key, by_seed in exact.items():
        both = sorted(by_seed.keys() & rough.get(key, {}).keys())
        if len(by_seed) < 2 or not both:
            continue
        moved = statistics.mean(abs(rough[key][seed] - by_seed[seed]) for seed in both)
        scatter = statistics.mean(abs(a - b) for a, b in combinations(by_seed.values(), 2))
        low, high = min(by_seed.values()), max(by_seed.values())
        outside = statistics.mean(not low <= rough[key][seed] <= high for seed in both)
        groups[key[0], key[1]].append((moved, scatter, outside))
    table = []
    for (metric, variant), found in sorted(groups.items()):
        moved, scatter, outside = (list(each) for each in zip(*found, strict=True))
        there = statistics.median(scatter)
        table.append({
            "metric": metric, "variant": variant, "numbers": len(found),
            "FP8 from bf16, same seed": statistics.median(moved),
            "seed from seed, bf16": there,
            "ratio": statistics.median(moved) / there if there else float("nan"),
            "outside of all seeds": statistics.mean(outside),
        })  # fmt: skip
    return table


def trained(spec: Path, how: How | None) -> tuple[Values, float]:
    """A whole run's numbers, and its seconds; None: bf16.

    Raises:
        SystemExit: No training took FP8.
    """
    import personaspace

    began = time.perf_counter()
    with (
        tempfile.TemporaryDirectory(prefix="fp8-study-") as scratch,
        nullcontext() if how is None else swapped(how) as copies,
    ):
        results = personaspace.run(spec, scratch, only=["aggregate"], with_inputs=True)
        if copies is not None and not copies.count:
            raise SystemExit("no training took FP8: the model is not one that fastlora trains here")
        assert results is not None
        with results:
            found = values([row.to_dict() for row in results.results.rows])
    return found, time.perf_counter() - began


def main() -> None:
    """Both runs, and the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--exact-sums", action="store_true", help="not Hopper's fast ones")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    how, notes = checked()
    exact, first = trained(options.spec, None)
    print(f"bf16: {first:.0f} s, {len(exact)} numbers", flush=True)
    rough, second = trained(options.spec, replace(how, fast=not options.exact_sums))
    print(f"FP8: {second:.0f} s, {len(rough)} numbers", flush=True)
    facts = {"notes": notes, "seconds": {"bf16": first, "fp8": second}}
    common.report(compare(exact, rough), facts, options.out)


if __name__ == "__main__":
    main()
