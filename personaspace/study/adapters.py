"""A published LoRA adapter that a condition is, instead of a training: where it lies, what it is.

Only headers are read here: what is wrong with one is said before anything runs, and no tensor is
loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from personaspace import interrupt
from personaspace.errors import UnavailableError, UserError
from personaspace.files import expanded
from personaspace.hub.client import check_endpoint, client, hub_errors
from personaspace.study import checkpoint, recipe

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
#: org/name, perhaps a folder in it, and a commit.
_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?P<folder>(/[\w.-]+)*)@(?P<commit>[0-9a-f]{40})")
#: Fields that change what an adapter means, with what a plain LoRA has there (or what counts as
#: nothing: None, false, empty).
_PLAIN: dict[str, Any] = {
    "bias": "none",
    "use_dora": False,
    "modules_to_save": None,
    "lora_bias": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "layer_replication": None,
    "fan_in_fan_out": False,
    "trainable_token_indices": None,
    "target_parameters": None,
    "alora_invocation_tokens": None,
    "use_qalora": False,
    "use_bdlora": None,
    "megatron_config": None,
}
#: Ways to begin that take something out of the base model's weights, which the adapter then lacks.
_CHANGE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


class AdapterError(UserError):
    """A published adapter cannot be used; the message names file and field."""


@dataclass(frozen=True)
class Published:
    """A published adapter, as far as its headers tell.

    Attributes:
        source: As the study names it.
        digest: SHA-256 of configuration and weights; of a hub's, of its name and commit.
        base: The base model that it says it was trained on; empty if it says none.
        rank: Its rank.
        modules: The layers of the base model that it changes, with their shapes (out, in), by name.
        folder: Where its files are; None where only its configuration was fetched.
    """

    source: str
    digest: str
    base: str
    rank: int
    modules: Mapping[str, tuple[int, int]]
    folder: Path | None


def unsupported(config: Mapping[str, Any]) -> list[str]:
    """What in a PEFT configuration makes an adapter more than W + s·B·A, by the names of fields.

    No such adapter composes here, and vLLM refuses it late or ignores it (patterns of ranks and
    alphas: wrong answers without a word). Another method than LoRA is named itself.
    """
    kind = config.get("peft_type")
    begun = str(config.get("init_lora_weights", "")).lower()
    return [
        *([] if kind == "LORA" else [str(kind)]),
        *(name for name, plain in _PLAIN.items() if (config.get(name) or plain) != plain),
        *(["init_lora_weights"] if begun.startswith(_CHANGE_BASE) else []),
    ]


def is_pinned(source: str) -> bool:
    """Whether a source is an adapter on the hub with its commit."""
    return _HUB.fullmatch(source) is not None


def _from_hub(source: str, name: str) -> Path:
    """A file of an adapter on the hub, fetched once into the hub's cache.

    Raises:
        AdapterError: There is none.
        UnavailableError: The hub does not answer.
        UserError: The environment names no server.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    check_endpoint()
    found = _HUB.fullmatch(source)
    assert found is not None
    folder = found["folder"].strip("/") or None
    how = {"subfolder": folder, "revision": found["commit"]}
    try:
        get = partial(hf_hub_download, found["repo"], name, **how)
        return Path(interrupt.answered(get, source, keeps=False))
    except (EntryNotFoundError, RepositoryNotFoundError, OSError) as error:
        # Of a file that is neither here nor asked for nothing is known.
        known = isinstance(error, EntryNotFoundError | RepositoryNotFoundError)
        if known and not isinstance(error, LocalEntryNotFoundError):
            raise AdapterError(f"{source}: {name}: {_line(error)}") from None
        raise UnavailableError(f"{source}: {name} is not to be had: {_line(error)}") from None
    except ValueError as error:
        raise AdapterError(f"{source}: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def folder_of(source: str, spec_folder: Path) -> Path:
    """Folder with all of an adapter's files, fetched from the hub if it lies there.

    Raises:
        AdapterError: It is not there, or not complete.
        UnavailableError: The hub does not answer.
    """
    if is_pinned(source):
        _from_hub(source, CONFIG)
        return _from_hub(source, WEIGHTS).parent
    folder = spec_folder / expanded(source)
    if not folder.is_dir():
        raise AdapterError(
            f"{source}: no such folder (looked in {folder.parent}); an adapter on a hub is "
            "org/name@commit, with the whole commit (40 digits)"
        )
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            pickled = " (adapter_model.bin is a pickle, which is not read)"
            there = (folder / "adapter_model.bin").is_file() and name == WEIGHTS
            raise AdapterError(f"{source}: no {name} there{pickled if there else ''}")
    return folder


def read(source: str, spec_folder: Path) -> Published:
    """Look at an adapter's headers. Of one on the hub no more than these is fetched.

    Args:
        source: Folder (relative to `spec_folder`), or org/name@commit.
        spec_folder: Where relative paths start.

    Raises:
        AdapterError: It cannot be used.
        UnavailableError: The hub does not answer.
    """
    if is_pinned(source):
        base, rank, targets = _config(_from_hub(source, CONFIG), source)
        modules = _modules(_shapes_on_hub(source), source, rank)
        _check_targets(targets, modules, source)
        digest = hashlib.sha256(source.encode()).hexdigest()
        return Published(source, digest, base, rank, modules, None)
    folder = folder_of(source, spec_folder)
    base, rank, targets = _config(folder / CONFIG, source)
    modules = modules_of(folder, source, rank)
    _check_targets(targets, modules, source)
    whole = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        whole.update(checkpoint.file_digest(folder / name).encode())
    return Published(source, whole.hexdigest(), base, rank, modules, folder)


def _shapes_on_hub(source: str) -> dict[str, list[int]]:
    """Shapes of an adapter's tensors by name: of the file in the hub's cache, or of its header.

    A header is asked for once: what a commit holds does not change.

    Raises:
        AdapterError: It has no such file, or one that is none of safetensors.
        UnavailableError: The hub does not answer.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, SafetensorsParsingError

    found = _HUB.fullmatch(source)
    assert found is not None
    repo, commit = found["repo"], found["commit"]
    name = f"{found['folder']}/{WEIGHTS}".strip("/")
    here = try_to_load_from_cache(repo, name, revision=commit)
    if isinstance(here, str):
        return _shapes_in(Path(here).parent, source)
    known = hashlib.sha256(source.encode()).hexdigest()
    kept = checkpoint.cache_folder() / "adapters" / f"{known}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    with hub_errors(source):
        try:
            header = client().parse_safetensors_file_metadata(repo, name, revision=commit)
        except (EntryNotFoundError, SafetensorsParsingError) as error:
            raise AdapterError(f"{source}: {WEIGHTS}: {_line(error)}") from None
    shapes = {name: list(tensor.shape) for name, tensor in header.tensors.items()}
    with contextlib.suppress(OSError):  # without a place to write, it is asked for again
        kept.parent.mkdir(parents=True, exist_ok=True)
        number, scratch = tempfile.mkstemp(dir=kept.parent)
        with os.fdopen(number, "w", encoding="utf-8") as stream:
            json.dump(shapes, stream)
        Path(scratch).replace(kept)
    return shapes


def whole(published: Published, folder: Path) -> Published:
    """The same as its weights say, which are in the folder by now."""
    modules = modules_of(folder, published.source, published.rank)
    return replace(published, modules=modules, folder=folder)


def _config(path: Path, source: str) -> tuple[str, int, Any]:
    """Base model, rank and layers that the configuration names."""
    where = f"{source}/{CONFIG}"
    try:
        config = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise AdapterError(f"{where}: {_line(error)}") from None
    if found := unsupported(config):
        raise AdapterError(
            f"{where}: {', '.join(found)}: only plain LoRA adapters can be a condition"
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        raise AdapterError(f"{where}: r: no rank")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        raise AdapterError(f"{where}: lora_alpha: no number")
    if alpha == 0:
        raise AdapterError(f"{where}: lora_alpha is 0: it changes nothing of the base model")
    return str(config.get("base_model_name_or_path") or ""), rank, config.get("target_modules")


def _check_targets(targets: Any, modules: Iterable[str], source: str) -> None:
    """Refuse weights of layers that the configuration leaves out: PEFT would not load them."""
    if not targets or targets == "all-linear":
        return
    for name in modules:
        if isinstance(targets, str):
            try:
                named = re.fullmatch(targets, name) is not None
            except re.error as error:
                raise AdapterError(f"{source}/{CONFIG}: target_modules: {error}") from None
        else:
            named = any(recipe.named(name, target) for target in targets)
        if not named:
            raise AdapterError(
                f"{source}/{CONFIG}: target_modules does not name {name}, of which {WEIGHTS} has "
                "weights: PEFT would leave them out"
            )


def modules_of(folder: Path, source: str, rank: int) -> dict[str, tuple[int, int]]:
    """Names and shapes of the layers that an adapter's weights change.

    Raises:
        AdapterError: Its weights are not what PEFT writes for a plain LoRA.
    """
    return _modules(_shapes_in(folder, source), source, rank)


def _shapes_in(folder: Path, source: str) -> dict[str, list[int]]:
    try:
        header = checkpoint.header(folder / WEIGHTS)
    except (OSError, UserError) as error:
        raise AdapterError(f"{source}: {_line(error)}") from None
    return {key: tensor["shape"] for key, tensor in header.items()}


def _modules(
    tensors: Mapping[str, list[int]], source: str, rank: int
) -> dict[str, tuple[int, int]]:
    """`modules_of`, of the tensors' shapes."""
    where = f"{source}/{WEIGHTS}"
    halves: dict[str, dict[str, list[int]]] = {}
    for key, tensor in tensors.items():
        name, half, rest = key.removeprefix("base_model.model.").rpartition(".lora_")
        if not half or rest not in ("A.weight", "B.weight"):
            raise AdapterError(f"{where}: {key} is not one half of a LoRA on a linear layer")
        halves.setdefault(name, {})[rest[0]] = tensor
    found = {}
    for name, shapes in halves.items():
        down, up = shapes.get("A", []), shapes.get("B", [])
        if len(down) != 2 or len(up) != 2 or down[0] != rank or up[1] != rank:
            raise AdapterError(
                f"{where}: {name} has matrices of {down} and {up}, where {CONFIG} has r {rank}"
            )
        found[name] = (up[0], down[1])
    if not found:
        raise AdapterError(f"{where}: holds no tensors")
    return found


def check_base(published: Published, model: str) -> None:
    """Refuse an adapter of another base model.

    A name's last part decides: mirrors have another first part, and so has the built-in model. A
    folder has no name to compare, so there shapes decide alone.

    Raises:
        AdapterError: It says that it was trained on another model.
    """
    said, wanted = _own_name(published.base), _own_name(model)
    if said is not None and wanted is not None and said != wanted:
        raise AdapterError(
            f"{published.source}/{CONFIG}: base_model_name_or_path is {published.base}, and the "
            f"study's model is {model}"
        )


def _own_name(model: str) -> str | None:
    """A model's own name, of the hub's or the built-in one's; None of a folder."""
    found = re.fullmatch(r"(?:builtin:|[\w.-]+/)(?P<own>[\w.-]+)", model)
    return found["own"].lower() if found else None


def check_modules(published: Published, shapes: Mapping[str, tuple[int, int]]) -> None:
    """Refuse an adapter whose layers the model does not have.

    Args:
        shapes: Of the model's linear layers, out and in, by name.

    Raises:
        AdapterError: It changes a layer that is not there, or of another shape.
    """
    for name, shape in published.modules.items():
        if shapes.get(name) != shape:
            there = f"there it is {list(shapes[name])}" if name in shapes else "it has none"
            raise AdapterError(
                f"{published.source}/{WEIGHTS}: changes {name} of {list(shape)}, and in the "
                f"study's model {there}"
            )
