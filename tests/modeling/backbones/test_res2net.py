"""Res2Net-101: the published network's numbers and names, deformable convolutions, bad arguments."""

import re

import pytest
import torch

from htd.checkpoint.formats.res2net import res2net_rules
from htd.layers.norms import FixedBatchNorm2d
from htd.modeling.backbones import build_res2net
from tests.modeling.backbones.conftest import DEFORMABLE, PARTS, pictures
from tests.recorded import arrays, close, manifest, published_weights, random_input, tensors

SEED = 61
# One block a stage and narrow.
SMALL = {"stem_channels": 16, "num_blocks": (1, 1, 1, 1)}


def renamed(published, prefix=""):
    """Return a dictionary with our names in the place of the published ones, of which none may be left."""
    rules = res2net_rules(prefix, "")
    ours = {name: next(filter(None, (rule.place(name) for rule in rules))) for name in published}
    assert len(set(ours.values())) == len(ours)
    return {ours[name]: value for name, value in published.items()}


def near(found, wanted, share):
    """Compare within 1e-4 of each value and a share of the largest."""
    close(found, wanted, atol=max(share * wanted.abs().max().item(), 1e-6), rtol=1e-4)


@pytest.mark.parametrize(("form", "deform_stages"), [("plain", ()), ("dcn", ["res3"])])
def test_first_blocks_of_a_stage(form, deform_stages, device):
    """Stride, split without addition, averaging of an odd size; then a block of the usual kind."""
    wanted = tensors("salt", "res2net_layer2")
    blocks = (1, 2, 1, 1)
    network = build_res2net(num_blocks=blocks, deform_stages=deform_stages, out_features=["res3"])
    name = "manifest_res2net_layer2" + ("_dcn" if deform_stages else "")
    weights = renamed(published_weights("salt", name))
    stage = network.res3.to(device)
    stage.load_state_dict({key.removeprefix("res3."): value for key, value in weights.items()})
    x = random_input("x", (2, 256, 9, 11), SEED).to(device).requires_grad_()
    near(stage[0](x), wanted[f"{form}_block0"], 1e-5)
    out = stage(x)
    near(out, wanted[f"{form}_out"], 1e-5)
    (out * random_input("grad_out", tuple(out.shape), SEED).to(device)).sum().backward()
    near(x.grad[:, ::16], wanted[f"{form}_grad_x_sub"], 1e-5)
    norm = wanted[f"{form}_grad_x_norm"]
    close(x.grad.norm(), norm, atol=1e-6 * norm.item(), rtol=2e-3)


@pytest.fixture(scope="module")
def published(device):
    """The whole published network, in training mode."""
    network = build_res2net()
    network.load_state_dict(renamed(published_weights("salt", "manifest_res2net101_v1d_26w_4s")))
    return network.to(device).train()


def test_whole_network(published, device):
    wanted = tensors("salt", "res2net101")
    x = random_input("image", (1, 3, 72, 88), SEED).to(device).requires_grad_()
    maps = published(x)
    assert list(maps) == list(PARTS[1:])
    total = 0
    for level in range(2, 6):
        found = maps[f"res{level}"]
        near(found, wanted[f"c{level}"], 1e-4)
        total += (found * random_input(f"grad_c{level}", tuple(found.shape), SEED).to(device)).sum()
    (gradient,) = torch.autograd.grad(total, x)
    near(gradient, wanted["grad_image"], 1e-4)


def test_what_is_trained(published):
    """Stem and res2 are not; the affine parameters of all other norms are, their statistics are fixed."""
    recorded = arrays("salt", "res2net101")
    wanted = renamed(
        dict(zip(recorded["param_names"], recorded["param_trainable"].astype(bool), strict=True))
    )
    assert {name: p.requires_grad for name, p in published.named_parameters()} == wanted
    kinds = {type(module) for module in published.modules() if "Norm" in type(module).__name__}
    assert kinds == {FixedBatchNorm2d}


@pytest.mark.parametrize(
    ("name", "prefix", "deform_stages"),
    [
        ("manifest_res2net101_v1d_26w_4s", "", ()),
        ("manifest_salt_r2101_DCN_fpn_2x", "backbone.", DEFORMABLE[1:]),
        ("manifest_salt_r2101_DCNX_fpn_2x", "backbone.", DEFORMABLE),
    ],
)
def test_names_and_shapes_of_published_files(name, prefix, deform_stages):
    entries = {k: tuple(v) for k, v in manifest("salt", name)["entries"].items() if k.startswith(prefix)}
    with torch.device("meta"):
        network = build_res2net(deform_stages=deform_stages)
    ours = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert renamed(entries, re.escape(prefix)) == ours


@pytest.mark.parametrize("modulated", [False, True])
def test_deformable_layers_begin_as_ordinary_ones(modulated):
    """The modulated ones give half, their weights being 0.5."""
    torch.manual_seed(0)
    settings = {**SMALL, "out_features": ["res3"]}
    plain = build_res2net(**settings).eval()
    deformed = build_res2net(deform_stages=["res3"], modulated=modulated, **settings).eval()
    missing, unexpected = deformed.load_state_dict(plain.state_dict(), strict=False)
    leaves = ("weight", "bias")
    assert missing == [f"res3.0.convs.{i}.offset.{leaf}" for i in range(3) for leaf in leaves]
    assert not unexpected
    for conv in deformed.res3[0].convs:
        assert conv.offset.weight.shape == (27 if modulated else 18, 13, 3, 3)
        conv.weight.data *= 2 if modulated else 1
    x = pictures(64, 96, 1)
    with torch.no_grad():
        found, wanted = deformed(x)["res3"], plain(x)["res3"]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        # Each convolution of a block has offsets of its own.
        for conv in deformed.res3[0].convs:
            conv.offset.bias[:18] = 0.5
            moved = deformed(x)["res3"]
            assert (moved - found).abs().max() > 0.01
            found = moved


def test_a_choice_of_outputs():
    """Stages after the last one that is asked for are not built; the others give what they give anyway."""
    torch.manual_seed(0)
    whole = build_res2net(**SMALL).eval()
    part = build_res2net(out_features=["res4", "res2"], **SMALL).eval()
    assert not hasattr(part, "res5")
    weights = {name: value for name, value in whole.state_dict().items() if not name.startswith("res5.")}
    part.load_state_dict(weights)
    x = pictures(32, 64)
    with torch.no_grad():
        found, wanted = part(x), whole(x)
    assert list(found) == list(part.output_shape()) == ["res4", "res2"]
    for name, value in found.items():
        assert torch.equal(value, wanted[name])


def test_settings():
    """Widths and depths of relatives: 50, with 8 splits of 14; 32 channels after the stem."""
    with torch.device("meta"):
        network = build_res2net(depth=50, base_width=14, splits=8, stem_channels=32)
    assert [len(getattr(network, name)) for name in PARTS[1:]] == [3, 4, 6, 3]
    block = network.res4[1]
    assert len(block.convs) == 7 and block.convs[0].weight.shape == (28, 28, 3, 3)
    assert block.conv1.weight.shape == (8 * 28, 512, 1, 1)
    assert network.stem[6].weight.shape == (32, 16, 3, 3)
