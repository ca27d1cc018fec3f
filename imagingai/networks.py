"""The networks that several features share: the U-Net of Czolbe et al. (2023), paper 1, and its auto-encoder, in 2-D and 3-D."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

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

    def __init__(
        self, dimension: int, channels: tuple[int, ...], outputs: int, skips: bool = True, inputs: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        conv = CONV[dimension]
        pairs = list(zip((inputs, *channels), channels, strict=False))
        self.skips, self.outputs, self.dimension, self.width = skips, outputs, dimension, 2 * FINE
        self.stages = nn.ModuleList(
            nn.Sequential(_Block(dimension, i, o, kernel=4, stride=2), _Block(dimension, o, o, kernel=3, stride=1)) for i, o in pairs
        )
        self.merges = nn.ModuleList(conv(o, i, 1) for i, o in pairs[:0:-1])
        self.decoder = nn.ModuleList(_Block(dimension, i, i, kernel=3, stride=1) for i, _ in pairs[:0:-1])
        self.head = conv(channels[0], (FINE if skips else outputs) * 2**dimension, 1)
        if skips:
            self.fine = _Block(dimension, inputs, FINE, kernel=3, stride=1)
            self.last = nn.Sequential(_Block(dimension, 2 * FINE, 2 * FINE, kernel=3, stride=1), conv(2 * FINE, outputs, 1))
        before = [*channels[-2::-1], channels[0]]  # before every block of the decoder and its head
        self.dropouts = nn.ModuleList(ChannelDropout(dropout, count) if dropout else nn.Identity() for count in before)

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
        for merge, block, skip, drop in zip(self.merges, self.decoder, levels[-2::-1], self.dropouts[:-1], strict=True):
            x = F.interpolate(merge(x), scale_factor=2.0)
            x = block(drop(x + skip if self.skips else x))
            outputs.append(x)
        return outputs

    def forward(self, image: Tensor) -> Tensor:
        """Logits, or the reconstructed image, (B, outputs, *grid)."""
        levels = self.encode(image)
        return self.last[1](self._finest(image, levels)) if self.skips else unshuffle(self.head(self.decode(levels)[-1]), self.outputs)

    def last_features(self, image: Tensor) -> Tensor:
        """What the logits are made of, (B, 16, *grid)."""
        return self._finest(image, self.encode(image))

    def drop_head(self) -> None:
        """Keep the features only."""
        self.last[1] = nn.Identity()

    def sample(self, image: Tensor, seeds: Sequence[int]) -> Tensor:
        """Logits (B, S, outputs, *grid) with the channels dropped that each seed draws; S == 1 without dropout."""
        levels = self.encode(image)
        return draw_samples(self.dropouts, seeds, lambda: self.last[1](self._finest(image, levels)))

    def _finest(self, image: Tensor, levels: list[Tensor]) -> Tensor:
        """What the logits are made of: the decoded features and those of the image, at full size."""
        decoded = self.dropouts[-1](self.decode(levels)[-1])
        return self.last[0](torch.cat([unshuffle(self.head(decoded), FINE), self.fine(image)], 1))

    def features(self, image: Tensor) -> list[Tensor]:
        """Level 0 is the end of the decoder (full size with skips, half without), levels 1, 2 ... are those of the encoder."""
        levels = self.encode(image)
        return [self._finest(image, levels) if self.skips else self.decode(levels)[-1], *levels]


class _Block(nn.Sequential):
    def __init__(self, dimension: int, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__(
            CONV[dimension](inputs, outputs, kernel, stride, padding=1, bias=False),
            NORM[dimension](outputs, affine=True),
            nn.LeakyReLU(0.2, inplace=True),
        )


class ChannelDropout(nn.Module):
    """Drops whole channels: in training every image its own, when sampling those of `mask`, otherwise none.

    Channels, not voxels: a dropped channel is dropped everywhere, so that a sample is coherent over the whole image.
    """

    def __init__(self, probability: float, channels: int) -> None:
        super().__init__()
        self.keep, self.channels = 1 - probability, channels
        self.mask: Tensor | None = None

    def draw(self, random: torch.Generator) -> None:
        """Choose the channels of one sample."""
        self.mask = (torch.rand(self.channels, generator=random) < self.keep) / self.keep

    def forward(self, x: Tensor) -> Tensor:
        """x with some channels 0 and the others scaled by 1 / keep."""
        shape = (x.shape[1], *[1] * (x.dim() - 2))
        if self.training:
            return x * ((torch.rand(x.shape[0], *shape, device=x.device) < self.keep) / self.keep)
        return x if self.mask is None else x * self.mask.to(x).reshape(shape)


def draw_samples(dropouts: Iterable[nn.Module], seeds: Sequence[int], logits: Callable[[], Tensor]) -> Tensor:
    """Logits (B, S, ...), one for each seed, which draws the channels to drop; without dropout there is only one: S == 1."""
    layers = [layer for layer in dropouts if isinstance(layer, ChannelDropout)]
    if not layers:
        return logits()[:, None]
    samples = []
    for seed in seeds:
        random = torch.Generator().manual_seed(seed)
        for layer in layers:
            layer.draw(random)
        samples.append(logits())
    for layer in layers:
        layer.mask = None
    return torch.stack(samples, 1)


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
