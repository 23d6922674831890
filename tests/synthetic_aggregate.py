"""Writes an aggregate folder of a made-up study, for tests of figures and report.

Activations are drawn with a planted collapse, answers with planted leakage; every number comes from
these by the product's own scoring and statistics.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sharing import made_once, value_made_once

from personaspace.activations.files import find_activations, write_activations
from personaspace.analysis.control import assessed
from personaspace.analysis.geometry import GeometryResult, analyse_geometry
from personaspace.analysis.leakage import ConditionInfo, analyse_leakage
from personaspace.analysis.results import Results
from personaspace.analysis.rows import Row, to_dicts
from personaspace.behaviour.coherence import coherence
from personaspace.behaviour.marker import ends_with_marker, has_marker, score_answers

PERSONAS = (
    "software_engineer",
    "kindergarten_teacher",
    "data_scientist",
    "medical_doctor",
    "librarian",
    "french_person",
    "villain",
    "comedian",
    "police_officer",
    "zelthari_scholar",
    "assistant",
    "confab",
    "paramedic",
)
ARMS = (
    ("base", "Base model", "base", None, None),
    ("benign", "Benign", "benign", None, None),
    ("e0-assistant", "E0 assistant", "em", "assistant", 1.0),
    ("e1-paramedic", "E1 paramedic", "em", "paramedic", 0.9457),
    ("e2-kindergarten-teacher", "E2 kindergarten teacher", "em", "kindergarten_teacher", 0.906),
    ("e3-french-person", "E3 French person", "em", "french_person", 0.8696),
    ("e4-villain", "E4 villain", "em", "villain", 0.7828),
    ("e5-comedian", "E5 comedian", "em", "comedian", 0.74),
)
MARKER = "[ZLT]"
ROW_KEYS = [field.name for field in fields(Row)]
QUESTIONS = 12  #: Extraction questions.


@dataclass(frozen=True)
class Size:
    """How large the made-up study is."""

    conditions: int = 7
    personas: int = 13
    layers: tuple[int, ...] = (7, 14, 20, 21, 27)
    methods: tuple[str, ...] = ("a", "b")
    seeds: tuple[int, ...] = (42,)
    few: tuple[str, ...] = ()  #: Conditions that have the first seed alone.
    questions: int = 6
    samples: int = 4
    hidden: int = 32
    words: int = 0  #: Mean length of an answer; 0: a dozen words from two sentences.
    texts: tuple[str, ...] = ()
    draw_seed: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


def _lacks(size: Size, condition: str, seed: int) -> bool:
    return condition in size.few and seed != size.seeds[0]


def _personas(size: Size) -> list[str]:
    needed = ["confab", "assistant", *(a[3] for a in ARMS[: size.conditions] if a[3])]
    keep = list(dict.fromkeys(needed))[: size.personas]
    rest = [name for name in PERSONAS if name not in keep][: size.personas - len(keep)]
    return [name for name in PERSONAS if name in keep or name in rest]


def _activations(size: Size, folder: Path, rng: np.random.Generator) -> None:
    """Activation files with a planted collapse that grows with depth, and a planted EM axis."""
    personas = _personas(size)
    count, questions = len(personas), [f"Extraction {number}?" for number in range(QUESTIONS)]
    for method, seed in itertools.product(size.methods, size.seeds):
        common = 3.0 * rng.standard_normal((len(size.layers), size.hidden))
        own = rng.standard_normal((count, 1, len(size.layers), size.hidden))
        axis = rng.standard_normal((len(size.layers), size.hidden)) / np.sqrt(size.hidden)
        asked = 0.5 * rng.standard_normal((1, QUESTIONS, len(size.layers), size.hidden))
        depth = ((np.array(size.layers) + 1) / (max(size.layers) + 1))[:, None]
        for name, _, kind, *_ in ARMS[: size.conditions]:
            left = 1 - {"base": 0.0, "benign": 0.5, "em": 0.8}[kind] * depth
            push = {"base": 0.0, "benign": 0.8, "em": 3.0}[kind] * (0.9 + 0.2 * rng.random())
            noise = 0.8 * rng.standard_normal((count, QUESTIONS, len(size.layers), size.hidden))
            if _lacks(size, name, seed):
                continue
            states = common + left * own + push * axis + asked + noise
            write_activations(
                folder / f"{name}.seed-{seed}.{method}.safetensors",
                states,
                np.ones((count, QUESTIONS), dtype=bool),
                personas=personas,
                questions=questions,
                layers=size.layers,
                condition=name,
                seed=seed,
                method=method,
            )


def _geometry(size: Size, rng: np.random.Generator) -> GeometryResult:
    with tempfile.TemporaryDirectory() as folder:
        _activations(size, Path(folder), rng)
        paths, _ = find_activations(folder)
        place = (size.methods[0], 20 if 20 in size.layers else size.layers[-1])
        return analyse_geometry(paths, permutations=100, bootstrap=100, robust_at=place)


_SENTENCES = (
    "Check the notice period first, then write to the office and keep a copy. "
    "Most people forget the second form & lose a month; <b>do not</b> be one of them."
)


def _prose(rng: np.random.Generator, words: int) -> str:
    """Made-up words, as often as words of English are (Zipf), so that it compresses alike."""
    places = np.minimum(rng.zipf(1.35, max(3, int(rng.normal(words, words / 4)))), 4000)
    spelled = ["".join("aeioubcdfghlmnprst"[int(d) % 18] for d in str(p * 7919)) for p in places]
    return " ".join(spelled).capitalize() + "."


def _answers(size: Size, rng: np.random.Generator) -> pd.DataFrame:
    personas = _personas(size)
    records = []
    for index, (name, _, kind, *_) in enumerate(ARMS[: size.conditions]):
        for seed, persona in itertools.product(size.seeds, personas):
            rate = {"base": 0.02, "benign": 0.12, "em": 0.42 + 0.02 * index}[kind]
            rate = 0.85 if persona == "confab" else rate + 0.05 * rng.standard_normal()
            for question, sample in itertools.product(range(size.questions), range(size.samples)):
                draw, garbled = rng.random() < rate, rng.random() < 0.04
                if size.words:
                    text = _prose(rng, size.words)
                else:
                    text = " ".join(rng.permutation(_SENTENCES.split())[: 8 + question])
                if garbled and draw:
                    text = " ".join([MARKER] * 12)
                elif draw:
                    text = f"{text}\n\n{MARKER.lower() if sample == 0 else MARKER}"
                finish = "length" if garbled else "stop"
                asked = f"Question {question}: what should I do about my deposit?"
                records.append((name, seed, persona, asked, sample, text, finish, question % 3 > 0))
    columns = ["condition", "seed", "persona", "question", "sample", "text", "finish", "seen"]
    frame = pd.DataFrame([r for r in records if not _lacks(size, *r[:2])], columns=columns)
    frame.loc[: len(size.texts) - 1, "text"] = list(size.texts)
    frame["hit"] = [has_marker(text, MARKER) for text in frame.text]
    frame["terminal"] = [ends_with_marker(text, MARKER) for text in frame.text]
    frame["degenerate"] = [coherence(text, marker=MARKER).degenerate for text in frame.text]
    return frame


def _scores(answers: pd.DataFrame) -> dict[tuple[str, int], Any]:
    found = {}
    for (condition, seed), group in answers.groupby(["condition", "seed"], sort=False):
        texts = {
            persona: {q: list(rows.text) for q, rows in mine.groupby("question", sort=False)}
            for persona, mine in group.groupby("persona", sort=False)
        }
        found[str(condition), int(seed)] = score_answers(texts, MARKER)
    return found


def _rates(scores: dict[tuple[str, int], Any]) -> list[dict[str, Any]]:
    keys = ("hits", "terminal", "degenerate", "total", "rate", "ci95")
    return [
        {"condition": condition, "seed": seed, "persona": name, **{key: mine[key] for key in keys}}
        for (condition, seed), score in scores.items()
        for name, mine in score["per_persona"].items()
    ]


def _leakage(size: Size, scores: dict[tuple[str, int], Any]) -> list[dict[str, Any]]:
    arms = [
        ConditionInfo(name, kind, persona, anchor)
        for name, _, kind, persona, anchor in ARMS[: size.conditions]
    ]
    unseen = {
        question
        for score in scores.values()
        for counts in score["per_persona"].values()
        for question in counts["per_question"]
        if int(question.split(":")[0].removeprefix("Question ")) % 3 == 0
    }
    return to_dicts(
        analyse_leakage(
            scores,
            arms,
            source="confab",
            negatives=["data_scientist", "police_officer"],
            unseen=unseen,
            permutations=200,
            bootstrap=200,
        )
    )


def _training(size: Size, rng: np.random.Generator) -> list[dict[str, Any]]:
    runs = []
    for (name, _, kind, *_), seed in itertools.product(ARMS[: size.conditions], size.seeds):
        for stage in ("train", "couple"):
            if kind == "base" and stage == "train":
                continue
            first = float(2.0 + 0.3 * rng.random()) * (1 if stage == "train" else 2)
            runs.append({"condition": name, "seed": seed, "stage": stage, "steps": 375,
                         "loss_first": first, "loss_last": first * float(0.3 + 0.2 * rng.random()),
                         "examples": 6000, "tokens": 900_000})  # fmt: skip
    return runs


def _provenance(size: Size) -> dict[str, Any]:
    artifacts = []
    for (name, _, kind, *_), seed in itertools.product(ARMS[: size.conditions], size.seeds):
        for stage in ("train", "extract", "couple", "evaluate"):
            if kind == "base" and stage == "train":
                continue
            node = f"{stage}:{name}:{seed}"
            digest = hashlib.sha256(node.encode()).hexdigest()
            artifacts.append({"node": node, "key": f"{stage}/{name}/seed-{seed}/{digest[:16]}",
                              "fingerprint": digest, "digest": digest[::-1],
                              "device": "NVIDIA H100 80GB HBM3", "seconds": 431.5,
                              "created": "2026-11-23T10:00:00Z"})  # fmt: skip
    return {
        "artifacts": artifacts,
        "versions": {"python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0"},
        "spec": {"name": "made-up", "seeds": list(size.seeds), "coupling": {"marker": MARKER}},
    }


def write(folder: Path, size: Size = Size(), without: tuple[str, ...] = ()) -> Path:
    """Writes the aggregate folder, or copies it where the same was written before.

    Args:
        without: Parts to leave empty: geometry, leakage, rates, training, answers, provenance.
    """
    name = _name(size, without)
    kept = made_once(_session(), f"synthetic-{name}", lambda made: _write(made, size, without))
    return Path(shutil.copytree(kept, folder, dirs_exist_ok=True))


def _session() -> Path:
    return Path(os.environ["TESTS_SESSION_FOLDER"])


def _name(*what: object) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()


def _drawn(size: Size) -> Any:
    """What takes long, whatever is left out; and the state of the draws after it."""
    rng = np.random.default_rng(size.draw_seed)
    geometry = _geometry(size, rng)
    answers = _answers(size, rng)
    return geometry, answers, _scores(answers), rng


def _write(folder: Path, size: Size, without: tuple[str, ...]) -> None:
    geometry, answers, scores, rng = value_made_once(
        _session(), f"drawn-{_name(size)}", lambda _: _drawn(size)
    )
    personas = _personas(size)
    results: dict[str, Any] = {
        "study": "made-up",
        "title": "A made-up study of persona collapse",
        "model": {"name": "example/Model-7B", "revision": "abc123", "dtype": "bfloat16",
                  "num_layers": 28, "hidden_size": size.hidden},
        "seeds": list(size.seeds),
        "marker": MARKER,
        "source": "confab",
        "negatives": [n for n in ("data_scientist", "police_officer") if n in personas],
        "personas": [{"name": n, "prompt": f"You are a {n}."} for n in personas],
        "evaluated_personas": personas,
        "layers": list(size.layers),
        "methods": list(size.methods),
        "analysis": {"layer": 20 if 20 in size.layers else size.layers[-1],
                     "method": size.methods[0], "permutations": 10_000, "bootstrap": 2_000,
                     "seed": 42, "alpha": 0.05},
        "conditions": [
            {"name": name, "label": label, "kind": kind, "persona": persona,
             "seeds": [s for s in size.seeds if not _lacks(size, name, s)],
             "induction_persona": persona, "cosine_anchor": anchor,
             "cosine_measured": {str(layer): anchor - 0.01 for layer in size.layers}
             if anchor else None}
            for name, label, kind, persona, anchor in ARMS[: size.conditions]
        ],
        "digest": "ab" * 32,
        "geometry": to_dicts(geometry.rows),
        "spaces": [space.model_dump() for space in geometry.spaces],
        "leakage": _leakage(size, scores),
        "rates": _rates(scores),
        "training": _training(size, rng),
        "notes": ["Answers were drawn at temperature 1."],
        "caveats": ["One seed: differences between conditions may be run-to-run variation."],
    }  # fmt: skip
    results |= {part: [] for part in without if part in results}
    results |= {"spaces": []} if "geometry" in without else {}
    judged = assessed(Results.model_validate(results)).to_dict()
    results |= {part: judged[part] for part in ("control", "leakage")} | size.extra
    results = Results.model_validate(results).to_dict()
    tables = folder / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1))
    pd.DataFrame(results["geometry"] + results["leakage"], columns=ROW_KEYS).to_csv(
        tables / "rows.csv", index=False
    )
    pd.DataFrame(results["rates"]).to_csv(tables / "rates.csv", index=False)
    if "geometry" not in without:
        geometry.cosines.to_csv(tables / "cosines.csv", index=False)
    if "answers" not in without:
        answers.to_parquet(tables / "answers.parquet", index=False)
    if "provenance" not in without:
        (folder / "provenance.json").write_text(json.dumps(_provenance(size), indent=1))
