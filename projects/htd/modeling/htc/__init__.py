"""HTC: a cascade of boxes and masks that is told what the whole image shows.

Paper: Hybrid Task Cascade for Instance Segmentation, K. Chen et al., CVPR 2019,
https://arxiv.org/abs/1901.07518.

HTC is a cascade of three stages (:class:`htd.modeling.cascade.StagedROIHeads`) on ResNet, FPN and RPN, each
with a box head B_t and a mask head M_t. With x the feature maps, r_t the boxes of stage t (r_0 the
proposals), P a pooling of RoI features, and the steps of the paper:

1. Semantic branch, section 3.2: S(x) joins the pyramid at stride 8. Its logits are learned from a semantic
   map of the image (``loss_sem_seg``).
2. Boxes: r_t = B_t(P(x, r_{t-1}) + P(S(x), r_{t-1})).
3. Masks, interleaved execution, section 3.1: m_t is predicted from f = P(x, r_t) + P(S(x), r_t), of the boxes
   that the same stage has just refined.
4. Mask information flow, section 3.1: the features of M_t before its upsampling, m_t^-, follow from those of
   the head before, m_t^- = M_t(f + relu(G_t(m_{t-1}^-))) with f of step 3 and G_t a 1x1 convolution; those of
   all heads before are computed anew on the boxes r_t.
5. The losses of boxes and masks of the stages weigh 1, 0.5 and 0.25, section 3.3.
6. At test the logits of the box heads and the masks of all mask heads are averaged.

Step 1 is in :mod:`htd.modeling.htc.semantic`, step 4 in ``information_flow.py``; the boxes, the interleaved
execution (:class:`htd.modeling.cascade.RefinedPositives`) and the masks are parts of the cascade.
"""

from htd.modeling.htc.information_flow import MaskInformationFlow
from htd.modeling.htc.semantic import FusedSemanticHead, MeanOverAll, MeanOverLabeled

__all__ = ["FusedSemanticHead", "MaskInformationFlow", "MeanOverAll", "MeanOverLabeled"]
