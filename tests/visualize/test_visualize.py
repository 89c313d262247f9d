"""Pictures: their size, what is on them, and that drawing leaves the random generators alone."""

import json

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

from htd.errors import UserError
from htd.visualize import draw_input, draw_results, draw_side_by_side

NAMES = ["disc", "square"]
GREY = np.full((120, 160, 3), 128, np.uint8)
HEIGHT, WIDTH = 24 + 360, 480  # a heading above the image, which is enlarged three times


def truth(boxes=((10, 10, 60, 60),), classes=(1,), **fields):
    boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    return Instances(
        (120, 160), gt_boxes=boxes, gt_classes=torch.tensor(classes, dtype=torch.int64), **fields
    )


def detections(scores=(0.9, 0.2)):
    boxes = torch.tensor([[20.0, 30, 70, 80], [90, 20, 150, 100]])[: len(scores)]
    classes = torch.tensor([0, 5])[: len(scores)]
    return Instances((120, 160), pred_boxes=Boxes(boxes), scores=torch.tensor(scores), pred_classes=classes)


def test_size_and_type():
    picture = draw_side_by_side(GREY, truth(), detections(), NAMES, 0.5)
    assert picture.dtype == np.uint8
    assert picture.shape == (HEIGHT, 2 * WIDTH + 4, 3)
    assert draw_side_by_side(GREY, truth(), None, NAMES).shape == (HEIGHT, WIDTH, 3)
    assert draw_side_by_side(GREY, None, detections(), NAMES).shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(draw_side_by_side(GREY, None, None, NAMES), GREY)
    large = draw_side_by_side(np.zeros((500, 600, 3), np.uint8), None, detections(), NAMES)
    assert large.shape == (524, 600, 3)


def test_boxes_are_where_they_belong():
    picture = draw_side_by_side(GREY, truth(), detections(), NAMES, 0.5)[24:].astype(int)
    changed = np.abs(picture - 128).max(axis=2) > 20
    left, right = changed[:, :WIDTH], changed[:, WIDTH + 4 :]
    assert left[60:150, 178:183].any(axis=1).mean() > 0.9  # right side of the true box, at x = 3 * 60
    assert right[110:230, 208:213].any(axis=1).mean() > 0.9  # right side of the kept detection, at 3 * 70
    assert not right[:, 3 * 95 :].any()  # the other one has too low a score
    everything = draw_side_by_side(GREY, None, detections(), NAMES, 0.1)[24:].astype(int)
    assert (np.abs(everything - 128).max(axis=2) > 20)[:, 3 * 95 :].any()


def test_nothing_to_draw_and_masks():
    assert draw_side_by_side(GREY, truth((), ()), detections(())[:0], NAMES).shape == (
        HEIGHT,
        2 * WIDTH + 4,
        3,
    )
    masks = torch.zeros(2, 120, 160, dtype=torch.bool)
    masks[0, 40:70, 30:60] = True
    found = detections()
    found.pred_masks = masks
    with_mask = draw_side_by_side(GREY, None, found, NAMES)[24:].astype(int)
    plain = draw_side_by_side(GREY, None, detections(), NAMES)[24:].astype(int)
    assert np.abs(with_mask - plain)[3 * 50 : 3 * 60, 3 * 40 : 3 * 50].mean() > 10


def test_drawing_is_repeatable_and_draws_no_random_numbers():
    np.random.seed(0)
    expected = np.random.rand()
    np.random.seed(0)
    first = draw_side_by_side(GREY, truth(), detections(), NAMES)
    assert np.random.rand() == expected
    np.testing.assert_array_equal(draw_side_by_side(GREY, truth(), detections(), NAMES), first)


def test_model_inputs():
    MetadataCatalog.get("visualize_names").thing_classes = NAMES
    image = torch.from_numpy(np.stack([np.full((120, 160), value, np.uint8) for value in (200, 100, 0)]))
    rgb = draw_input({"image": image}, detections(), dataset_name="visualize_names")
    assert rgb.shape == (HEIGHT, WIDTH, 3) and rgb[-1, 0].tolist() == [200, 100, 0]
    inputs = {"image": image.float(), "instances": truth()}
    bgr = draw_input(inputs, detections(), dataset_name="visualize_names", image_format="BGR")
    assert bgr.shape == (HEIGHT, 2 * WIDTH + 4, 3) and bgr[-1, 0].tolist() == [0, 100, 200]


def test_a_semantic_map_lies_over_its_own_copy_of_the_image():
    MetadataCatalog.get("visualize_names").thing_classes = NAMES
    values = torch.full((120, 160), 255)
    values[:, 60:], values[50:70, 60:] = 0, 182
    inputs = {"image": torch.full((3, 120, 160), 128.0), "instances": truth(), "sem_seg": values}
    picture = draw_input(inputs, detections(), dataset_name="visualize_names")
    assert picture.shape == (HEIGHT, 3 * WIDTH + 8, 3)
    part = picture[24:, WIDTH + 4 : 2 * WIDTH + 4].astype(int)
    none, first, last = part[30, 30], part[30, 3 * 60 + 30], part[3 * 60, 3 * 60 + 30]
    assert none.tolist() == [64] * 3 and np.ptp(first) > 60 and np.abs(first - last).max() > 60
    assert (part[:120, : 3 * 59] == none).all() and (part[:120, 3 * 61 :] == first).all()
    without = draw_input(inputs | {"sem_seg": values * 0 + 255}, None, dataset_name="visualize_names")
    assert (without[24:, WIDTH + 4 :] == 64).all()
    only = draw_side_by_side(GREY, None, None, NAMES, semantic_map=values.numpy())
    np.testing.assert_array_equal(only[24:], part)


def test_a_results_file(tmp_path):
    cv2.imwrite(str(tmp_path / "a.jpg"), GREY)
    entry = {"id": 1, "image_id": 7, "category_id": 4, "bbox": [10, 10, 50, 50]}
    content = {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
        "annotations": [entry, entry | {"id": 2, "iscrowd": 1}],
        "categories": [{"id": 9, "name": "square"}, {"id": 4, "name": "disc"}],
    }
    result = {"image_id": 7, "category_id": 9, "bbox": [20, 30, 50, 50], "score": 0.9}
    truth_file, results = tmp_path / "truth.json", tmp_path / "results.json"
    truth_file.write_text(json.dumps(content))
    results.write_text(json.dumps([result, result | {"score": 0.1}]))
    written = draw_results(truth_file, tmp_path, results, tmp_path / "out" / "deep", count=1)
    assert written == [tmp_path / "out" / "deep" / "a.png"]
    picture = cv2.imread(str(written[0]))[..., ::-1]
    image = cv2.cvtColor(cv2.imread(str(tmp_path / "a.jpg")), cv2.COLOR_BGR2RGB)
    one = Instances((120, 160), scores=torch.tensor([0.9]), pred_classes=torch.tensor([1]))
    one.pred_boxes = Boxes(torch.tensor([[20.0, 30, 70, 80]]))
    np.testing.assert_array_equal(picture, draw_side_by_side(image, truth(classes=(0,)), one, NAMES))
    with pytest.raises(UserError, match="b.jpg cannot be read"):
        draw_results(truth_file, tmp_path, results, tmp_path / "out")
    with pytest.raises(UserError, match="no.json does not exist; an evaluation writes"):
        draw_results(truth_file, tmp_path, tmp_path / "no.json", tmp_path / "out")
