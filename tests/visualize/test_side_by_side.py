"""Pictures: their size, what is on them, and that drawing leaves the random generators alone."""

import json

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from htd.errors import UserError
from htd.visualize import draw_input, draw_results, draw_side_by_side

NAMES = ["disc", "square"]
GRAY = np.full((120, 160, 3), 128, np.uint8)
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
    picture = draw_side_by_side(GRAY, truth(), detections(), NAMES, 0.5)
    assert picture.dtype == np.uint8
    assert picture.shape == (HEIGHT, 2 * WIDTH + 4, 3)
    assert draw_side_by_side(GRAY, truth(), None, NAMES).shape == (HEIGHT, WIDTH, 3)
    assert draw_side_by_side(GRAY, None, detections(), NAMES).shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(draw_side_by_side(GRAY, None, None, NAMES), GRAY)
    large = draw_side_by_side(np.zeros((500, 600, 3), np.uint8), None, detections(), NAMES)
    assert large.shape == (524, 600, 3)


def test_boxes_are_where_they_belong():
    picture = draw_side_by_side(GRAY, truth(), detections(), NAMES, 0.5)[24:].astype(int)
    changed = np.abs(picture - 128).max(axis=2) > 20
    left, right = changed[:, :WIDTH], changed[:, WIDTH + 4 :]
    assert left[60:150, 178:183].any(axis=1).mean() > 0.9  # right side of the true box, at x = 3 * 60
    assert right[110:230, 208:213].any(axis=1).mean() > 0.9  # right side of the kept detection, at 3 * 70
    assert not right[:, 3 * 95 :].any()  # the other one has too low a score
    all_boxes = draw_side_by_side(GRAY, None, detections(), NAMES, 0.1)[24:].astype(int)
    assert (np.abs(all_boxes - 128).max(axis=2) > 20)[:, 3 * 95 :].any()


def test_nothing_to_draw_and_masks():
    assert draw_side_by_side(GRAY, truth((), ()), detections(())[:0], NAMES).shape == (
        HEIGHT,
        2 * WIDTH + 4,
        3,
    )
    masks = torch.zeros(2, 120, 160, dtype=torch.bool)
    masks[0, 40:70, 30:60] = True
    found = detections()
    found.pred_masks = masks
    with_mask = draw_side_by_side(GRAY, None, found, NAMES)[24:].astype(int)
    plain = draw_side_by_side(GRAY, None, detections(), NAMES)[24:].astype(int)
    assert np.abs(with_mask - plain)[3 * 50 : 3 * 60, 3 * 40 : 3 * 50].mean() > 10


def test_drawing_is_repeatable_and_draws_no_random_numbers():
    np.random.seed(0)
    expected = np.random.rand()
    np.random.seed(0)
    first = draw_side_by_side(GRAY, truth(), detections(), NAMES)
    assert np.random.rand() == expected
    np.testing.assert_array_equal(draw_side_by_side(GRAY, truth(), detections(), NAMES), first)


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
    assert none.tolist() == [128] * 3 and np.ptp(first) > 60 and np.abs(first - last).max() > 60
    assert (part[:120, : 3 * 59] == none).all() and (part[:120, 3 * 61 :] == first).all()
    without = draw_input(inputs | {"sem_seg": values * 0 + 255}, None, dataset_name="visualize_names")
    assert (without[24:, WIDTH + 4 :] == 128).all()
    only = draw_side_by_side(GRAY, None, None, NAMES, semantic_map=values.numpy())
    np.testing.assert_array_equal(only[24:], part)


def test_drawn_maps_have_the_colors_of_the_objects_and_no_background():
    MetadataCatalog.get("visualize_names").thing_classes = NAMES
    values = torch.full((120, 160), 2)
    values[:, 80:] = 1
    inputs = {"image": torch.full((3, 120, 160), 128.0), "instances": truth(classes=(1,)), "sem_seg": values}
    drawn = draw_input(inputs | {"sem_seg_drawn_classes": 2}, None, dataset_name="visualize_names")[24:]
    other = draw_input(inputs, None, dataset_name="visualize_names")[24:]
    maps = [picture[:, WIDTH + 4 :].astype(int) for picture in (drawn, other)]
    assert (maps[0][:, : 3 * 79] == 128).all() and np.ptp(maps[1][30, 30]) > 60
    np.testing.assert_array_equal(maps[0][:, 3 * 81 :], maps[1][:, 3 * 81 :])
    edge = drawn[100, 181].astype(int)  # the right side of the true box
    assert maps[0][30, 3 * 81 + 30].argsort().tolist() == edge.argsort().tolist() and np.ptp(edge) > 30
    assert (values[:, :80] == 2).all()  # the input of the model stays


def test_labels_stay_inside():
    plain = draw_side_by_side(GRAY, truth(((130, 90, 158, 118),)), None, ["", ""])[24:].astype(int)
    long = ["", "zebra crossing square"]
    picture = draw_side_by_side(GRAY, truth(((130, 90, 158, 118),)), None, long)[24:].astype(int)
    changed = (np.abs(picture - plain).max(axis=2) > 20).nonzero()
    whole = draw_side_by_side(GRAY, truth(((10, 10, 38, 38),)), None, long)[24:].astype(int)
    plain = draw_side_by_side(GRAY, truth(((10, 10, 38, 38),)), None, ["", ""])[24:].astype(int)
    expected = (np.abs(whole - plain).max(axis=2) > 20).nonzero()
    # As wide as with room to spare, and up to the edges.
    assert abs(np.ptp(changed[1]) - np.ptp(expected[1])) <= 12 and WIDTH - 4 <= changed[1].max()
    assert abs(np.ptp(changed[0]) - np.ptp(expected[0])) <= 2


def test_a_results_file(tmp_path):
    cv2.imwrite(str(tmp_path / "a.jpg"), GRAY)
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
    assert written == [tmp_path / "out" / "deep" / "a_7.png"]
    picture = cv2.imread(str(written[0]))[..., ::-1]
    image = cv2.cvtColor(cv2.imread(str(tmp_path / "a.jpg")), cv2.COLOR_BGR2RGB)
    one = Instances((120, 160), scores=torch.tensor([0.9]), pred_classes=torch.tensor([1]))
    one.pred_boxes = Boxes(torch.tensor([[20.0, 30, 70, 80]]))
    np.testing.assert_array_equal(picture, draw_side_by_side(image, truth(classes=(0,)), one, NAMES))
    with pytest.raises(UserError, match="b.jpg cannot be read"):
        draw_results(truth_file, tmp_path, results, tmp_path / "out")
    with pytest.raises(UserError, match="no.json does not exist"):
        draw_results(truth_file, tmp_path, tmp_path / "no.json", tmp_path / "out")


def rectangle(x0, y0, x1, y1):
    mask = np.zeros((120, 160), np.uint8, order="F")
    mask[y0:y1, x0:x1] = 1
    run_lengths = mask_util.encode(mask)
    return run_lengths | {"counts": run_lengths["counts"].decode()}


def write(folder, annotations, results, names=("a.jpg",)):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), GRAY)
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    categories = [{"id": 1, "name": "disc"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "truth.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps(results))
    return draw_results(folder / "truth.json", folder, folder / "results.json", folder / "out")


POLYGON = [[20, 30, 50, 30, 50, 60, 20, 60]]
COUNTS = [20 * 120 + 30] + [30, 90] * 29 + [30, 60 + 110 * 120]


@pytest.mark.parametrize(
    "segmentation, valid",
    [
        (POLYGON, True),
        (rectangle(20, 30, 50, 60), True),
        ({"size": [120, 160], "counts": COUNTS}, True),
        ([[20, 30]], False),
        (rectangle(20, 30, 50, 60) | {"size": [160, 120]}, False),
        ({"size": [120, 160], "counts": [7]}, False),
        (None, False),
    ],
)
@pytest.mark.parametrize("side", ["truth", "results"])
def test_valid_masks_of_files_are_drawn(tmp_path, side, segmentation, valid):
    entry = {"image_id": 0, "category_id": 1, "bbox": [20, 30, 100, 80], "score": 0.9}
    other = entry | {"id": 2, "bbox": [130, 10, 20, 20], "segmentation": []}
    entries = [entry | {"id": 1, "segmentation": segmentation}, other]
    [path] = write(tmp_path, *((entries, []) if side == "truth" else ([], entries)))
    left = 0 if side == "truth" else WIDTH + 4
    picture = cv2.imread(str(path))[24:, left : left + WIDTH].astype(int)
    changed = np.abs(picture - 128).max(axis=2) > 20
    inside = changed[3 * 46 : 3 * 59, 3 * 21 : 3 * 49]  # below the label
    assert inside.all() if valid else not inside.any()
    assert not changed[3 * 46 : 3 * 108, 3 * 52 : 3 * 118].any()
    assert not changed[3 * 62 : 3 * 108, 3 * 22 : 3 * 118].any()
    assert changed[3 * 60, 3 * 119 : 3 * 121].any()  # the box
    assert changed[3 * 20, 3 * 149 : 3 * 151].any() and not changed[3 * 15, 3 * 145]  # the other's box


def test_holes_of_masks_are_not_filled(tmp_path):
    ring = mask_util.decode(rectangle(20, 30, 120, 110))
    ring[60:90, 50:90] = 0
    run_lengths = mask_util.encode(np.asfortranarray(ring))
    entry = {"image_id": 0, "category_id": 1, "bbox": [20, 30, 100, 80], "score": 0.9}
    entry["segmentation"] = run_lengths | {"counts": run_lengths["counts"].decode()}
    [path] = write(tmp_path, [], [entry])
    changed = np.abs(cv2.imread(str(path))[24:, WIDTH + 4 :].astype(int) - 128).max(axis=2) > 20
    assert not changed[3 * 61 : 3 * 89, 3 * 51 : 3 * 89].any()
    assert changed[3 * 92 : 3 * 108, 3 * 22 : 3 * 118].all()


@pytest.mark.parametrize("as_polygons", [True, False])
def test_masks_of_model_inputs(as_polygons):
    MetadataCatalog.get("visualize_names").thing_classes = NAMES
    masks = torch.zeros(2, 120, 160, dtype=torch.bool)
    masks[0, 30:60, 20:50] = True
    masks = PolygonMasks([POLYGON, []]) if as_polygons else BitMasks(masks)
    objects = truth(((20, 30, 120, 110), (130, 10, 150, 30)), (0, 1), gt_masks=masks)
    inputs = {"image": torch.full((3, 120, 160), 128.0), "instances": objects}
    picture = draw_input(inputs, None, dataset_name="visualize_names")[24:].astype(int)
    changed = np.abs(picture - 128).max(axis=2) > 20
    assert changed[3 * 46 : 3 * 59, 3 * 21 : 3 * 49].all() and not changed[3 * 15, 3 * 145]
    assert not changed[3 * 62 : 3 * 108, 3 * 22 : 3 * 118].any()


def test_images_of_one_name_have_pictures_of_their_own(tmp_path):
    names = ("p0/same.jpg", "p1/same.jpg", "p1/same.png")
    results = [{"image_id": 1, "category_id": 1, "bbox": [20, 30, 100, 80], "score": 0.9}]
    written = write(tmp_path, [], results, names)
    assert [path.name for path in written] == ["same_0.png", "same_1.png", "same_2.png"]
    pictures = [cv2.imread(str(path)) for path in written]
    assert (pictures[0] == pictures[2]).all() and (pictures[0] != pictures[1]).any()
