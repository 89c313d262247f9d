"""What the reference cases of TOOD share: heads, phases, and one pass of a head with all that it computes."""

from __future__ import annotations

import torch
from torch import Tensor

from htd.layers import sample_coordinates
from tests.modeling.dense.reference import STRIDES, Losses, as_maps, random_maps, without_backbone
from tests.recorded import tensors

R50 = "tood/tood_r50_fpn_1x"
ANCHOR_BASED = "tood/tood_r50_fpn_anchor_based_1x"
DEFORMABLE = "tood/tood_r101_fpn_dcnv2_2x_ms"
# Steps of 16 images a published epoch.
ITERATIONS_PER_EPOCH = 7330


def head(leaf: str, device):
    """Return the detector of a config without its backbone, and our names of its published ones."""
    return without_backbone(leaf, "tood", "head_tood_dcn2" if leaf == DEFORMABLE else "head_tood", device)


class Seen:
    """Records what a module of a head gives, level by level, while it is open."""

    def __init__(self, **modules: torch.nn.Module):
        self.levels = {name: [] for name in modules}
        self.handles = [m.register_forward_hook(self._to(self.levels[n])) for n, m in modules.items()]

    @staticmethod
    def _to(outputs: list):
        # A convolution's output may be overwritten by what follows.
        return lambda module, inputs, output: outputs.append(output.clone())

    def __enter__(self) -> Seen:
        return self

    def __exit__(self, *error) -> None:
        for handle in self.handles:
            handle.remove()

    def __getitem__(self, name: str) -> dict[str, Tensor]:
        return dict(zip(STRIDES, self.levels[name], strict=True))


class Forward:
    """A case of the head: maps p3..p7 by name of all that is recorded, boxes in cells.

    Attributes:
        scores, boxes, unsampled, sampled, offsets: of each level; ``sampled`` is before the repair.
        seen: see :class:`Seen`.
    """

    def __init__(self, name: str, leaf: str, batch: int, size: tuple[int, int], seed: int, device):
        self.case = tensors("tood", name)
        self.model, _ = head(leaf, device)
        parts, predictors = self.model.head.towers, self.model.head.predictors
        self.features = random_maps(seed, batch, *size, device)
        with (
            torch.no_grad(),
            Seen(
                inter6=parts.interactive[5],
                cls_feat=parts.classification,
                cls_attn=parts.classification.attention,
                reg_attn=parts.regression.attention,
                cls_logit=predictors.cls_score,
                prob_logit=predictors.score_map,
            ) as self.seen,
        ):
            self.predictions = self.model.eval().head(self.features)
            priors = self.model.priors(self.features)
            regression = self.predictions.regression
            unsampled = self.model.decoder.decoder(regression[..., :-8], priors)
            stride = priors.prior_strides[:, None]
            self.scores = as_maps(self.predictions.logits.sigmoid(), priors)
            self.offsets = as_maps(regression[..., -8:], priors)
            self.unsampled = as_maps(unsampled / stride, priors)
            self.boxes = as_maps(self.decoded(repair=True) / stride, priors)
            self.sampled = {p: sample_coordinates(self.unsampled[p], self.offsets[p]) for p in STRIDES}

    @torch.no_grad()
    def decoded(self, *, repair: bool) -> Tensor:
        """Return all boxes (N, P, 4) in pixels, with or without the repair."""
        self.model.decoder.repair = repair
        return self.model.decoder(self.predictions.regression, self.model.priors(self.features))


def losses(name: str, leaf: str, seed: int, iteration: int, device) -> Losses:
    """Return a case of the losses, computed as at an iteration of a training."""
    model, names = head(leaf, device)
    model.criterion.set_iteration(iteration)
    return Losses(name, model, names, seed)
