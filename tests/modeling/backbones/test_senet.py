"""SENet-154: names and shapes of its ImageNet file, deformable convolutions, and a pyramid on it."""

import pytest
import torch

from htd.checkpoint.imagenet import convert_imagenet
from htd.modeling.backbones import build_senet154
from tests.modeling.backbones.conftest import DEFORMABLE, pictures
from tests.recorded import manifest

# One block a stage, as wide as the large network: a third of its parameters.
SMALL = {"num_blocks": (1, 1, 1, 1)}


@pytest.mark.parametrize("deform_stages", [(), DEFORMABLE])
def test_names_and_shapes_of_the_imagenet_file(deform_stages):
    """Nothing of the file is left but the classifier; nothing of the network but offsets, which are new."""
    entries = manifest("tsd", "manifest_senet154")["entries"]
    with torch.device("meta"):
        weights = {name: torch.empty(shape) for name, shape in entries.items()}
        network = build_senet154(deform_stages=deform_stages)
    converted, dropped = convert_imagenet(weights, prefix="")
    assert dropped == ["last_linear.weight", "last_linear.bias"]
    missing, unexpected = network.load_state_dict(converted, strict=False, assign=True)
    assert not unexpected and all(".conv2.offset." in name for name in missing)
    # Blocks of res3 to res5, a weight and a bias each.
    assert len(missing) == (2 * (8 + 36 + 3) if deform_stages else 0)


def test_deformable_layers_begin_as_ordinary_ones():
    torch.manual_seed(0)
    plain = build_senet154(out_features=["res2", "res3"], **SMALL).eval()
    deformed = build_senet154(deform_stages=["res3"], out_features=["res2", "res3"], **SMALL).eval()
    missing, unexpected = deformed.load_state_dict(plain.state_dict(), strict=False)
    assert missing == ["res3.0.conv2.offset.weight", "res3.0.conv2.offset.bias"] and not unexpected
    assert deformed.res3[0].conv2.offset.weight.shape == (18, 256, 3, 3)
    assert not hasattr(plain, "res4")
    x = pictures(64, 96, 1)
    with torch.no_grad():
        found, wanted = deformed(x), plain(x)
        torch.testing.assert_close(found["res3"], wanted["res3"], rtol=1e-4, atol=1e-4)
        deformed.res3[0].conv2.offset.bias.fill_(0.5)
        assert (deformed(x)["res3"] - wanted["res3"]).abs().max() > 0.01
