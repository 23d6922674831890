"""Adapters of several conditions on one base model, which every layer computes together.

Each condition's examples lie in a segment of the row; all segments have the same length. Products
with frozen weights are one for all segments; the narrow products of LoRA are batched, one matrix a
segment, with dropout masks as if the segment were alone. All numbers of a condition's adapter are
one row of a matrix, and so are its gradients, so that its optimiser has one tensor.

Shapes: C = conditions, T = tokens of all segments, S = of one, H = width of a product's input, O =
of its output, M = modules in a product, R = rank, K = M·R or tokens with loss, P = numbers of an
adapter, L = layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from benchmarks.cotrain_loops import segment_ops
from personaspace.fastlora.decoder import PackedDecoder, _norm, groups
from personaspace.fastlora.examples import loss_places
from personaspace.fastlora.functional import HeadLoss
from personaspace.fastlora.layout import Layout
from personaspace.fastlora.linear import JointLinear
from personaspace.models import lora
from personaspace.models.chat import Example
from personaspace.study.recipe import Recipe


@cache
def _sums_stay_wide() -> bool:
    """Whether PyTorch's batched product gives float32 of 16-bit matrices here."""
    one = torch.ones(1, 16, 16, dtype=torch.bfloat16, device="cuda")
    try:
        return torch.bmm(one, one, out_dtype=torch.float32).dtype == torch.float32
    except (RuntimeError, TypeError):
        return False


def _wide_products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a·b of each segment, in float32."""
    if a.is_cuda and a.dtype != torch.float32 and _sums_stay_wide():
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a, b).float()


class Bank:
    """Adapters of all conditions and their gradients, float32 `[C, P]`.

    Args:
        count: Conditions.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.size = 0
        self.values_CP = self.grads_CP = torch.empty(0)

    def place(self, *shape: int) -> tuple[slice, tuple[int, ...]]:
        """Room for numbers of that shape in each condition's row."""
        start = self.size
        self.size += torch.Size(shape).numel()
        return slice(start, self.size), shape

    def allocate(self, device: torch.device) -> None:
        """All of it, once every place is known."""
        self.values_CP = torch.zeros(self.count, self.size, device=device)
        self.grads_CP = torch.zeros(self.count, self.size, device=device)

    @staticmethod
    def view(matrix_CP: torch.Tensor, place: tuple[slice, tuple[int, ...]]) -> torch.Tensor:
        """A place of all conditions, `[C, *shape]`."""
        return matrix_CP[:, place[0]].unflatten(1, place[1])


class Shared:
    """A joint product with an adapter for each segment, in place of `JointLinear`.

    Args:
        joint: The product, without adapters.
        modules: Its linear layers, in the order of their outputs.
    """

    room = 0

    def __init__(
        self, joint: JointLinear, modules: Sequence[Any], recipe: Recipe, bank: Bank
    ) -> None:
        self.weight_OH, self.bias_O, self.features = joint.weight_OW, joint.bias_O, joint.features
        self.bank, self.rank, self.dropout = bank, recipe.rank, recipe.dropout
        self.scale = recipe.alpha / recipe.rank
        ends = [0]
        for module in modules:
            ends.append(ends[-1] + int(module.out_features))
        self.outputs = [slice(a, b) for a, b in itertools.pairwise(ends)]
        self.modules = len(modules)
        #: As many seeds as the decoder is to give it.
        self.parts = range(bank.count * self.modules)
        self.a = bank.place(self.modules, self.rank, self.features)
        self.b = bank.place(ends[-1], self.rank)
        like, wide = self.weight_OH, self.modules * self.rank
        self.down_CMRH = like.new_zeros(bank.count, self.modules, self.rank, self.features)
        self.up_COK = like.new_zeros(bank.count, ends[-1], wide)
        self.ops = segment_ops(like, self.rank)
        #: Requires a gradient and gets none: adapters' gradients go to the bank.
        self.anchor = torch.zeros(1, device=like.device, requires_grad=True)

    def columns(self, number: int) -> slice:
        """Where a module's share of the narrow products is."""
        return slice(number * self.rank, (number + 1) * self.rank)

    def copies(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """As `JointLinear.copies`."""
        a, b = (Bank.view(self.bank.values_CP, place) for place in (self.a, self.b))
        ups = [self.up_COK[:, o, self.columns(n)] for n, o in enumerate(self.outputs)]
        return [self.down_CMRH, *ups], [a, *(b[:, o] for o in self.outputs)]

    def __call__(self, x_TH: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        """As of `JointLinear`; seeds `[C·M]`, those of a condition side by side."""
        out: torch.Tensor = _Together.apply(x_TH, self, self._seeds(seeds), self.anchor)
        return out

    def gated(self, both_TO: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        """As of `JointLinear`."""
        out: torch.Tensor = _TogetherGated.apply(both_TO, self, self._seeds(seeds), self.anchor)
        return out

    def _seeds(self, seeds: torch.Tensor) -> torch.Tensor:
        return seeds.view(self.bank.count, self.modules)

    def segments(self, x: torch.Tensor) -> torch.Tensor:
        """`[C, rows, …]`."""
        return x.unflatten(0, (self.bank.count, -1))

    def out(self, x_TH: torch.Tensor, low_TMR: torch.Tensor) -> torch.Tensor:
        """The product, given x and the narrow products with A."""
        out_TO = nn.functional.linear(x_TH, self.weight_OH, self.bias_O)
        self.segments(out_TO).baddbmm_(self.segments(low_TMR.flatten(1)), self.up_COK.mT)
        return out_TO

    def back(self, grad_TO: torch.Tensor, needed: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of x from the base weights (if needed) and of the narrow products `[T, K]`."""
        grad_TW = grad_TO.new_empty(len(grad_TO), self.features + self.up_COK.shape[2])
        grad_x_TH, low_TK = grad_TW[:, : self.features], grad_TW[:, self.features :]
        if needed:
            torch.mm(grad_TO, self.weight_OH, out=grad_x_TH)
        torch.bmm(self.segments(grad_TO), self.up_COK, out=self.segments(low_TK))
        return grad_x_TH, low_TK

    def learn(
        self, grad_TO: torch.Tensor, low_TMR: torch.Tensor, grad_down_CMRH: torch.Tensor
    ) -> None:
        """Add the adapters' gradients to the bank's."""
        a, b = (Bank.view(self.bank.grads_CP, place) for place in (self.a, self.b))
        a += grad_down_CMRH
        up_COK = _wide_products(self.segments(grad_TO).mT, self.segments(low_TMR.flatten(1)))
        for number, where in enumerate(self.outputs):
            b[:, where] += up_COK[:, where, self.columns(number)]


class _Together(torch.autograd.Function):
    """As `linear._Joint`."""

    @staticmethod
    def forward(ctx: Any, x_TH: Any, shared: Shared, seeds_CM: Any, _: Any) -> torch.Tensor:
        low_TMR = x_TH.new_empty(len(x_TH), shared.modules, shared.rank)
        how = (shared.dropout, shared.scale)
        shared.ops.lora_down(x_TH, shared.down_CMRH, seeds_CM, *how, low_TMR)
        ctx.save_for_backward(x_TH, low_TMR, seeds_CM)
        ctx.shared = shared
        return shared.out(x_TH, low_TMR)

    @staticmethod
    def backward(ctx: Any, grad_TO: torch.Tensor) -> tuple[Any, ...]:
        x_TH, low_TMR, seeds_CM = ctx.saved_tensors
        shared, needed = ctx.shared, ctx.needs_input_grad[0]
        grad_TO = grad_TO.contiguous()
        grad_x_TH, low_TK = shared.back(grad_TO, needed)
        grad_down = shared.ops.lora_down_backward(
            x_TH, low_TK.unflatten(1, (shared.modules, -1)), shared.down_CMRH, seeds_CM,
            shared.dropout, shared.scale, grad_x_TH if needed else None,
        )  # fmt: skip
        shared.learn(grad_TO, low_TMR, grad_down)
        return grad_x_TH if needed else None, None, None, None


class _TogetherGated(torch.autograd.Function):
    """As `linear._Gated`."""

    @staticmethod
    def forward(ctx: Any, both_TO: Any, shared: Shared, seeds_CM: Any, _: Any) -> torch.Tensor:
        x_TH = both_TO.new_empty(len(both_TO), shared.features)
        low_TMR = both_TO.new_empty(len(both_TO), 1, shared.rank)
        shared.ops.gated_down(
            both_TO, shared.down_CMRH[:, 0], seeds_CM[:, 0], shared.dropout, shared.scale, x_TH,
            low_TMR[:, 0],
        )  # fmt: skip
        ctx.save_for_backward(both_TO, low_TMR, seeds_CM)
        ctx.shared = shared
        return shared.out(x_TH, low_TMR)

    @staticmethod
    def backward(ctx: Any, grad_TO: torch.Tensor) -> tuple[Any, ...]:
        both_TO, low_TMR, seeds_CM = ctx.saved_tensors
        shared, grad_TO = ctx.shared, grad_TO.contiguous()
        grad_x_TH, low_TK = shared.back(grad_TO, True)
        grad, grad_down = shared.ops.gated_backward(
            both_TO, grad_x_TH, low_TK, shared.down_CMRH[:, 0], seeds_CM[:, 0], shared.dropout,
            shared.scale,
        )  # fmt: skip
        shared.learn(grad_TO, low_TMR, grad_down[:, None])
        return grad, None, None, None


class TogetherDecoder(PackedDecoder):
    """The packed decoder with an adapter for each segment of the row.

    Args:
        model: Causal LM without adapters.
        recipe: Of the adapters, on all seven projections.
        count: Conditions.
    """

    def __init__(self, model: Any, recipe: Recipe, count: int) -> None:
        super().__init__(model)
        self.bank = Bank(count)
        for layer, raw in zip(self.layers, self.decoder.layers, strict=True):
            made: list[Any] = [
                Shared(joint, modules, recipe, self.bank)
                for joint, modules in zip(layer.products, groups(raw), strict=True)
            ]
            layer.products = made
            layer.qkv, layer.o, layer.gate_up, layer.down = made
        self.bank.allocate(model.device)
        for layer in self.layers:
            for product in layer.products:
                to, of = product.copies()
                self._targets += to
                self._sources += of

    def places(self) -> list[tuple[int, Any]]:
        """Layer's number and product, in order."""
        return [(number, p) for number, layer in enumerate(self.layers) for p in layer.products]

    def start(self, condition: int, recipe: Recipe, seed: int) -> None:
        """A fresh adapter for a condition, as `lora.trainable` draws it."""
        model = self.model
        with lora.trainable(model, recipe, over=None, seed=seed, field="training"):
            every = [group for raw in self.decoder.layers for group in groups(raw)]
            for (_, shared), group in zip(self.places(), every, strict=True):
                trained = [
                    (m.lora_A[lora.TRAINED].weight, m.lora_B[lora.TRAINED].weight) for m in group
                ]
                a, b = (Bank.view(self.bank.values_CP, p) for p in (shared.a, shared.b))
                with torch.no_grad():
                    a[condition].copy_(torch.stack([down for down, _ in trained]))
                    b[condition].copy_(torch.cat([up for _, up in trained]))

    def losses(
        self, layout: Layout, keep_CK: torch.Tensor, targets_CK: torch.Tensor, seeds: torch.Tensor
    ) -> torch.Tensor:
        """Summed cross-entropy of each condition, `[C]`; as `PackedDecoder.loss`.

        Args:
            seeds: int32 `[L, 7·C]`: by product, and within it by condition.
        """
        residual, row = self._row(layout)
        delta: torch.Tensor | None = None
        for number, layer in enumerate(self.layers):
            keep = keep_CK.flatten() if number == len(self.layers) - 1 else None
            residual, delta, _ = layer(residual, delta, row, seeds[number], keep)
        _, normed = _norm(self.decoder.norm, residual, delta, late=self.late)
        if self.logits != 1.0:
            normed = normed * self.logits
        parts = normed.unflatten(0, keep_CK.shape).unbind()
        found = [
            HeadLoss.apply(part, self.head_VH, targets, self.chunk)
            for part, targets in zip(parts, targets_CK, strict=True)
        ]
        return torch.stack(found)


class Inputs:
    """What differs from step to step, in one buffer on the device, at fixed places.

    Args:
        count: Conditions.
        tokens: Of a segment, with room.
        losses: Tokens with loss of a segment, with room.
        examples: Of a condition in a row, at most.
        longest: Tokens of the longest example; padding is cut into sequences no longer.
        layers: Decoder layers.
    """

    def __init__(
        self, count: int, tokens: int, losses: int, examples: int, longest: int, layers: int,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.count, self.tokens, self.losses_, self.longest = count, tokens, losses, longest
        self.sequences = examples + -(-tokens // longest) + 1
        T, edges = count * tokens, count * self.sequences + 1
        sizes = (T, T, count * losses, count * losses, edges, layers * 7 * count, count)
        self.buffer = torch.zeros(sum(sizes), dtype=torch.int32, device=device)
        parts = self.buffer.split(sizes)
        self.ids_T, self.positions_T, keep, targets, self.cu_seqlens, seeds, self.divide_C = parts
        self.keep_CK, self.targets_CK = keep.view(count, losses), targets.view(count, losses)
        self.seeds = seeds.view(layers, 7 * count)

    def load(
        self, batches: Sequence[Sequence[Example]], loss_tokens: Sequence[int], seeds_CL7: Any
    ) -> None:
        """Put a row's inputs in, a batch for each condition, without waiting for the GPU."""
        ids: list[int] = []
        positions: list[int] = []
        keep: list[int] = []
        targets: list[int] = []
        edges = [0]
        for number, batch in enumerate(batches):
            start = number * self.tokens
            lengths = [len(example.ids) for example in batch]
            padding = self.tokens - sum(lengths)
            pieces = [self.longest] * (padding // self.longest) + [padding % self.longest]
            for length in [*lengths, *pieces]:
                edges.append(edges[-1] + length)
                positions += range(length)
            edges += [edges[-1]] * (self.sequences - len(lengths) - len(pieces))
            ids += [token for example in batch for token in example.ids] + [0] * padding
            places, wanted = loss_places(batch)
            spare = self.losses_ - len(places)
            keep += [start + place for place in places] + [start] * spare
            targets += wanted + [-1] * spare
        parts = ((0, 3), (3, 4), (4, 6), (6, 7))  # modules of each product
        seeds = torch.cat(
            [seeds_CL7[:, :, a:b].transpose(0, 1).flatten(1) for a, b in parts], dim=1
        )
        values = torch.tensor(
            [*ids, *positions, *keep, *targets, *edges, *seeds.flatten().tolist(), *loss_tokens],
            dtype=torch.int32,
        )
        if self.buffer.is_cuda:
            values = values.pin_memory()
        self.buffer.copy_(values, non_blocking=True)

    def backward(self, decoder: TogetherDecoder) -> torch.Tensor:
        """Mean losses `[C]`, float64; gradients are added to the bank's."""
        layout = Layout(
            ids_T=self.ids_T.long(), positions_T=self.positions_T.long(),
            cu_seqlens_S1=self.cu_seqlens, max_seqlen=self.longest,
            cu_seqlens_k_S1=self.cu_seqlens, max_seqlen_k=self.longest, keys_X=None,
            tokens=len(self.ids_T),
        )  # fmt: skip
        decoder.refresh()
        summed = decoder.losses(layout, self.keep_CK.long(), self.targets_CK.long(), self.seeds)
        means_C = summed / self.divide_C.float()
        means_C.sum().backward()
        return means_C.detach().double()
