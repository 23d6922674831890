"""A base model spread over the GPUs of one host: each holds its rows of every matrix.

PyTorch's FSDP2 (`torch.distributed.fsdp.fully_shard`) gathers a decoder layer's weights when the
layer is about to run and drops them after it. The weights are frozen and only read; adapters are
put on afterwards, and each process has them whole, as it has norms, buffers, and embeddings that
are also the output layer. Weights come from the files tensor by tensor, each process reading its
own rows: at no time does one hold the whole model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.distributed.tensor import DTensor

from personaspace.errors import UserError
from personaspace.models import architecture
from personaspace.models.load import load_config
from personaspace.study import base_model, checkpoint
from personaspace.study.inputs import Model

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PreTrainedModel

#: Fills a tensor with rows `start` to `start + len` of the parameter of that name.
Fill = Callable[[str, torch.Tensor, int], None]


def is_sharded(model: nn.Module) -> bool:
    """Whether the model's weights are spread over several processes."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


@dataclass(frozen=True)
class Rows:
    """What one process holds of a tensor: FSDP2 cuts the first dimension as `torch.chunk` does."""

    start: int
    stop: int

    @classmethod
    def of(cls, size: int, rank: int, ranks: int) -> Rows:
        """Rows of one of `ranks` processes; the last ones may have fewer, or none."""
        each = -(-size // ranks)
        return cls(min(size, rank * each), min(size, (rank + 1) * each))


def skeleton(config: Any, dtype: torch.dtype) -> PreTrainedModel:
    """The model that a configuration makes, its buffers real and its parameters without memory."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights(include_buffers=False):
        made: Any = AutoModelForCausalLM.from_config(
            config,
            dtype=dtype,
            attn_implementation=architecture.attention_of(config),
            trust_remote_code=False,
        )
    made.tie_weights()  # each of two that were one has become its own
    made.eval()
    made.requires_grad_(False)
    return cast("PreTrainedModel", made)


def sharded(
    model: PreTrainedModel, mesh: DeviceMesh, device: torch.device, fill: Fill
) -> PreTrainedModel:
    """A `skeleton` with weights, each process of the mesh holding its part; changes the model.

    Args:
        model: Without memory for its parameters.
        mesh: One dimension, all processes.
        device: Of this process.
        fill: Reads (or makes) this process's rows.
    """
    from torch.distributed.fsdp import fully_shard

    names = {id(p): name for name, p in model.named_parameters()}
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            places.setdefault(id(parameter), []).append((module, name))
    named = [(names[number], where) for number, where in places.items()]
    parts = architecture.spread(model)
    inner = {id(p) for part in parts for p in part.parameters()}
    kept = {p for p in model.parameters() if id(p) not in inner}
    for part in parts:
        fully_shard(part, mesh=mesh)
    decoder, _ = architecture.decoder_of(model)
    fully_shard(decoder, mesh=mesh, ignored_params=kept)
    for name, where in named:
        former = getattr(*where[0])
        made = _weight(former, mesh, device, partial(fill, name))
        weight = nn.Parameter(made, requires_grad=False)
        for module, own in where:
            setattr(module, own, weight)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    return model


def _weight(
    former: torch.Tensor,
    mesh: DeviceMesh,
    device: torch.device,
    fill: Callable[[torch.Tensor, int], None],
) -> torch.Tensor:
    """A parameter with its values: this process's rows of it, or all of one that stays whole."""
    if not isinstance(former, DTensor):
        whole = _filled(former.shape, former, device)
        fill(whole, 0)
        return whole
    rows = Rows.of(former.shape[0], mesh.get_local_rank(), mesh.size())
    part = _filled((rows.stop - rows.start, *former.shape[1:]), former, device)
    if part.numel():
        fill(part, rows.start)
    return DTensor.from_local(
        part, mesh, former.placements, run_check=False, shape=former.shape, stride=former.stride()
    )


def _filled(shape: Any, like: torch.Tensor, device: torch.device) -> torch.Tensor:
    return torch.empty(shape, dtype=like.dtype, device=device)


def load_sharded(
    model: Model, mesh: DeviceMesh, device: torch.device, field: str = "model.name"
) -> PreTrainedModel:
    """The base model as `load_model` gives it, of which each process holds a part.

    Args:
        model: Which.
        mesh: All processes.
        device: Of this one.
        field: Where it is named in the spec, for messages.

    Raises:
        UserError: Not to be had, incomplete, or too large; or its files do not name its parameters.
    """
    made = skeleton(load_config(model, field), getattr(torch, model.dtype))
    with _files(model, made, field) as fill:
        try:
            return sharded(made, mesh, device, fill)
        except (torch.OutOfMemoryError, MemoryError):
            raise UserError(
                f"{field}: {model.name} in {model.dtype} does not fit into this device's memory, "
                f"spread over {mesh.size()}"
            ) from None


def _folder(model: Model, field: str) -> Path:
    """The model's folder, fetched from the hub where it is not here."""
    found = base_model.at_hand(model) or base_model.local_folder(model)
    if found is not None and checkpoint.weight_files(found):
        return found
    from huggingface_hub import snapshot_download

    try:
        fetched = snapshot_download(
            model.name,
            revision=base_model.commit_of(model),
            allow_patterns=["*.json", "*.safetensors"],
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{field}: {model.name}: {' '.join(str(error).split())[:400]}") from None
    return Path(fetched)


def check_names(model: Model, field: str = "model.name") -> None:
    """Refuse a model that cannot be read by rows, where its files are on this machine.

    Raises:
        UserError: Its files do not name its parameters as transformers does.
    """
    folder = base_model.at_hand(model)
    if folder is not None and checkpoint.weight_files(folder):
        made = skeleton(load_config(model, field), getattr(torch, model.dtype))
        _check_names(model, made, folder, field)


def _check_names(model: Model, made: PreTrainedModel, folder: Path, field: str) -> None:
    held = {
        name: tuple(tensor["shape"])
        for path in checkpoint.weight_files(folder)
        for name, tensor in checkpoint.header(path).items()
    }
    missing = [name for name, p in made.named_parameters() if held.get(name) != tuple(p.shape)]
    if missing:
        raise UserError(
            f"{field}: {model.name} cannot be spread over several GPUs: {len(missing)} of its "
            f"parameters are not in its files under their own names, first {missing[0]}"
        )


@contextlib.contextmanager
def _files(model: Model, made: PreTrainedModel, field: str) -> Iterator[Fill]:
    """Reads rows of the model's parameters from its files."""
    folder = _folder(model, field)
    _check_names(model, made, folder, field)
    with contextlib.ExitStack() as opened:
        where: dict[str, Any] = {}
        try:
            for path in checkpoint.weight_files(folder):
                file = opened.enter_context(safe_open(path, framework="pt"))
                where.update(dict.fromkeys(file.keys(), file))
        except (SafetensorError, OSError) as error:
            raise UserError(f"{field}: {model.name}: {error}") from None

        def fill(name: str, to: torch.Tensor, start: int) -> None:
            stored = where[name].get_slice(name)
            to.copy_(stored[start : start + len(to)] if to.ndim else stored[:])

        yield fill
