"""What is published of SALT-Net, leaf by leaf, and how the detectors with SALT differ from their hosts."""

from tests.configs.dense_tables import GFL, Phase


def coarse_loss(weighting: str, least: str, weight: float) -> tuple:
    """Loss, divisor and weight of the coarse boxes, weighted like the boxes of the end."""
    loss = f"CoarseBoxLoss(weighting={weighting}(), target=AssignedBox(), eps=1e-07)"
    return (loss, f"CoarseWeightSum(weighting={weighting}(), least={least})", weight)


SALT = GFL._replace(
    towers=("TwinTowers", 3, 32),
    phases=tuple(
        Phase(assigner, losses | {"loss_box_reg_init": coarse_loss("BestScore", "0", 1)})
        for assigner, losses in GFL.phases
    ),
)
# The published file of the same training, in the parameter list under tests/golden; another than its leaf.
MANIFESTS = {
    "salt/salt_r50_fpn_1x": "manifest_salt_r50_fpn_1x",
    "salt/salt_r50_fpn_2x_ms": "manifest_salt_r50_fpn_2x",
    "salt/salt_x101_32x4d_fpn_dcn_2x_ms": "manifest_salt_x10132d_DCN_fpn_2x",
    "salt/salt_x101_32x4d_fpn_dcnx_2x_ms": "manifest_salt_x10132d_DCNX_fpn_2x",
    "salt/salt_r2_101_fpn_dcn_2x_ms": "manifest_salt_r2101_DCN_fpn_2x",
    "salt/salt_r2_101_fpn_dcnx_2x_ms": "manifest_salt_r2101_DCNX_fpn_2x",
}
# Host, whether the map is added to its class features, and the coarse losses of its phases.
PLUG_INS = {
    "salt/salt_retinanet_r50_fpn_1x": (
        "baselines/retinanet_r50_fpn_1x",
        True,
        [coarse_loss("AssignedMetric", "1", 0.5)],
    ),
    "salt/salt_fcos_r50_fpn_1x": (
        "baselines/fcos_r50_fpn_1x",
        True,
        [coarse_loss("Centerness", "1e-06", 0.5)],
    ),
    "salt/salt_atss_r50_fpn_1x": (
        "baselines/atss_r50_fpn_1x",
        True,
        [coarse_loss("Centerness", "1", 1)],
    ),
    "salt/salt_gfl_r50_fpn_1x": ("baselines/gfl_r50_fpn_1x", True, [coarse_loss("BestScore", "0", 1)]),
    "salt/salt_tood_r50_fpn_1x": (
        "tood/tood_r50_fpn_1x",
        False,
        [coarse_loss("Centerness", "1", 1), coarse_loss("AssignedMetric", "1", 1)],
    ),
}
# What a body is built of, and its first weights.
BACKBONES = {
    "r50": ({"depth": 50, "groups": 1, "width_per_group": 64}, "torchvision/resnet50"),
    "x101_32x4d": ({"depth": 101, "groups": 32, "width_per_group": 4}, "mmdet/resnext101_32x4d"),
    "r2_101": ({"depth": 101, "base_width": 26, "splits": 4}, "mmdet/res2net101_v1d_26w_4s"),
}
# Deformable stages, and the layers of these in each network.
DEFORMABLE = {
    "_dcn_": (["res4", "res5"], {"x101_32x4d": 26, "r2_101": 78}),
    "_dcnx_": (["res3", "res4", "res5"], {"x101_32x4d": 30, "r2_101": 90}),
}
# Epochs, iterations, and those at which the rate falls to a tenth, are those of the other dense detectors.
TRAINED_AT = {"1x": ([800], 1333, "choice"), "2x_ms": ([480, 960], 1333, "range")}
