"""Networks as backbones: their maps, and weights of classifiers that find their places in them."""

from __future__ import annotations

import pytest
import timm
import torch

from leanconv.networks import features

NARROW = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}


@pytest.mark.parametrize(
    ("name", "options", "channels"),
    [
        ("resnet18", {}, [64, 128, 256, 512]),  # its map of stride 2 is left out
        ("convnext_atto", NARROW, [8, 16, 24, 32]),
        ("swin_tiny_patch4_window7_224", {"img_size": 64, "embed_dim": 12, "depths": (1, 1, 1, 1)}, [12, 24, 48, 96]),
        ("convnext_tiny_1d", {**NARROW, "kernel_sizes": (7, 7, 5, 3)}, [8, 16, 24, 32]),
        ("pix_resnet50", {}, [256, 512, 1024, 2048]),
    ],
)
def test_maps_and_weights_of_a_classifier(name, options, channels):
    package = {"convnext_tiny_1d": "dwoconv1d", "pix_resnet50": "pix"}.get(name)
    if package:
        pytest.importorskip(package)
    backbone = features(name, drop_path_rate=0.1, **options).eval()
    assert (backbone.channels, backbone.reductions) == (channels, [4, 8, 16, 32])
    x = torch.randn(1, 3, 64, 64)
    assert [tuple(each.shape) for each in backbone(x)] == [
        (1, c, 64 // r, 64 // r) for c, r in zip(channels, (4, 8, 16, 32))
    ]
    classifier = timm.create_model(name, **options).eval()
    missing, unexpected = backbone.load_state_dict(classifier.state_dict(), strict=False)
    assert set(missing) == backbone.starts_fresh() and len(missing) == (8 if package == "dwoconv1d" else 0)
    assert unexpected
    for key, value in backbone.state_dict().items():
        if key not in missing:
            plain = key.removeprefix("model.").replace("_", ".")
            assert any(
                torch.equal(value, v) for k, v in classifier.state_dict().items() if k.replace("_", ".") == plain
            )
    assert backbone.load_state_dict(backbone.state_dict()).missing_keys == []


def test_what_cannot_be_a_backbone_is_said():
    with pytest.raises(ValueError, match="no network is called 'resnet'"):
        features("resnet")
    pytest.importorskip("smpconv")
    with pytest.raises(ValueError, match="smp_tcn cannot be a backbone"):
        features("smp_tcn", in_chans=1)
