"""Pooling with offsets against the reference arrays: values, gradients, and how many samples count."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from htd.layers import FeatureTable, RoundedRegions, offset_roi_pool
from tests.recorded import close, extents, random_input, tensors

SEED, BINS, SAMPLES, SHIFT_FACTOR = 3, 7, 4, 0.1
OUTPUT_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 3e-4
# Name of the case -> shape of the map, its stride, factor of the drawn offsets.
CASES = {
    "inside": ((2, 8, 30, 40), 4, 1.0),
    "border": ((2, 8, 14, 18), 16, 1.5),
    "half": ((1, 8, 16, 20), 8, 1.0),
}


@dataclass
class Case:
    """A map, the regions, and what the published operator gave."""

    name: str
    features: Tensor
    stride: int
    factor: float
    arrays: dict[str, Tensor]

    @property
    def boxes(self) -> Tensor:
        return extents(self.arrays["rois"][:, 1:])

    def draw(self, kind: str, *shape: int) -> Tensor:
        return random_input(f"pool.{self.name}.{kind}", (len(self.boxes), *shape), SEED)

    def raw_offsets(self, kind: str) -> Tensor:
        """Return the predictions ``c`` (R, 98) for bins or ``r`` (R, 2) for boxes."""
        return self.draw(f"delta_{kind}", 2 * BINS**2 if kind == "c" else 2) * self.factor

    def offsets(self, raw: Tensor) -> Tensor:
        """Return predictions as fractions of the boxes' sizes, in the shape that the operator wants."""
        shape = (2,) if raw.shape[1] == 2 else (2, BINS, BINS)
        return raw.unflatten(1, shape) * SHIFT_FACTOR

    def pool(self, features: Tensor, offsets: Tensor) -> Tensor:
        image = self.arrays["rois"][:, 0].long().to(features.device)
        return offset_roi_pool(
            FeatureTable.from_maps([features], [self.stride]),
            self.boxes.to(features.device),
            image,
            torch.zeros_like(image),
            offsets,
            output_size=BINS,
            regions=RoundedRegions(),
            samples=SAMPLES,
        )


@pytest.fixture(scope="module", params=CASES)
def case(request):
    shape, stride, factor = CASES[request.param]
    features = random_input(f"pool.{request.param}.feat", shape, SEED)
    return Case(request.param, features, stride, factor, tensors("tsd", f"pool_{request.param}"))


@pytest.mark.parametrize("kind", ["c", "r"])
def test_outputs_and_gradients(case, kind, device):
    features = case.features.to(device, copy=True).requires_grad_()
    raw = case.raw_offsets(kind).to(device, copy=True).requires_grad_()
    out = case.pool(features, case.offsets(raw))
    close(out, case.arrays[f"out_{kind}"], OUTPUT_TOLERANCE)
    out.backward(case.draw(f"grad_{kind}", *out.shape[1:]).to(device))
    close(features.grad, case.arrays[f"grad_feat_{kind}"], GRADIENT_TOLERANCE)
    close(raw.grad, case.arrays[f"grad_delta_{kind}"], GRADIENT_TOLERANCE)


# Of the case "border" the published operator without offsets was not recorded.
@pytest.mark.parametrize("case", ["inside", "half"], indirect=True)
@pytest.mark.parametrize("shape", [(2,), (2, BINS, BINS)])
def test_no_offsets(case, device, shape):
    """Zeros for whole boxes and for bins are the published operator without offsets."""
    features = case.features.to(device, copy=True).requires_grad_()
    out = case.pool(features, torch.zeros(len(case.boxes), *shape, device=device))
    close(out, case.arrays["out_plain"], OUTPUT_TOLERANCE)
    out.backward(case.draw("grad_c", *out.shape[1:]).to(device))
    close(features.grad, case.arrays["grad_feat_plain"], GRADIENT_TOLERANCE)


@pytest.mark.parametrize("kind", ["c", "r"])
def test_samples_that_count(case, kind):
    rule, limit = RoundedRegions(), torch.tensor(case.features.shape[-2:])
    start, size = rule.extent(case.boxes, torch.full((len(case.boxes),), 1 / case.stride))
    offsets = case.offsets(case.raw_offsets(kind)).flip(1)
    number = torch.stack(torch.meshgrid(torch.arange(BINS), torch.arange(BINS), indexing="ij"))
    offsets = offsets if offsets.dim() == 4 else offsets[:, :, None, None]
    # In bins, then in cells: (R, 2, S, S, n) by (y, x).
    place = number[..., None] + (torch.arange(SAMPLES) + rule.phase) / SAMPLES
    start, size = start.view(-1, 2, 1, 1, 1), size.view(-1, 2, 1, 1, 1)
    position = start + place * size / BINS + offsets[..., None] * size
    _, lower, upper = rule.read(position, limit.view(2, 1, 1, 1))
    counts = (lower + upper > 0).sum(dim=-1).prod(dim=1)
    assert torch.equal(counts.float(), case.arrays[f"count_{kind}"])
    if case.name == "border":
        assert (counts == 0).any()
        assert ((counts > 0) & (counts < SAMPLES**2)).any()
