"""The networks of Czolbe et al. (2021), "Is segmentation uncertainty useful?", section 3, on MONAI's blocks, in 2-D and 3-D.

Every network draws samples: `sample(image, seeds)` gives logits (B, S, K, *grid), one for each seed. What is random in
a sample is drawn from its seed once for the whole image, not for each window, so that windows of one sample fit together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.blocks import ResidualUnit
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence

from imagingai.networks import CONV, NETWORKS, ChannelDropout, UNet, draw_samples

POOL = {2: F.avg_pool2d, 3: F.avg_pool3d}
LINEAR = {2: "bilinear", 3: "trilinear"}

# channels of the blocks and convolutions per block; the paper is 2-D: 32-64-128-192, three convolutions
SIZES: dict[str, dict[int, tuple[tuple[int, ...], int]]] = {
    "unet": {2: ((32, 64, 128, 192), 3), 3: ((16, 32, 64, 128), 2)},
    "light": {2: ((16, 32, 64, 96), 3), 3: ((8, 16, 32, 64), 2)},
    "fast": {2: ((16, 32, 64, 96), 2), 3: ((8, 16, 32, 64), 1)},  # of the latent encoders; the U-Net is that of networks.py
}
STAGES = 3  # the networks halve three times


class SegmentationUNet(nn.Module):
    """U-Net of section 4.2: blocks of convolutions with a residual connection, average pooling, linear upsampling.

    (B, C, *grid) -> logits (B, K, *grid); every axis of the grid must be a multiple of 8. With `dropout` there is a
    dropout layer before every block and the head, but not before the first block: it would drop the image.
    """

    def __init__(self, dimension: int, channels: int, outputs: int, size: str, dropout: float = 0.0) -> None:
        super().__init__()
        features, convolutions = SIZES[size][dimension]
        pairs = list(zip((channels, *features), features, strict=False))
        self.dimension, self.width = dimension, features[0]
        self.encoder = nn.ModuleList(_block(dimension, i, o, convolutions) for i, o in pairs)
        self.decoder = nn.ModuleList(_block(dimension, i + o, i, convolutions) for i, o in pairs[:0:-1])
        self.head = CONV[dimension](self.width, outputs, 1)
        inputs = [i for i, _ in pairs[1:]] + [i + o for i, o in pairs[:0:-1]] + [self.width]
        self.dropouts = nn.ModuleList(ChannelDropout(dropout, count) if dropout else nn.Identity() for count in inputs)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K, *grid); no dropout unless training or a sample is drawn."""
        return self.head(self.dropouts[-1](self.last_features(image)))

    def last_features(self, image: Tensor) -> Tensor:
        """What the head sees (B, width, *grid)."""
        return self._rest(self.encoder[0](image))

    def drop_head(self) -> None:
        """Keep the features only."""
        self.head = nn.Identity()

    def sample(self, image: Tensor, seeds: Sequence[int]) -> Tensor:
        """Logits (B, S, K, *grid). Without dropout all samples are the same, and there is only one: S == 1."""
        first = self.encoder[0](image)  # the first block has no dropout: once for all
        return draw_samples(self.dropouts, seeds, lambda: self.head(self.dropouts[-1](self._rest(first))))

    def _rest(self, x: Tensor) -> Tensor:
        """All after the first block."""
        levels, dropouts = [x], iter(self.dropouts)
        for block in self.encoder[1:]:
            x = block(next(dropouts)(POOL[self.dimension](x, 2)))
            levels.append(x)
        for block, skip in zip(self.decoder, levels[-2::-1], strict=True):
            up = F.interpolate(x, scale_factor=2.0, mode=LINEAR[self.dimension], align_corners=False)
            x = block(next(dropouts)(torch.cat([up, skip], 1)))
        return x


class LatentEncoder(nn.Module):
    """Normal distribution of the latent vector: the encoding branch, pooled over the whole image so that any size fits."""

    def __init__(self, dimension: int, channels: int, size: str, latent: int) -> None:
        super().__init__()
        features, convolutions = SIZES[size][dimension]
        self.dimension = dimension
        self.blocks = nn.ModuleList(_block(dimension, i, o, convolutions) for i, o in zip((channels, *features), features, strict=False))
        self.head = nn.Linear(features[-1], 2 * latent)

    def forward(self, x: Tensor) -> Independent:
        """Distribution over (B, latent)."""
        for number, block in enumerate(self.blocks):
            x = block(POOL[self.dimension](x, 2) if number else x)
        mean, log_deviation = self.head(x.flatten(2).mean(2)).float().chunk(2, 1)
        return Independent(Normal(mean, log_deviation.clamp(-8, 8).exp()), 1)


class ProbabilisticUNet(nn.Module):
    """Kohl et al. (2018) as in section 3 of the paper: a U-Net whose last features are joined with a latent vector.

    The prior sees the image, the posterior the image and the labels of a reader.
    """

    def __init__(self, dimension: int, channels: int, outputs: int, size: str, latent: int = 6) -> None:
        super().__init__()
        self.unet = make_unet(dimension, channels, outputs, size)
        self.prior = LatentEncoder(dimension, channels, size, latent)
        self.posterior = LatentEncoder(dimension, channels + outputs, size, latent)
        self.outputs, self.latent, conv = outputs, latent, CONV[dimension]
        width = self.unet.width
        self.unet.drop_head()  # `combine` takes its place
        layers = [layer for k in range(3) for layer in (conv(width + (0 if k else latent), width, 1), nn.ReLU(inplace=True))]
        self.combine = nn.Sequential(*layers, conv(width, outputs, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Logits at the mean of the prior (B, K, *grid)."""
        return self._segment(self.unet.last_features(image), self.prior(image).mean)

    def sample(self, image: Tensor, seeds: Sequence[int]) -> Tensor:
        """Logits (B, S, K, *grid) with z drawn from the prior; the U-Net itself runs once."""
        features, prior = self.unet.last_features(image), self.prior(image).base_dist
        noise = [torch.randn(self.latent, generator=torch.Generator().manual_seed(seed)).to(prior.loc) for seed in seeds]
        return torch.stack([self._segment(features, prior.loc + prior.scale * e) for e in noise], 1)

    def learn(self, image: Tensor, labels: Tensor, draw: bool = True) -> tuple[Tensor, Tensor]:
        """Logits with z of the posterior, drawn or its mean, and KL(posterior || prior) averaged over the batch."""
        onehot = F.one_hot(labels, self.outputs).movedim(-1, 1).to(image)
        prior, posterior = self.prior(image), self.posterior(torch.cat([image, onehot], 1))
        z = posterior.rsample() if draw else posterior.mean
        return self._segment(self.unet.last_features(image), z), kl_divergence(posterior, prior).mean()

    def _segment(self, features: Tensor, z: Tensor) -> Tensor:
        tiled = z.to(features)[(..., *[None] * self.unet.dimension)].expand(-1, -1, *features.shape[2:])
        return self.combine(torch.cat([features, tiled], 1))


def make_unet(dimension: int, channels: int, outputs: int, size: str, dropout: float = 0.0) -> nn.Module:
    """The U-Net of a size: that of the paper and its light one, or the fast one of the feature extractors."""
    if size == "fast":
        return UNet(dimension, NETWORKS["unet"][dimension], outputs, inputs=channels, dropout=dropout)
    return SegmentationUNet(dimension, channels, outputs, size, dropout)


def _block(dimension: int, inputs: int, outputs: int, convolutions: int) -> ResidualUnit:
    return ResidualUnit(
        dimension, inputs, outputs, subunits=convolutions, act=("leakyrelu", {"negative_slope": 0.01}), norm=("instance", {"affine": True})
    )
