"""The rules of OpenImages' evaluation, written as loops over images, classes and boxes."""

import numpy as np


def score_by_loops(truth, detections, judged, group_weight=1.0):
    """Return AP of each class, NaN without objects.

    Args:
        truth: rows (image, class, box, group), expanded.
        detections: rows (image, class, box, score), expanded.
        judged: function of image and class: whether detections count there.
    """
    ap = []
    for number in range(1 + max([row[1] for row in [*truth, *detections]], default=-1)):
        of_class = [row for row in truth if row[1] == number]
        outcome = []
        for image in {row[0] for row in detections}:
            if not judged(image, number):
                continue
            single = [row[2] for row in of_class if row[0] == image and not row[3]]
            groups = [row[2] for row in of_class if row[0] == image and row[3]]
            found = [row for row in detections if row[:2] == (image, number)]
            outcome += _one_place(single, groups, sorted(found, key=lambda row: -row[3]), group_weight)
        ap.append(_area(sorted(outcome, key=lambda item: -item[0]), len(of_class)) if of_class else np.nan)
    return np.array(ap)


def _one_place(single, groups, found, group_weight):
    """Return (score, true, false) of what counts."""
    outcome, taken, met = [], set(), {}
    for *_, box, score in found:
        overlaps = [iou(box, other) for other in single]
        best = int(np.argmax(overlaps)) if overlaps else None
        if best is not None and overlaps[best] >= 0.5 and best not in taken:
            taken.add(best)
            outcome.append((score, 1.0, 0.0))
            continue
        shares = [shared(box, other) / area(box) for other in groups]
        if shares and max(shares) >= 0.5:
            group = int(np.argmax(shares))
            met[group] = max(met.get(group, 0.0), score)
        else:
            outcome.append((score, 0.0, 1.0))
    return outcome + [(score, group_weight, 0.0) for score in met.values()]


def _area(outcome, objects):
    true = false = 0.0
    recall, precision = [0.0], []
    for _, hit, miss in outcome:
        true, false = true + hit, false + miss
        recall.append(true / objects)
        precision.append(true / (true + false) if true else 0.0)
    return sum((recall[k + 1] - recall[k]) * max(precision[k:]) for k in range(len(precision)))


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def shared(a, b):
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def iou(a, b):
    return shared(a, b) / (area(a) + area(b) - shared(a, b))
