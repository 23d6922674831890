"""Adapters folded into the weights that an engine holds: nothing on disk, no kernel a layer.

A LoRA adapter adds s·B·A to a weight W (Hu et al. 2021). Served beside the weights it costs two
more matrix products a linear layer and token; folded in, W + s·B·A costs what W costs. The sum is
taken in float32 and rounded once to the weights' type, as merging a checkpoint does. The unchanged
weights are kept, so that the next adapter starts from them and not from rounded ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from personaspace.errors import UserError
from personaspace.models import lora
from personaspace.study.adapters import CONFIG, WEIGHTS

_PREFIX = "base_model.model."
#: Device memory that keeping the unchanged weights there must leave free.
_SPARE = 2 << 30


@dataclass(frozen=True)
class _Place:
    """Where a linear layer's weight lies: rows of one that may hold several layers' weights."""

    module: str
    weight: torch.Tensor
    rows: slice


class FoldedAdapter:
    """The adapter that is folded into a model's weights, at most one at a time.

    Args:
        model: A model of vLLM's on one device, its weights as loaded (`[out, in]`). Fused layers
            are found through its `packed_modules_mapping`.
    """

    def __init__(self, model: Any) -> None:
        self._modules = dict(model.named_modules())
        self._packed: dict[str, list[str]] = getattr(model, "packed_modules_mapping", {})
        self._unchanged: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    @torch.no_grad()
    def fold(self, folder: Path | None) -> None:
        """Replace whatever is folded in by this adapter, or by nothing.

        Raises:
            UserError: The adapter changes what cannot be found here, or is of another shape. The
                weights are then unchanged.
        """
        updates = [] if folder is None else self._updates(folder)
        if updates:
            self._keep([place for place, _, _ in updates])
        for weight, unchanged in self._unchanged.values():
            weight.copy_(unchanged)
        for place, a_rI, scaled_b_Or in updates:
            rows = place.weight[place.rows]
            device = rows.device
            update_OI = scaled_b_Or.to(device, torch.float32) @ a_rI.to(device, torch.float32)
            # float32 holds every value of the weights' types, so this rounds once.
            rows.copy_(rows.float().add_(update_OI))
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def _updates(self, folder: Path) -> list[tuple[_Place, torch.Tensor, torch.Tensor]]:
        """Place, A `[rank, in]` and s·B `[out, rank]` of every layer that the adapter changes."""
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        scale = lora.scaling(config)
        weights = load_file(folder / WEIGHTS)
        updates = []
        for name, a_rI in weights.items():
            if ".lora_A." not in name:
                continue
            b_Or = weights[name.replace(".lora_A.", ".lora_B.")]
            layer = name.removeprefix(_PREFIX).partition(".lora_A.")[0]
            place = self._find(layer)
            wanted = (b_Or.shape[0], a_rI.shape[1])
            if place is None or tuple(place.weight[place.rows].shape) != wanted:
                raise UserError(f"adapter {folder}: the engine has no {layer} of shape {wanted}")
            updates.append((place, a_rI, b_Or.float() * scale))
        if not updates:
            raise UserError(f"adapter {folder}: no LoRA weights in it")
        return updates

    def _find(self, layer: str) -> _Place | None:
        """The weight of a layer by its name in transformers, alone or inside a fused one."""
        parent, _, leaf = layer.rpartition(".")
        # The output layer may share its weight with the embedding, which must not change.
        if not parent:
            return None
        for fused, leaves in self._packed.items():
            name = f"{parent}.{fused}"
            if leaf in leaves and fused != leaf and name in self._modules:
                sizes = list(self._modules[name].output_sizes)
                at = leaves.index(leaf)
                start = sum(sizes[:at])
                return self._place(name, slice(start, start + sizes[at]))
        return self._place(layer, slice(None))

    def _place(self, module: str, rows: slice) -> _Place | None:
        weight = getattr(self._modules.get(module), "weight", None)
        if weight is None or weight.dim() != 2:
            return None
        return _Place(module, weight.data, rows)

    def _keep(self, places: list[_Place]) -> None:
        """Copies of the weights that will change, on their device while there is room."""
        for place in places:
            if place.module in self._unchanged:
                continue
            size = place.weight.numel() * place.weight.element_size()
            room = place.weight.is_cuda and torch.cuda.mem_get_info()[0] > size + _SPARE
            device = place.weight.device if room else torch.device("cpu")
            copy = torch.empty_like(place.weight, device=device).copy_(place.weight)
            self._unchanged[place.module] = (place.weight, copy)
