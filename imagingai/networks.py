"""The networks that several features share: the U-Net of Czolbe et al. (2023), paper 1, and its auto-encoder, in 2-D and 3-D."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
FINE = 8  # channels at full size
NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


class UNet(nn.Module):
    """Encoder of stages (conv 4x4 stride 2, conv 3x3, LeakyReLU 0.2) and a decoder that adds the skips.

    (B, 1, *grid) -> (B, outputs, *grid); every axis of the grid must be a multiple of 2 ** stages. The half-size level
    predicts the 2 ** D voxels of its block at once (sub-voxel convolution), which saves convolutions at full size; with
    skips, one convolution joins them with the fine detail of the image. Without skips it is an auto-encoder. Instance
    normalization makes it indifferent to the scale of the input.
    """

    def __init__(self, dimension: int, channels: tuple[int, ...], outputs: int, skips: bool = True) -> None:
        super().__init__()
        conv = CONV[dimension]
        pairs = list(zip((1, *channels), channels, strict=False))
        self.skips, self.outputs, self.dimension = skips, outputs, dimension
        self.stages = nn.ModuleList(
            nn.Sequential(_Block(dimension, i, o, kernel=4, stride=2), _Block(dimension, o, o, kernel=3, stride=1)) for i, o in pairs
        )
        self.merges = nn.ModuleList(conv(o, i, 1) for i, o in pairs[:0:-1])
        self.decoder = nn.ModuleList(_Block(dimension, i, i, kernel=3, stride=1) for i, _ in pairs[:0:-1])
        self.head = conv(channels[0], (FINE if skips else outputs) * 2**dimension, 1)
        if skips:
            self.fine = _Block(dimension, 1, FINE, kernel=3, stride=1)
            self.last = nn.Sequential(_Block(dimension, 2 * FINE, 2 * FINE, kernel=3, stride=1), conv(2 * FINE, outputs, 1))

    def encode(self, image: Tensor) -> list[Tensor]:
        """Output of every stage: (B, C, *grid / 2), (B, C', *grid / 4) ..."""
        levels = []
        for stage in self.stages:
            image = stage(image)
            levels.append(image)
        return levels

    def decode(self, levels: list[Tensor]) -> list[Tensor]:
        """Output of every decoder stage, coarse to fine; the last has half the size of the image."""
        x, outputs = levels[-1], []
        for merge, block, skip in zip(self.merges, self.decoder, levels[-2::-1], strict=True):
            x = F.interpolate(merge(x), scale_factor=2.0)
            x = block(x + skip if self.skips else x)
            outputs.append(x)
        return outputs

    def forward(self, image: Tensor) -> Tensor:
        """Logits, or the reconstructed image, (B, outputs, *grid)."""
        x = self.decode(self.encode(image))[-1]
        return self.last[1](self._finest(image, x)) if self.skips else unshuffle(self.head(x), self.outputs)

    def _finest(self, image: Tensor, decoded: Tensor) -> Tensor:
        """What the logits are made of: the decoded features and those of the image, at full size."""
        return self.last[0](torch.cat([unshuffle(self.head(decoded), FINE), self.fine(image)], 1))

    def features(self, image: Tensor) -> list[Tensor]:
        """Level 0 is the end of the decoder (full size with skips, half without), levels 1, 2 ... are those of the encoder."""
        levels = self.encode(image)
        decoded = self.decode(levels)[-1]
        return [self._finest(image, decoded) if self.skips else decoded, *levels]


class _Block(nn.Sequential):
    def __init__(self, dimension: int, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__(
            CONV[dimension](inputs, outputs, kernel, stride, padding=1, bias=False),
            NORM[dimension](outputs, affine=True),
            nn.LeakyReLU(0.2, inplace=True),
        )


def unshuffle(x: Tensor, outputs: int) -> Tensor:
    """Channels to voxels: (B, outputs * 2**D, *grid) -> (B, outputs, *2 grid)."""
    batch, dimension, grid = x.shape[0], x.dim() - 2, x.shape[2:]
    x = x.reshape(batch, outputs, *[2] * dimension, *grid)
    order = [axis for d in range(dimension) for axis in (2 + dimension + d, 2 + d)]
    return x.permute(0, 1, *order).reshape(batch, outputs, *[2 * n for n in grid])


# name: channels of the stages in 2-D and 3-D
NETWORKS: dict[str, dict[int, tuple[int, ...]]] = {
    "unet": {2: (64, 128, 256), 3: (32, 64, 128)},  # paper 1
    "light": {2: (32, 64, 128), 3: (16, 32, 64)},
}


def build(network: str, kind: str, dimension: int, outputs: int) -> UNet:
    """A row of `NETWORKS` as a segmentation network (kind "seg") or an auto-encoder ("ae", no skips)."""
    return UNet(dimension, NETWORKS[network][dimension], outputs, skips=kind == "seg")


def pad_to_multiple(image: Tensor, multiple: int = 8) -> Tensor:
    """Repeat the border of (B, C, *grid) at the end of every axis until its length is a multiple."""
    pad = [p for n in reversed(image.shape[2:]) for p in (0, -n % multiple)]
    return F.pad(image, pad, mode="replicate") if any(pad) else image


def parameters(network: torch.nn.Module) -> int:
    """Number of trained values."""
    return sum(p.numel() for p in network.parameters())
