"""Training steps of small models as CUDA graphs.

A step of the packed decoder is some hundred kernels a layer, forward and backward. With a 7B model
and a few thousand tokens the GPU takes longer for them than Python takes to start them; with a
small model it is done at once, and waits. A CUDA graph holds all kernels of a step and is started
as one. It is recorded for fixed shapes, so a step is laid out with room to spare: padding at the
end of the row (as in `layout`), empty sequences, and places without a target.

Shapes: T = tokens, S = examples, K = tokens with loss, L = layers; here all of them with room.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from personaspace.fastlora.decoder import PackedDecoder
from personaspace.fastlora.examples import Example, loss_places
from personaspace.fastlora.layout import PAD_MULTIPLE, Layout
from personaspace.fastlora.memory import MemoryPlan
from personaspace.fastlora.training import MODULES, PackedStep, dropout_seeds

if TYPE_CHECKING:
    from peft import PeftModel

_LOG = logging.getLogger(__name__)
#: Seconds that the host needs to start the kernels of a layer, forward and backward (measured
#: beside an H100: 0.20 s for 28 layers), and what the GPU computes in a second meanwhile.
HOST_SECONDS_A_LAYER = 0.007
FLOPS_A_SECOND = 400e12
#: A graph serves steps of no less than this share of its tokens; a new one has a little room.
LEAST_USED = 0.75
ROOM = 1.1


class StepInputs:
    """What differs from step to step, in one buffer on the device, at fixed places.

    Args:
        tokens: Room for tokens, a multiple of `layout.PAD_MULTIPLE`.
        losses: Room for tokens with loss.
        examples: Room for examples.
        layers: Decoder layers.
        device: Where it lies.
    """

    def __init__(
        self, tokens: int, losses: int, examples: int, layers: int, device: torch.device
    ) -> None:
        self.tokens, self.losses, self.examples, self.layers = tokens, losses, examples, layers
        # The padding is a sequence as well, and sequences have one more edge than there are.
        sizes = (tokens, tokens, losses, losses, examples + 2, layers * MODULES, 1)
        self.buffer = torch.zeros(sum(sizes), dtype=torch.int32, device=device)
        parts = self.buffer.split(sizes)
        self.ids_T, self.positions_T, self.keep_K, self.targets_K = parts[:4]
        self.cu_seqlens_S2, seeds, self.loss_tokens_1 = parts[4:]
        self.seeds_L7 = seeds.view(layers, MODULES)

    def values(self, batch: Sequence[Example], loss_tokens: int, seeds_L7: torch.Tensor) -> Any:
        """The buffer's contents for a step, int32 on the host."""
        ids = [token for example in batch for token in example.ids]
        positions = [place for example in batch for place in range(len(example.ids))]
        cu_seqlens = [0]
        for example in batch:
            cu_seqlens.append(cu_seqlens[-1] + len(example.ids))
        padding = self.tokens - len(ids)
        keep, targets = loss_places(batch)
        spare = self.losses - len(keep)
        found = [
            *ids, *[0] * padding,
            *positions, *range(padding),
            *keep, *[0] * spare,
            *targets, *[-1] * spare,
            *cu_seqlens, *[self.tokens] * (self.examples + 2 - len(cu_seqlens)),
            *seeds_L7.flatten().tolist(),
            loss_tokens,
        ]  # fmt: skip
        return torch.tensor(found, dtype=torch.int32)

    def load(self, batch: Sequence[Example], loss_tokens: int, seeds_L7: torch.Tensor) -> None:
        """Put a step's inputs in, without waiting for the GPU."""
        values = self.values(batch, loss_tokens, seeds_L7)
        if self.buffer.is_cuda:
            values = values.pin_memory()
        self.buffer.copy_(values, non_blocking=True)

    def loss(self, decoder: PackedDecoder) -> torch.Tensor:
        """Mean loss over the step's tokens with loss."""
        layout = Layout(
            ids_T=self.ids_T.long(),
            positions_T=self.positions_T.long(),
            cu_seqlens_S1=self.cu_seqlens_S2,
            max_seqlen=self.tokens,
            cu_seqlens_k_S1=self.cu_seqlens_S2,
            max_seqlen_k=self.tokens,
            keys_X=None,
            tokens=self.tokens,
        )
        summed = decoder.loss(layout, self.keep_K.long(), self.targets_K.long(), self.seeds_L7)
        loss: torch.Tensor = summed / self.loss_tokens_1.float()[0]
        return loss


class _Graph:
    """A recorded step.

    Attributes:
        inputs: Where its inputs go.
        loss: Mean loss of the latest run, float64.
        gradients: Of the trained parameters, in their order; overwritten by every run.
    """

    def __init__(self, inputs: StepInputs, step: PackedStep) -> None:
        self.inputs = inputs
        self._step = step
        self._graph = torch.cuda.CUDAGraph()
        self.loss: torch.Tensor | None = None
        self.gradients: list[torch.Tensor | None] = []

    def _compute(self) -> torch.Tensor:
        self._step.decoder.refresh()
        loss = self.inputs.loss(self._step.decoder)
        loss.backward()
        return loss.detach().double()

    def record(self, stream: torch.cuda.Stream, pool: Any) -> Any:
        """Record the step; inputs must have been loaded. Returns the memory pool."""
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # Whatever happens at first use (compiling, workspaces) cannot be recorded.
            self._compute()
            self._step.forget()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(self._graph, pool=pool, stream=stream):
            self.loss = self._compute()
        self.gradients = [parameter.grad for parameter in self._step.trained]
        self._step.forget()
        return self._graph.pool()

    def run(self) -> torch.Tensor:
        """Start the step; its mean loss."""
        assert self.loss is not None
        self._graph.replay()
        for parameter, gradient in zip(self._step.trained, self.gradients, strict=True):
            parameter.grad = gradient
        return self.loss


class GraphedStep:
    """As `PackedStep`, from graphs wherever the GPU would wait for the host.

    Args:
        step: Computes what no graph is for.
        model: Its PEFT model.
        examples: Of a step, at most.
    """

    def __init__(self, step: PackedStep, model: PeftModel, examples: int) -> None:
        self.step = step
        self.examples = examples
        base: Any = model.get_base_model()
        parameters = sum(p.numel() for p in base.get_decoder().layers.parameters())
        host_seconds = HOST_SECONDS_A_LAYER * step.layers
        # Forward, and backward to the inputs: 4 FLOP a parameter and token. Beyond half of the
        # host's time a graph gains little, and its room costs.
        most = int(host_seconds / 2 * FLOPS_A_SECOND / (4 * parameters))
        #: Tokens of a step beyond which no graph is made: memory for two such rows must be there.
        self.most = 0 if step.plan.checkpointed else min(most, step.plan.row_tokens // 2)
        self._graphs: list[_Graph] = []
        self._stream = torch.cuda.Stream(step.device) if step.device.type == "cuda" else None
        self._pool: Any = None

    @property
    def plan(self) -> MemoryPlan:
        """How steps fit into memory that no graph is for."""
        return self.step.plan

    def backward(self, batch: Sequence[Example], loss_tokens: int, seed: int) -> torch.Tensor:
        """See `PackedStep.backward`."""
        tokens = sum(len(example.ids) for example in batch)
        if self._stream is None or not 0 < tokens <= self.most or len(batch) > self.examples:
            return self.step.backward(batch, loss_tokens, seed)
        # A row's places with loss, which `loss_tokens` counts.
        graph = fitting([(g.inputs.tokens, g.inputs.losses) for g in self._graphs], tokens,
                        loss_tokens)  # fmt: skip
        seeds_L7 = dropout_seeds(seed, 1, self.step.layers)[0]
        if graph is None:
            inputs = StepInputs(
                roomy(tokens, PAD_MULTIPLE),
                roomy(loss_tokens, 64),
                self.examples,
                self.step.layers,
                self.step.device,
            )
            inputs.load(batch, loss_tokens, seeds_L7)
            new = _Graph(inputs, self.step)
            try:
                self._pool = new.record(self._stream, self._pool)
            except RuntimeError as error:
                return self._without(error, batch, loss_tokens, seed)
            self._graphs.append(new)
            return new.run()
        chosen = self._graphs[graph]
        chosen.inputs.load(batch, loss_tokens, seeds_L7)
        return chosen.run()

    def _without(
        self, error: RuntimeError, batch: Sequence[Example], loss_tokens: int, seed: int
    ) -> torch.Tensor:
        """A step could not be recorded (no memory, or a model that waits for the GPU)."""
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        _LOG.warning("training steps cannot be recorded as CUDA graphs: %s", reason)
        self.most = 0
        self._graphs.clear()
        self.step.forget()
        return self.step.backward(batch, loss_tokens, seed)


def fitting(sizes: Sequence[tuple[int, int]], tokens: int, losses: int) -> int | None:
    """The smallest of (tokens, losses) with room for a step that fills most of it."""
    fits = [
        (size, number)
        for number, size in enumerate(sizes)
        if tokens <= size[0] and tokens >= LEAST_USED * size[0] and losses <= size[1]
    ]
    return min(fits)[1] if fits else None


def roomy(count: int, multiple: int) -> int:
    """A little more than `count`, as a multiple."""
    return -(-int(count * ROOM) // multiple) * multiple
