"""What leaves a site and what stays there, by name."""

from __future__ import annotations

import pytest
from torch import nn

from imagingai.errors import InputError
from imagingai.federated.sharing import private_names, shared_names

HEAD = ["3.weight", "3.bias"]


def network(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), norm, nn.ReLU(), nn.Linear(2, 2))


def test_everything_but_the_counter_of_batches_is_shared():
    assert shared_names(network(nn.BatchNorm2d(2)), "none", HEAD) == [
        *("0.weight", "0.bias"),
        *("1.weight", "1.bias", "1.running_mean", "1.running_var"),
        *("3.weight", "3.bias"),
    ]


def test_fedbn_keeps_the_normalization_layers():
    assert private_names(network(nn.BatchNorm2d(2)), "norm", HEAD) == ["1.weight", "1.bias", "1.running_mean", "1.running_var"]
    assert shared_names(network(nn.InstanceNorm2d(2, affine=True)), "norm", HEAD) == ["0.weight", "0.bias", "3.weight", "3.bias"]


def test_silobn_keeps_the_statistics_only():
    assert private_names(network(nn.BatchNorm2d(2)), "statistics", HEAD) == ["1.running_mean", "1.running_var"]


def test_a_private_head_shares_the_encoder():
    assert private_names(network(nn.BatchNorm2d(2)), "head", HEAD) == HEAD
    assert "3.weight" not in shared_names(network(nn.BatchNorm2d(2)), "head", HEAD)


def test_normalization_layers_inside_of_a_monai_network_are_found():
    from monai.networks.nets import BasicUNet

    unet = BasicUNet(spatial_dims=2, features=(4, 4, 4, 4, 4, 4), norm=("batch", {"affine": True}))
    kept = private_names(unet, "statistics", [])
    assert kept == [name for name in unet.state_dict() if name.endswith(("running_mean", "running_var"))]
    assert len(kept) > 10


@pytest.mark.parametrize(
    ("private", "layers", "head", "message"),
    [
        ("norm", nn.Identity(), HEAD, "--private norm: the network has no normalization layers with weights. Take --private none."),
        (
            "statistics",
            nn.InstanceNorm2d(2, affine=True),
            HEAD,
            "--private statistics: the network has no layers that keep statistics. "
            "Take --private none, or --normalization batch for a classifier.",
        ),
        ("head", nn.Identity(), [], "--private head: the network has no last layers. Take --private none."),
        (
            "head",
            nn.Identity(),
            ["0.weight", "0.bias", *HEAD],
            "--private head keeps all 4 tensors of the network at the site. Take --private none.",
        ),
    ],
)
def test_what_cannot_stay_private_is_said(private, layers, head, message):
    with pytest.raises(InputError) as error:
        shared_names(network(layers), private, head)
    assert str(error.value) == message
