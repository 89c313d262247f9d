"""From which RoIs a stage's mask head learns.

Both rules are called with (stage, samples, refined, targets), one ``Instances`` an image each: the RoIs
that the stage's box head has learnt from, the same after its refinement, and the ground truth. They
return positives alone, ``proposal_boxes`` (P_i, 4) XYXY in pixels of the resized input, with the other fields
of :mod:`htd.modeling.cascade.sampling`.
"""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.structures import Instances

from htd.modeling.cascade.stage import CascadeStage

Batch = Sequence[Instances]


class SampledPositives:
    """The positives that the box head has learnt from (Mask R-CNN, Cascade Mask R-CNN).

    Paper: Mask R-CNN, section 3.1.

    Attributes:
        needs_refined: whether the rule reads the refined RoIs.
    """

    needs_refined = False

    def __call__(
        self, stage: CascadeStage, samples: Batch, refined: Batch | None, targets: Batch
    ) -> list[Instances]:
        """Return the samples that are foreground for the stage, image by image."""
        return [s[s.gt_classes < stage.num_classes] for s in samples]


class RefinedPositives(SampledPositives):
    """Positives of a new sample of the refined RoIs, drawn by the stage's own sampler.

    Paper: Hybrid Task Cascade, section 3.1, interleaved execution: masks are learnt on the boxes that
    the box head of the same stage has refined.
    """

    needs_refined = True

    def __call__(
        self, stage: CascadeStage, samples: Batch, refined: Batch, targets: Batch
    ) -> list[Instances]:
        """Return the positives among new samples of the refined RoIs."""
        return super().__call__(stage, stage.sampler(refined, targets), refined, targets)
