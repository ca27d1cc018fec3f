"""Low frequencies of the others, high ones of the site."""

from __future__ import annotations

import math

import pytest
import torch

from imagingai.federated.fourier import merge, share_in

SHAPES = {"scalar": (), "bias": (7,), "linear": (4, 6), "convolution": (3, 2, 3, 3), "convolution_3d": (3, 2, 3, 2, 5)}


def weights(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {name: torch.randn(shape) for name, shape in SHAPES.items()}


def test_share_0_is_the_own_network_and_share_1_the_received_one():
    own, received = weights(1), weights(2)
    for name in SHAPES:
        assert torch.equal(merge(own, received, 0.0)[name], own[name])
        assert torch.equal(merge(own, received, 1.0)[name], received[name])


def test_slow_waves_come_from_the_others_and_fast_ones_stay():
    """A wave of 1 and one of 7 cycles in 16 weights: with a share of 0.5 frequencies up to 4 cycles are taken over."""
    place = torch.arange(16) / 16
    slow, fast = torch.cos(2 * math.pi * place), torch.sin(2 * math.pi * 7 * place)
    own, received = {"w": 5 * slow + 2 * fast}, {"w": 1 * slow + 9 * fast}
    torch.testing.assert_close(merge(own, received, 0.5)["w"], 1 * slow + 2 * fast)


def test_any_share_takes_over_the_mean_of_every_tensor():
    own, received = weights(1), weights(2)
    merged = merge(own, received, 0.01)
    for name in SHAPES:
        torch.testing.assert_close(merged[name].mean(), received[name].mean())


def test_a_larger_share_is_nearer_to_the_others():
    own, received = weights(1), weights(2)
    far = [
        [float((merge(own, received, share)[name] - received[name]).norm()) for share in (0.0, 0.4, 0.7, 1.0)]
        for name in ("linear", "convolution", "convolution_3d")
    ]
    assert all(distances == sorted(distances, reverse=True) and distances[1] < distances[0] for distances in far)


def test_a_kernel_is_a_matrix_of_out_times_rows_and_in_times_columns():
    """What changes from out to out and from row to row is one slow wave along the first axis of that matrix."""
    own, pattern = torch.zeros(4, 2, 4, 3), torch.cos(2 * math.pi * torch.arange(16) / 16)
    received = pattern.reshape(4, 1, 4, 1).expand(4, 2, 4, 3)
    torch.testing.assert_close(merge({"w": own}, {"w": received}, 0.2)["w"], received.contiguous())


def test_whole_numbers_are_taken_as_received():
    merged = merge({"n": torch.tensor([1, 2])}, {"n": torch.tensor([5, 7])}, 0.5)
    assert merged["n"].tolist() == [5, 7]


def test_the_share_rises_linearly_to_1():
    assert [share_in(round, 5, 0.2) for round in (1, 2, 3, 5)] == pytest.approx([0.2, 0.4, 0.6, 1.0])
    assert share_in(1, 1, 0.2) == 1.0
