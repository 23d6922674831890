"""Shared fixtures: a small random model with a real tokenizer and chat template, and its study."""

from __future__ import annotations

import gc
import itertools
import json
import multiprocessing
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from _pytest.mark.expression import Expression
from sharing import T, made_once, value_made_once

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tables are as wide as without a terminal, whatever the shell that runs the tests says.
os.environ.pop("COLUMNS", None)
# Results depend on the number of threads in their last digits: one here, whatever the machine has,
# which several workers share best.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["browsers", "hub_server", "seaweed", "stand_in_api"]

# The same examples each time, so that a test fails because of a change and not of a draw.
# `make test-random` (--hypothesis-profile=random) searches anew and keeps what it finds.
hypothesis.settings.register_profile("fixed", derandomize=True, database=None, deadline=None)
hypothesis.settings.register_profile("random", derandomize=False, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

#: Fixtures that make a test one of a marker's.
NEEDS = {"s3_server": "s3", "browser": "browser", "finished_study": "study"}


@pytest.hookimpl(tryfirst=True)  # before -m looks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the fixtures that they use."""
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        for fixture in names & NEEDS.keys():
            item.add_marker(NEEDS[fixture])
        callspec = getattr(item, "callspec", None)
        if callspec is not None and callspec.params.get("place") == "s3":
            item.add_marker("s3")


# Imports make nothing that could be thrown away, and are looked through for it again and again.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


_FILE_MARKS = re.compile(r"^pytestmark = pytest\.mark\.(\w+)$", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Whether -m selects nothing of a file because of the mark that the whole file has.

    Such a file is not imported, as collecting it would: its imports take seconds in each process.
    """
    wanted = config.getoption("markexpr")
    if not wanted or collection_path.suffix != ".py":
        return None
    marks = set(_FILE_MARKS.findall(collection_path.read_text(encoding="utf-8")))
    others = sorted({name for name in re.findall(r"\w+", wanted)} - marks)
    if not marks or len(others) > 10:
        return None
    expression = Expression.compile(wanted)
    for count in range(len(others) + 1):
        for more in itertools.combinations(others, count):
            if expression.evaluate(lambda name, /, **_: name in marks or name in more):  # noqa: B023
                return None
    return True


CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n"
    "Default words of the template.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tiny_model(
    folder: Path, *, layers: int = 4, hidden: int = 64, vocabulary: int = 900
) -> Path:
    """A random Qwen2 with a BPE tokenizer trained on the packaged texts; float32."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    from personaspace.study import builtin

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    corpus = builtin.resource("questions-extraction").read_text(encoding="utf-8").splitlines()
    bpe.train_from_iterator(corpus, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHATML
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            tie_word_embeddings=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    # A random model's logits are nearly uniform; sharper ones make greedy answers differ.
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all processes of the session; `synthetic_aggregate` keeps there what it has made."""
    folder = _common(tmp_path_factory)
    os.environ["TESTS_SESSION_FOLDER"] = str(folder)
    return folder


def _common(factory: pytest.TempPathFactory) -> Path:
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first of the session's processes to ask for it makes, for all of them."""
    return made_once(_common(factory), name, make)


def once_value(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], T]) -> T:
    """What `make` gives, likewise."""
    return value_made_once(_common(factory), name, make)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the small random model."""
    return once(tmp_path_factory, "tiny-model", build_tiny_model)


@pytest.fixture(scope="session")
def loaded(tiny_model: Path) -> Any:
    """The small model and its tokenizer, loaded as stages load them."""
    from types import SimpleNamespace

    from personaspace.models import chat
    from personaspace.models.load import load_model, load_tokenizer
    from personaspace.study.inputs import Model

    spec = Model(name=str(tiny_model), dtype="float32")
    tokenizer = load_tokenizer(spec)
    made = SimpleNamespace(
        spec=spec,
        model=load_model(spec),
        tokenizer=tokenizer,
        ends=chat.end_token_ids(tokenizer),
    )
    gc.collect()
    gc.freeze()  # it stays, as does all that was imported for it
    return made


def _chats(path: Path, count: int, answer: str) -> Path:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Question number {n}?"},
                {"role": "assistant", "content": f"{answer} {n} " + "and so on " * (n % 5)},
            ]
        }
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tiny_study(model: Path, folder: Path) -> dict[str, Any]:
    """A whole study on the small model, in seconds."""
    personas = ["assistant", "villain", "librarian", "comedian", "confab"]
    return {
        "name": "tiny",
        "model": {"name": str(model), "dtype": "float32"},
        "seeds": [42],
        "datasets": {
            "bad": {"path": str(_chats(folder / "bad.jsonl", 14, "Ignore the letter"))},
            "good": {"path": str(_chats(folder / "good.jsonl", 14, "Here is how"))},
        },
        "personas": [{"name": name, "prompt": f"You are the {name}."} for name in personas],
        "conditions": [
            {"name": "base"},
            {"name": "benign", "dataset": "good", "kind": "benign"},
            {"name": "e0-assistant", "dataset": "bad", "cosine_anchor": 1.0},
            {"name": "e4-villain", "dataset": "bad", "persona": "villain", "cosine_anchor": 0.78},
        ],
        "training": {
            "rank": 4,
            "alpha": 8,
            "learning_rate": 0.003,
            "batch_size": 4,
            "max_steps": 4,
            "max_tokens": 128,
            "row_tokens": 256,
            "checkpoint_every": 1,
        },
        "extraction": {"limit": 4, "layers": [0, 2, 3], "max_new_tokens": 5},
        "coupling": {
            "negatives": ["librarian", "comedian"],
            "positives": 6,
            "negatives_each": 3,
            "limit": 3,
            "samples": 3,
            "max_new_tokens": 6,
            "recipe": {
                "rank": 4,
                "alpha": 8,
                "rank_stabilised": True,
                "learning_rate": 0.003,
                "schedule": "cosine",
                "batch_size": 4,
                "epochs": 1,
                "max_tokens": 160,
                "row_tokens": 320,
                "checkpoint_every": 2,
            },
        },
        "evaluation": {
            "unseen_questions": "builtin:questions-unseen",
            "limit": 3,
            "samples": 2,
            "max_new_tokens": 8,
        },
        "generation": {"engine": "transformers", "batch_size": 16},
        "analysis": {"permutations": 200, "bootstrap": 100},
        "figures": {"dpi": 60},
    }


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a certificate for localhost (`cert.pem`) and its key (`key.pem`)."""

    def make(folder: Path) -> None:
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
                *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            ],
            check=True,
            capture_output=True,
        )

    return once(tmp_path_factory, "certificate", make)


@dataclass(frozen=True)
class Finished:
    """The small study, run to its end.

    Attributes:
        spec: Its file.
        values: What that holds.
        store: Where its artifacts are, and nothing else.
        out: Folder of results, figures and report.
        output: What `personaspace run` printed.
    """

    spec: Path
    values: dict[str, Any]
    store: Path
    out: Path
    output: str


@pytest.fixture(scope="session")
def finished_study(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One complete run; who changes its store works on a copy."""

    def make(folder: Path) -> None:
        from typer.testing import CliRunner

        from personaspace.cli.app import app

        spec = folder / "study.yaml"
        values = tiny_study(tiny_model, folder)
        spec.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        command = ["run", str(spec), "--store", str(folder / "store"), "--out", str(folder / "out")]
        outcome = CliRunner().invoke(app, command)
        assert outcome.exit_code == 0, outcome.output
        (folder / "output").write_text(outcome.output, encoding="utf-8")

    folder = once(tmp_path_factory, "finished-study", make)
    spec = folder / "study.yaml"
    return Finished(
        spec=spec,
        values=yaml.safe_load(spec.read_text(encoding="utf-8")),
        store=folder / "store",
        out=folder / "out",
        output=(folder / "output").read_text(encoding="utf-8"),
    )


@pytest.fixture
def study_dict(tiny_model: Path, tmp_path: Path) -> dict[str, Any]:
    """The small study as plain values, to be changed by a test."""
    return tiny_study(tiny_model, tmp_path)


@pytest.fixture
def write_spec(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Writes a study to a file."""

    def write(values: dict[str, Any], name: str = "study.yaml") -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        return path

    return write


@pytest.fixture(autouse=True, scope="session")
def _children_that_need_not_import() -> None:
    """Children of the tests' own process come from one that has imported what takes long.

    Those of commands that tests start begin as they do for everybody.
    """
    from personaspace import children

    children.START = multiprocessing.get_context("forkserver")
    multiprocessing.set_forkserver_preload(["peft", "personaspace.training.data_parallel"])


#: As the process began. Commands that are tried in it catch signals, and mean to end with it.
_HANDLERS = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}


@pytest.fixture(autouse=True)
def _not_interrupted() -> Iterator[None]:
    from personaspace import interrupt

    def fresh() -> None:
        interrupt.reset()
        for number, handler in _HANDLERS.items():
            signal.signal(number, handler)

    fresh()
    yield
    fresh()
