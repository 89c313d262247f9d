"""All published SALT-Nets from an image to detections against the reference arrays.

One test a model, for the larger ones take seconds to build; the first misfit is the earliest in the network.
"""

import pytest

from tests.modeling.salt.end_to_end import Inference

SMALL = (96, 128)
# Name of the case -> config, size of the image, by how much it was resized.
CASES = {
    "salt_r50_fpn_1x": ("salt/salt_r50_fpn_1x", (240, 300), 0.5),
    "salt_x10132d_DCN_fpn_2x": ("salt/salt_x101_32x4d_fpn_dcn_2x_ms", SMALL, 1.0),
    "salt_x10132d_DCNX_fpn_2x": ("salt/salt_x101_32x4d_fpn_dcnx_2x_ms", SMALL, 1.0),
    "salt_r2101_DCN_fpn_2x": ("salt/salt_r2_101_fpn_dcn_2x_ms", SMALL, 1.0),
    "salt_r2101_DCNX_fpn_2x": ("salt/salt_r2_101_fpn_dcnx_2x_ms", SMALL, 1.0),
}


@pytest.mark.parametrize("name", CASES)
def test_from_image_to_detections(name, device):
    leaf, size, scale = CASES[name]
    run = Inference(leaf, name, size, scale, device)
    run.check_image()
    run.check_statistics()
    run.check_levels()
    run.check_outputs()
    run.check_detections()
