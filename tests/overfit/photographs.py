"""Eight real photographs with few and not too small objects, for every system to learn by heart."""

import collections
import json
from pathlib import Path

FOLDER = Path(__file__).parents[3] / "shared" / "tiny_coco"
IMAGES = FOLDER / "train2017"
ANNOTATIONS = FOLDER / "annotations" / "instances_train2017.json"
COUNT, OBJECTS, SMALLEST_AREA = 8, range(1, 6), 32**2


def write_selection(path: Path) -> None:
    """Write the first eight images by id with 1 to 5 objects, all of at least 32 x 32 pixels."""
    source = json.loads(ANNOTATIONS.read_text())
    of_image = collections.defaultdict(list)
    for annotation in source["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    images = [
        image
        for image in sorted(source["images"], key=lambda image: image["id"])
        if len(of_image[image["id"]]) in OBJECTS
        and all(a["area"] >= SMALLEST_AREA for a in of_image[image["id"]])
    ][:COUNT]
    annotations = [a for image in images for a in of_image[image["id"]]]
    present = {a["category_id"] for a in annotations}
    categories = [c for c in source["categories"] if c["id"] in present]
    selection = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(selection))
