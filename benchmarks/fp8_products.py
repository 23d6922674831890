"""Products with frozen weights in row-wise scaled FP8, in place of the packed decoder's.

Weights are quantised once, a copy for each direction: backward sums over the outputs, so rows and
scales are other ones, and Hopper's FP8 units want both operands along the sum. Activations and
gradients are quantised in each product. What adapters add comes after it, in bfloat16. On a CPU the
same rounding is emulated. Shapes: T = tokens, P = tokens filled up, H = width of the input, O = of
the output, W = H with room for LoRA (see `fastlora.linear`), K = what is summed over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch
from weakref import WeakKeyDictionary

import torch

from benchmarks import common
from personaspace.fastlora.functional import has_kernels
from personaspace.fastlora.linear import JointLinear

KIND = torch.float8_e4m3fn
LARGEST = torch.finfo(KIND).max
#: A row without a number as large as this counts as zeros: its scale could not be inverted.
LEAST = 1e-30
#: Widths that `torch._scaled_mm` takes are multiples of this; rows are filled up to one as well.
MULTIPLE = 16


@dataclass(frozen=True)
class How:
    """How products are made on a device.

    Attributes:
        emulated: By dequantised numbers in float32.
        kernel: Triton quantises, not PyTorch.
        strided: `torch._scaled_mm` writes into columns of a wider tensor.
        biased: It adds biases.
        fast: It keeps fewer bits of sums.
    """

    emulated: bool = True
    kernel: bool = False
    strided: bool = False
    biased: bool = False
    fast: bool = True


@dataclass(frozen=True)
class Scaled:
    """A quantised matrix `[P, K]`, each row with a scale `[P, 1]`: values · scale."""

    values_PK: torch.Tensor
    scale_P1: torch.Tensor

    def wide(self) -> torch.Tensor:
        """As float32."""
        return self.values_PK.float() * self.scale_P1

    @property
    def bytes(self) -> int:
        """Of memory."""
        return self.values_PK.nbytes + self.scale_P1.nbytes


def quantise_plainly(x_TK: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Float8 `[rows, K]` and scales `[rows, 1]`; rows beyond those of x are zeros."""
    wide_TK = x_TK.float()
    most_T1 = wide_TK.abs().amax(1, keepdim=True)
    most_T1 = torch.where(most_T1 > LEAST, most_T1, LARGEST)
    values_PK = torch.zeros(rows, x_TK.shape[1], dtype=KIND, device=x_TK.device)
    scaled_TK = (wide_TK * (LARGEST / most_T1)).clamp(-LARGEST, LARGEST)
    values_PK[: len(x_TK)] = scaled_TK.to(KIND)
    scale_P1 = torch.ones(rows, 1, device=x_TK.device)
    scale_P1[: len(x_TK)] = most_T1 / LARGEST
    return values_PK, scale_P1


def quantise(x_TK: torch.Tensor, how: How) -> Scaled:
    """Each row by its largest number, rows filled up with zeros."""
    rows = -(-len(x_TK) // MULTIPLE) * MULTIPLE
    if how.kernel:
        from benchmarks import fp8_kernels

        return Scaled(*fp8_kernels.quantise(x_TK, rows))
    return Scaled(*quantise_plainly(x_TK, rows))


def product(
    x: Scaled,
    weight: Scaled,
    how: How,
    dtype: torch.dtype,
    bias: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """x·weightᵀ + bias `[P, O]`, both with sums along their rows; written into `out`, if given."""
    late = bias if bias is not None and not how.biased else None
    if how.emulated:
        made = (x.wide() @ weight.wide().T).to(dtype)
    else:
        operands = (x.values_PK, weight.values_PK.T, x.scale_P1, weight.scale_P1.T)
        options: dict[str, Any] = {"out_dtype": dtype, "use_fast_accum": how.fast}
        if bias is not None and how.biased:
            options["bias"] = bias
        if out is not None and how.strided:
            return torch._scaled_mm(*operands, **options, out=out)
        made = torch._scaled_mm(*operands, **options)
    if late is not None:
        made += late
    return made if out is None else out.copy_(made)


class Frozen8:
    """A joint product's weights in FP8, for both directions.

    Args:
        joint: Its base weights stay as they are.
    """

    def __init__(self, joint: JointLinear, how: How) -> None:
        weight_OH = joint.weight_OW[:, : joint.features]
        self.how, self.joint = how, joint
        self.forward_OH = quantise(weight_OH, how)
        self.backward_HO = quantise(weight_OH.T.contiguous(), how)

    @property
    def bytes(self) -> int:
        """Of both copies."""
        return self.forward_OH.bytes + self.backward_HO.bytes

    def product(self, x_TW: torch.Tensor) -> torch.Tensor:
        """As `JointLinear._product`."""
        joint, features = self.joint, self.joint.features
        x = quantise(x_TW[:, :features], self.how)
        out_TO = product(x, self.forward_OH, self.how, x_TW.dtype, joint.bias_O)[: len(x_TW)]
        if joint.room:
            out_TO.addmm_(x_TW[:, features:], joint.weight_OW[:, features:].T)
        return out_TO

    def product_backward(self, grad_TO: torch.Tensor) -> torch.Tensor:
        """As `JointLinear._product_backward`."""
        joint, features = self.joint, self.joint.features
        grad = quantise(grad_TO, self.how)
        grad_PW = grad_TO.new_empty(len(grad.values_PK), features + joint.room)
        product(grad, self.backward_HO, self.how, grad_TO.dtype, out=grad_PW[:, :features])
        grad_TW = grad_PW[: len(grad_TO)]
        if joint.room:
            torch.mm(grad_TO, joint.weight_OW[:, features:], out=grad_TW[:, features:])
        return grad_TW


class Copies:
    """FP8 copies of the joint products that were asked for, made at first use.

    Args:
        how: How they are made and multiplied.
    """

    def __init__(self, how: How) -> None:
        self.how = how
        self.made: WeakKeyDictionary[JointLinear, Frozen8] = WeakKeyDictionary()
        self.count = 0  # of all, also of those that are gone

    def of(self, joint: JointLinear) -> Frozen8 | None:
        """None: of a width that FP8 does not take, or reading hidden states."""
        outputs = len(joint.weight_OW)
        if joint.features % MULTIPLE or outputs % MULTIPLE or torch.is_inference_mode_enabled():
            return None
        if joint not in self.made:
            self.made[joint] = Frozen8(joint, self.how)
            self.count += 1
        return self.made[joint]


@contextmanager
def swapped(how: How) -> Iterator[Copies]:
    """Training by FP8 products, of every packed decoder, while the block runs."""
    copies = Copies(how)
    forward, backward = JointLinear._product, JointLinear._product_backward

    def _product(joint: JointLinear, x_TW: torch.Tensor) -> torch.Tensor:
        held = copies.of(joint)
        return forward(joint, x_TW) if held is None else held.product(x_TW)

    def _product_backward(joint: JointLinear, grad_TO: torch.Tensor) -> torch.Tensor:
        held = copies.of(joint)
        return backward(joint, grad_TO) if held is None else held.product_backward(grad_TO)

    with (
        patch.object(JointLinear, "_product", _product),
        patch.object(JointLinear, "_product_backward", _product_backward),
    ):
        yield copies


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Norm of the difference over the norm."""
    wide = wanted.float()
    return float((found.float() - wide).norm() / wide.norm().clamp(min=1e-30))


@contextmanager
def observed(how: How) -> Iterator[dict[tuple[int, str], list[float]]]:
    """Training as ever, and of each product how far FP8 is off, by joint's id and direction."""
    found: dict[tuple[int, str], list[float]] = defaultdict(list)
    forward, backward = JointLinear._product, JointLinear._product_backward

    def _product(joint: JointLinear, x_TW: torch.Tensor) -> torch.Tensor:
        held, wanted = Frozen8(joint, how), forward(joint, x_TW)
        found[id(joint), "forward"].append(relative(held.product(x_TW), wanted))
        return wanted

    def _product_backward(joint: JointLinear, grad_TO: torch.Tensor) -> torch.Tensor:
        held, wanted = Frozen8(joint, how), backward(joint, grad_TO)
        base = slice(0, joint.features)
        error = relative(held.product_backward(grad_TO)[:, base], wanted[:, base])
        found[id(joint), "backward"].append(error)
        return wanted

    with (
        patch.object(JointLinear, "_product", _product),
        patch.object(JointLinear, "_product_backward", _product_backward),
    ):
        yield found


def checked() -> tuple[How, list[str]]:
    """What works on this device, by comparison with the emulation, and what does not.

    Raises:
        SystemExit: FP8 products do not work at all.
    """
    device = common.device()
    if device.type != "cuda":
        return How(), ["no GPU: FP8 is emulated"]
    if torch.cuda.get_device_capability(device) < (8, 9):
        raise SystemExit("this GPU has no FP8 products (Ada, Hopper or later have)")
    torch.manual_seed(0)
    x_TK = torch.randn(77, 9216, device=device, dtype=torch.bfloat16)[:, :9200]
    weight = Scaled(*quantise_plainly(torch.randn(64, 9200, device=device) / 9, 64))
    bias_O = torch.randn(64, device=device, dtype=torch.bfloat16)
    told: list[str] = []
    plain_x = quantise(x_TK, How())
    exact = product(plain_x, weight, How(), torch.bfloat16)

    def right(
        what: str, found: Callable[[], torch.Tensor], wanted: torch.Tensor, by: float
    ) -> bool:
        try:
            error = relative(found(), wanted)
        except Exception as problem:  # whatever the device or PyTorch says
            told.append(f"{what}: {type(problem).__name__}: {str(problem).splitlines()[0][:200]}")
            return False
        if not error <= by:
            told.append(f"{what}: off by {error:.2g}")
            return False
        return True

    how = How(emulated=False)
    if not right("product", lambda: product(plain_x, weight, how, torch.bfloat16), exact, 1e-2):
        raise SystemExit("torch._scaled_mm does not multiply by rows here: " + told[-1])
    if not has_kernels():
        told.append("kernel: there is no Triton or no C compiler")
    else:
        sizes = (48, 576, 9200)  # in one pass, in one with a block not filled, in two passes
        how = replace(how, kernel=all(
            right(f"kernel, {size} columns", lambda size=size: quantise(
                x_TK[:, :size], How(kernel=True)).wide(), quantise(x_TK[:, :size], How()).wide(),
                1e-2) for size in sizes
        ))  # fmt: skip
    how = replace(how, biased=right(
        "bias", lambda: product(plain_x, weight, replace(how, biased=True), torch.bfloat16, bias_O),
        product(plain_x, weight, How(), torch.bfloat16, bias_O), 1e-2,
    ))  # fmt: skip

    def into_columns() -> torch.Tensor:
        wide = torch.full((len(exact), 72), 7.0, device=device, dtype=torch.bfloat16)
        product(plain_x, weight, replace(how, strided=True), torch.bfloat16, out=wide[:, :64])
        return wide

    wanted = torch.cat([exact, torch.full_like(exact[:, :8], 7.0)], 1)
    how = replace(how, strided=right("writing into columns", into_columns, wanted, 1e-2))
    return how, told
