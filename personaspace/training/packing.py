"""Padding-free batches: several examples in one row, none of which sees another.

Shapes: B = 1 row, T = tokens of the row, K = tokens that carry loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from personaspace.fastlora import bins, loss_places
from personaspace.models.architecture import Rows
from personaspace.models.chat import Example


@dataclass(frozen=True)
class PackedRow:
    """Examples laid end to end.

    Attributes:
        ids_BT: Tokens.
        positions_BT: Position of each token within its own example.
        mask_B1TT: True where a token may attend: itself and earlier tokens of its own example.
            None: the model tells examples apart by their positions, or there is but one.
        keep_K: Positions whose logits predict a token with loss.
        targets_K: Those tokens.
    """

    ids_BT: torch.Tensor
    positions_BT: torch.Tensor
    mask_B1TT: torch.Tensor | None
    keep_K: torch.Tensor
    targets_K: torch.Tensor

    def to(self, device: torch.device | str) -> PackedRow:
        """A copy on the device."""
        mask = self.mask_B1TT
        return PackedRow(
            ids_BT=self.ids_BT.to(device, non_blocking=True),
            positions_BT=self.positions_BT.to(device, non_blocking=True),
            mask_B1TT=None if mask is None else mask.to(device, non_blocking=True),
            keep_K=self.keep_K.to(device, non_blocking=True),
            targets_K=self.targets_K.to(device, non_blocking=True),
        )


def block_mask(lengths: Sequence[int]) -> torch.Tensor:
    """Causal within each block of the given length, nothing across. Bool `[1, 1, T, T]`."""
    owner_T = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(list(lengths)))
    same_TT = owner_T[:, None] == owner_T[None, :]
    return torch.tril(same_TT)[None, None]


def make_row(examples: Sequence[Example], *, masked: bool = True) -> PackedRow:
    """One row of the examples, in order.

    Args:
        masked: Whether the row brings its own mask, the same for all layers.
    """
    lengths = [len(example.ids) for example in examples]
    keep, targets = loss_places(examples)
    return PackedRow(
        ids_BT=torch.tensor([[token for example in examples for token in example.ids]]),
        positions_BT=torch.cat([torch.arange(length) for length in lengths])[None],
        mask_B1TT=block_mask(lengths) if masked else None,
        keep_K=torch.tensor(keep, dtype=torch.long),
        targets_K=torch.tensor(targets, dtype=torch.long),
    )


def pack(examples: Sequence[Example], row_tokens: int, rows: Rows = Rows.MASK) -> list[PackedRow]:
    """Rows of at most `row_tokens` tokens that hold every example once; see `bins`.

    Args:
        rows: How the model lets examples share a row.
    """
    if rows is Rows.SINGLE:
        return [make_row([example], masked=False) for example in examples]
    members = bins([len(example.ids) for example in examples], row_tokens)
    masked = rows is Rows.MASK
    return [make_row([examples[index] for index in row], masked=masked) for row in members]


#: Rounding that another example's tokens in a row may change, in units of the number format's last
#: digit at the largest logit, and at most this share of it.
_ROUNDING, _AT_MOST = 64, 0.03


def keeps_apart(model: Any, rows: Rows) -> bool:
    """Whether nothing that stands before an example in a row changes what is computed for it.

    Tried on the model itself: an architecture that takes no notice of mask or positions, or that
    carries a state on, would train on mixed examples and say nothing.

    Args:
        model: Causal LM, perhaps with adapters; left in the mode that it was in.
        rows: How examples are to be laid into rows.
    """
    before, after = range(8, 20), range(20, 30)
    training = model.training
    model.eval()
    try:
        # Not inference_mode: weights that are gathered for this pass serve training after it.
        with torch.no_grad():
            seen = []
            for others in (before, reversed(before)):
                texts = (tuple(others), tuple(after))
                pair = [Example(ids, (False,) * len(ids)) for ids in texts]
                row = make_row(pair, masked=rows is Rows.MASK).to(model.device)
                output = model(
                    input_ids=row.ids_BT,
                    position_ids=row.positions_BT,
                    attention_mask=row.mask_B1TT,
                    use_cache=False,
                )
                seen.append(output.logits[0, len(before) :].float())
    finally:
        model.train(training)
    eps = torch.finfo(model.dtype).eps
    allowed = min(_ROUNDING * eps, _AT_MOST) * seen[0].abs().max()
    return bool((seen[0] - seen[1]).abs().max() <= allowed)
