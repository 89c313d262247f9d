"""The published files of SALT-Net, and of dense detectors with SALT, as key lists."""

from tests.checkpoint import whole
from tests.checkpoint.test_dense_files import ATSS, FCOS, RETINANET, whole_file

R50, R50_2X = "salt/salt_r50_fpn_1x", "salt/salt_r50_fpn_2x_ms"
X101_DCN, X101_DCNX = "salt/salt_x101_32x4d_fpn_dcn_2x_ms", "salt/salt_x101_32x4d_fpn_dcnx_2x_ms"
R2_101_DCN, R2_101_DCNX = "salt/salt_r2_101_fpn_dcn_2x_ms", "salt/salt_r2_101_fpn_dcnx_2x_ms"
# Config -> manifest.
SALT_NET = {
    R50: "manifest_salt_r50_fpn_1x",
    R50_2X: "manifest_salt_r50_fpn_2x",
    X101_DCN: "manifest_salt_x10132d_DCN_fpn_2x",
    X101_DCNX: "manifest_salt_x10132d_DCNX_fpn_2x",
    R2_101_DCN: "manifest_salt_r2101_DCN_fpn_2x",
    R2_101_DCNX: "manifest_salt_r2101_DCNX_fpn_2x",
}
SALT_ATSS, SALT_FCOS = "salt/salt_atss_r50_fpn_1x", "salt/salt_fcos_r50_fpn_1x"
SALT_RETINANET = "salt/salt_retinanet_r50_fpn_1x"
# Config -> manifest of its head, config of the detector without SALT.
PLUG_INS = {
    SALT_ATSS: ("manifest_plugin_atss", ATSS),
    SALT_FCOS: ("manifest_plugin_fcos", FCOS),
    SALT_RETINANET: ("manifest_plugin_retina", RETINANET),
}
# The heads of these manifests have a layer less than the configs.
THREE_LAYERS = "model.head.towers.towers.num_convs=3"


def salt_net(config: str, device: str = "meta") -> dict:
    """Return the published file of a SALT-Net."""
    return whole.file_of("salt", SALT_NET[config], device)


def head_of(config: str) -> dict:
    """Return the published head of a dense detector with SALT."""
    return whole.file_of("salt", PLUG_INS[config][0])


def plug_in(config: str) -> dict:
    """Return a dense detector with SALT: the detector's own file, and what the head has besides."""
    return whole_file(PLUG_INS[config][1]) | head_of(config)
