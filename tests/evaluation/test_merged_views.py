"""Test-time augmentation of dense detectors: boxes of all views, suppressed together."""

import runpy
from types import SimpleNamespace

import pytest
import torch
from detectron2.structures import ImageList
from omegaconf import OmegaConf
from torch import nn

from htd.data import ResizeCV2
from htd.errors import UserError
from htd.evaluation import AveragedViews, MergedViews, View
from htd.layers import HardNMS
from htd.modeling.dense import DensePredictions, OneStageDetector
from htd.modeling.dense.postprocessing import PairTopK, RescaleFirst, SuppressFirst
from tests.configs.reduced import build, example
from tests.evaluation.detectors import different_but_for_the_backbone
from tests.recorded import close
from tests.static.source import ROOT

SIZE = (64, 96)
CELL = 8


class Blobs(OneStageDetector):
    """Finds one box for each cell of 8 x 8 pixels, as large and as sure of class 0 as the cell is bright.

    Brightness tells a box's four sides in pixels of the view it is called with: so what it finds depends on
    the size of the view, as with any detector, and on nothing that is not in the picture.
    """

    def __init__(self, postprocessing):
        nn.Module.__init__(self)
        self.postprocessing = postprocessing
        self.inputs = []

    def preprocess_image(self, batched_inputs):
        self.inputs += batched_inputs
        return ImageList.from_tensors([item["image"] for item in batched_inputs])

    def predict(self, images):
        cells = nn.functional.avg_pool2d(images.float(), CELL) / 255
        scores = cells[:, :2].flatten(2).transpose(1, 2)  # two classes
        y, x = torch.meshgrid(torch.arange(cells.shape[2]), torch.arange(cells.shape[3]), indexing="ij")
        middle = torch.stack([x, y], dim=-1).flatten(0, 1) * CELL + CELL / 2
        half = 4 + 20 * cells[:, 2].flatten(1)[..., None]
        return predicted(scores, torch.cat([middle - half, middle + half], dim=2))


def predicted(scores, boxes):
    """What a detector predicts that has these scores (N, P, 2) and boxes (N, P, 4) on its only level."""
    return SimpleNamespace(level_sizes=[boxes.shape[1]]), DensePredictions(scores.logit(), boxes), boxes


def detector(kind=RescaleFirst, threshold=0.4, iou=0.5):
    rest = {"clip": True, "min_box_size": 0.0} if kind is RescaleFirst else {}
    selection = PairTopK(score_threshold=threshold, topk=1000)
    return Blobs(kind(pre_nms=selection, nms=HardNMS(iou_threshold=iou), max_detections=50, **rest)).eval()


def picture(size=SIZE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, size[0] // CELL, size[1] // CELL, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    return {"image": (255 * smooth[0]).to(torch.uint8), "height": size[0], "width": size[1]}


def merged(model, *views):
    return MergedViews(model=model, views=views)


def found_by(model, item):
    ((result),) = model([item])
    return result["instances"]


def resized(short):
    return ResizeCV2(short_edge_length=short, max_size=10 * short)


def same(found, wanted, atol=0.0):
    assert found.image_size == wanted.image_size and len(found) == len(wanted) > 0
    assert torch.equal(found.pred_classes, wanted.pred_classes)
    close(found.scores, wanted.scores, atol)
    close(found.pred_boxes.tensor, wanted.pred_boxes.tensor, atol)


def mirrored(instances):
    x1, y1, x2, y2 = instances.pred_boxes.tensor.unbind(1)
    width = instances.image_size[1]
    instances.pred_boxes.tensor = torch.stack([width - x2, y1, width - x1, y2], dim=1)
    return instances


@pytest.mark.parametrize("kind", [RescaleFirst, SuppressFirst])
def test_one_view_as_it_is_is_the_model_alone(kind):
    model = detector(kind)
    same(found_by(merged(model, View(augmentations=[])), picture()), found_by(model, picture()))


@pytest.mark.parametrize("kind", [RescaleFirst, SuppressFirst])
def test_one_resized_view_is_the_model_on_the_resized_image(kind):
    model, item, view = detector(kind), picture(), View(augmentations=[resized(100)])
    wanted = found_by(model, item | {"image": view(item["image"])})
    assert wanted.image_size == SIZE
    same(found_by(merged(model, view), item), wanted, atol=1e-4)


@pytest.mark.parametrize("kind", [RescaleFirst, SuppressFirst])
def test_a_mirrored_image_gives_mirrored_detections(kind):
    item = picture()
    both = merged(detector(kind), *(View(augmentations=[resized(80)], mirrored=m) for m in (False, True)))
    other = mirrored(found_by(both, item | {"image": item["image"].flip(2)}))
    same(other, found_by(both, item), atol=1e-4)


class Told(Blobs):
    """A detector that finds in a view of some width what it is told to."""

    def __init__(self, postprocessing, found):
        super().__init__(postprocessing)
        self.found = found

    def predict(self, images):
        return predicted(*(x[None] for x in self.found[images.shape[-1]]))


def test_boxes_of_two_scales_by_hand():
    """Of an image of 64 x 96 and of a mirrored view of 128 x 192, all in pixels of the image:

    small view: (10, 10, 30, 30) at 0.9 and (50, 10, 70, 30) at 0.6;
    large view: (11, 10, 31, 30) at 0.7, which is the first once more; (50, 10, 71, 30) at 0.8, which is the
    second, seen better; the first box again, but of the other class; and one that reaches beyond the image.
    """
    found = {
        96: (torch.tensor([[0.9, 0.0], [0.6, 0.0]]), torch.tensor([[10.0, 10, 30, 30], [50, 10, 70, 30]])),
        192: (
            torch.tensor([[0.7, 0.0], [0.8, 0.0], [0.0, 0.75], [0.5, 0.0]]),
            torch.tensor([[130.0, 20, 170, 60], [50, 20, 92, 60], [132, 20, 172, 60], [182, 100, 202, 140]]),
        ),
    }
    views = View(augmentations=[]), View(augmentations=[resized(128)], mirrored=True)
    for kind in (RescaleFirst, SuppressFirst):
        model = Told(detector(kind).postprocessing, found).eval()
        result = found_by(merged(model, *views), picture())
        close(result.scores, torch.tensor([0.9, 0.8, 0.75, 0.5]), 1e-6)
        assert result.pred_classes.tolist() == [0, 0, 1, 0]
        wanted = [[10, 10, 30, 30], [50, 10, 71, 30], [10, 10, 30, 30], [0, 50, 5, 64]]
        close(result.pred_boxes.tensor, torch.tensor(wanted), 1e-4)


def test_a_batch_is_its_images_one_by_one():
    """And a view names no output frame: what it finds comes in its own."""
    model = detector()
    several = merged(model, View(augmentations=[]), View(augmentations=[resized(96)], mirrored=True))
    items = [picture(), picture((80, 48), seed=1)]
    together = several(items)
    assert [set(item) for item in model.inputs] == [{"image"}] * 4
    for item, found in zip(items, together, strict=True):
        same(found["instances"], found_by(several, item))
    assert found["instances"].image_size == (80, 48)


@pytest.mark.parametrize("leaf", different_but_for_the_backbone("postprocessing"))
def test_every_dense_model_takes_views(leaf):
    """The view as it is, and the mirrored one of the mirrored image, are the model; two find no less."""
    model = build(leaf).eval()
    model.postprocessing.pre_nms.score_threshold = 0.0
    item = {"image": example(0, seed=5, size=SIZE)["image"], "height": SIZE[0], "width": SIZE[1]}
    with torch.no_grad():
        alone = found_by(model, item)
    plain, other = View(augmentations=[]), View(augmentations=[], mirrored=True)
    same(found_by(merged(model, plain), item), alone)
    same(mirrored(found_by(merged(model, other), item | {"image": item["image"].flip(2)})), alone, atol=1e-4)
    assert found_by(merged(model, plain, other), item).scores[0] >= alone.scores[0]


def test_what_cannot_be_merged_is_an_error():
    two_stage = SimpleNamespace(roi_heads=SimpleNamespace(predict=print), training=False)
    with pytest.raises(UserError, match="SimpleNamespace.*averaged_views"):
        merged(two_stage, View(augmentations=[]))
    with pytest.raises(UserError, match="views is empty"):
        merged(detector())
    with pytest.raises(UserError, match="a Blobs has none: take merged_views"):
        AveragedViews(model=detector(), views=[View(augmentations=[])], proposal_nms=None, max_proposals=9)


def test_an_image_of_another_size_is_an_error():
    with pytest.raises(UserError, match=r"image a.jpg of 128 x 192 .* came as 64 x 96"):
        merged(detector(), View(augmentations=[]))(
            [picture() | {"height": 128, "width": 192, "file_name": "a.jpg"}]
        )


def test_the_builder_of_the_configs_makes_the_views_of_the_averaging_one():
    built = runpy.run_path(str(ROOT / "configs/common/test_time.py"))
    node = built["merged_views"]((1333, 800), (2000, 1200))
    assert node.views == built["averaged_views"]((1333, 800), (2000, 1200)).views
    assert set(node) == {"_target_", "views"} and len(node.views) == 4
    assert OmegaConf.to_container(OmegaConf.create(node), resolve=True)


@pytest.mark.parametrize("kind", [RescaleFirst, SuppressFirst])
@pytest.mark.parametrize(("most", "scores"), [(50, [0.9, 0.8]), (2, [0.9])])
def test_a_class_beyond_the_classes_is_dropped_last(kind, most, scores):
    """It suppresses nothing of the class, but its detections of both views take their places."""
    box, other = [10.0, 10, 30, 30], [50.0, 10, 70, 30]
    found = {
        96: (torch.tensor([[0.9, 0.0], [0.0, 0.85]]), torch.tensor([box, other])),
        192: (torch.tensor([[0.0, 0.7], [0.8, 0.0]]), 2 * torch.tensor([box, other])),
    }
    model = Told(detector(kind).postprocessing, found).eval()
    model.postprocessing.num_classes, model.postprocessing.max_detections = 1, most
    result = found_by(merged(model, View(augmentations=[]), View(augmentations=[resized(128)])), picture())
    close(result.scores, torch.tensor(scores), 1e-6)
    close(result.pred_boxes.tensor, torch.tensor([box, other][: len(scores)]), 1e-4)
    assert not result.pred_classes.any()
