"""Semantic maps: without labels, missing, of wrong size, padded."""

import pytest
import torch

from tests.configs.reduced import build, example
from tests.modeling.htc.small import HTC, changed, heads_inputs, seeded_losses, without_gradient


@pytest.fixture(scope="module")
def htc():
    return build(HTC)


@pytest.mark.parametrize("objects", [(2, 1), (0, 0)])
def test_maps_without_labels(htc, objects):
    inputs = [example(n, seed=i) for i, n in enumerate(objects)]
    for item in inputs:
        item["sem_seg"] = torch.full_like(item["sem_seg"], 255)
    losses, _ = seeded_losses(htc, [inputs])
    assert losses["loss_sem_seg"] == 0 and all(torch.isfinite(loss) for loss in losses.values())
    assert not without_gradient(htc)
    # One image with labels decides alone: the mean is over labeled pixels.
    inputs[0]["sem_seg"] = example(0)["sem_seg"]
    both, _ = seeded_losses(htc, [inputs])
    alone, _ = seeded_losses(htc, [inputs[:1]])
    torch.testing.assert_close(both["loss_sem_seg"], alone["loss_sem_seg"])


def test_training_data_without_maps_are_refused(htc):
    inputs = example(2)
    del inputs["sem_seg"]
    with pytest.raises(ValueError, match="sem_seg"):
        htc.train()([inputs])


def test_image_that_lacks_its_map_is_named(htc):
    inputs = example(2) | {"file_name": "some/image.jpg"}
    del inputs["sem_seg"]
    with pytest.raises(Exception, match="image 1"):
        htc.train()([example(1), inputs])


def test_maps_that_do_not_fit_are_refused(htc):
    inputs = list(heads_inputs((3,)))
    inputs[-1] = inputs[-1][:, :32]
    with pytest.raises(ValueError, match=r"\(32, 96\)"):
        htc.roi_heads.train()(*inputs)


@pytest.mark.parametrize("size", [(32, 96), (64, 128), (65, 97)])
def test_maps_of_another_size_than_their_image_are_refused(htc, size):
    inputs = example(1) | {"sem_seg": torch.zeros(size, dtype=torch.int64)}
    with pytest.raises(Exception, match="image 1"):
        htc.train()([example(1), inputs])


@pytest.mark.parametrize("ignore", [255, 3])
def test_maps_are_padded_with_the_ignore_value(ignore):
    def change(config):
        config.sem_seg_ignore_value = ignore

    model = changed(HTC, change)
    semantic = model.roi_heads.context.semantic
    assert semantic.ignore_value == ignore
    given = []
    semantic.loss = lambda logits, sem_seg: given.append(sem_seg) or 0 * logits.sum()
    inputs = [example(1), example(1, seed=1, size=(40, 120))]
    model(inputs)
    (padded,) = given
    assert padded.shape == (2, 64, 128) and padded.dtype == torch.int64
    for row, item in zip(padded, inputs, strict=True):
        height, width = item["sem_seg"].shape
        assert torch.equal(row[:height, :width], item["sem_seg"])
        assert (row[height:] == ignore).all() and (row[:, width:] == ignore).all()


def test_padding_does_not_change_the_semantic_loss(htc):
    """The mean is over the same labeled cells, however much ignored padding there is."""
    logits = torch.randn(1, 183, 8, 16, generator=torch.Generator().manual_seed(0))
    labels = example(0)["sem_seg"][None]
    loss = htc.roi_heads.context.semantic.loss
    padded = torch.nn.functional.pad(labels, (0, 32), value=255)
    torch.testing.assert_close(loss(logits, padded), loss(logits[..., :12], labels))


def test_semantic_loss_by_hand(htc):
    """Equal logits give 0.2 * ln(183); the label is read at the top left pixel of each block of 8."""
    semantic = htc.roi_heads.context.semantic
    labels = torch.full((1, 16, 16), 255)
    labels[:, 0, 8] = 2
    labels[:, 1:8, 9:] = 7
    assert semantic.labels(labels).tolist() == [[[255, 2], [255, 255]]]
    loss = semantic.loss(torch.zeros(1, 183, 2, 2), labels)
    torch.testing.assert_close(loss, 0.2 * torch.tensor(183.0).log())
