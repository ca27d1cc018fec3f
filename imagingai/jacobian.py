"""How a displacement changes volumes, from finite differences: Jacobian determinants and non-diffeomorphic volume.

Works on arrays: displacement (3, X, Y, Z) float32 in RAS mm and affine (4, 4), voxel index -> RAS mm, so that it is
right on oblique and anisotropic grids. With one slice (Z == 1) volumes are areas.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F

SLAB = 1 << 18  # voxels that are worked on at once


def determinant(displacement: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """(X, Y, Z) float32, by central differences (one-sided at the edges) of the mapped voxel positions."""
    out = np.empty(displacement.shape[1:], np.float32)
    axes, data = _tensors(displacement, affine)
    for begin, end in _slabs(displacement.shape):
        first, last = max(begin - 1, 0), min(end + 1, len(out))
        part = data[:, first:last]
        columns = [axes[:, k].view(3, 1, 1, 1) + _derivative(part, k + 1) for k in range(_dimension(displacement))]
        out[begin:end] = _relative_volume(columns, axes)[begin - first : end - first].numpy()
    return out


def non_diffeomorphic_volume(displacement: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """How much of each cell between 8 voxels is turned inside out, in cells: (X-1, Y-1, Z-1), or (X-1, Y-1, 1) in 2-D.

    A cell splits into five tetrahedra in two ways; the negative volume of all ten, halved (Liu et al., On Finite
    Difference Jacobian Computation in Deformable Image Registration, IJCV 2024). In 2-D two triangles, two ways.
    It is zero only if the map is a digital diffeomorphism, which central differences alone do not tell.
    """
    axes, data = _tensors(displacement, affine)
    size = _dimension(displacement)
    cells = np.empty([n - 1 if k < size else 1 for k, n in enumerate(displacement.shape[1:])], np.float32)
    for begin, end in _slabs((3, *cells.shape)):
        part = data[:, begin : end + 1]
        edges = [axes[:, k].view(3, 1, 1, 1) + torch.diff(part, dim=k + 1) for k in range(size)]
        corners = [_relative_volume([_edge(e, k, c) for k, e in enumerate(edges)], axes) for c in product((0, 1), repeat=size)]
        inner = [_relative_volume(_diagonals(edges, odd), axes) for odd in (0, 1)] if size == 3 else []
        cells[begin:end] = sum(v.clamp(max=0) for v in (*corners, *inner)).numpy() * (-0.5 / (6 if size == 3 else 2))
    return cells


def _tensors(displacement: np.ndarray, affine: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.as_tensor(affine[:3, :3], dtype=torch.float32), torch.from_numpy(np.ascontiguousarray(displacement, np.float32))


def _dimension(displacement: np.ndarray) -> int:
    return 2 if displacement.shape[3] == 1 else 3


def _slabs(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    step = max(1, SLAB // (shape[2] * shape[3]))
    return ((x, min(x + step, shape[1])) for x in range(0, shape[1], step))


def _derivative(data: torch.Tensor, axis: int) -> torch.Tensor:
    return torch.gradient(data, dim=axis)[0] if data.shape[axis] > 1 else torch.zeros_like(data)


def _edge(edges: torch.Tensor, axis: int, corner: tuple[int, ...]) -> torch.Tensor:
    """Of the edges (3, X, Y, Z) along an axis, the one of each cell that meets this corner of it."""
    for other, side in enumerate(corner):
        if other != axis:
            edges = edges.narrow(other + 1, side, edges.shape[other + 1] - 1)
    return edges


def _diagonals(edges: list[torch.Tensor], odd: int) -> list[torch.Tensor]:
    """The three edges of the inner tetrahedron of each cell that start at corner (0, 0, 0), or at (1, 1, 1) if `odd`."""
    x, y, z = edges
    here, sign = (odd,) * 3, 1 - 2 * odd
    far = [tuple(1 - odd if k == axis else odd for k in range(3)) for axis in range(3)]
    # across a face: along one axis, then along the next from where that ends
    xy = sign * (_edge(x, 0, here) + _edge(y, 1, far[0]))
    yz = sign * (_edge(y, 1, here) + _edge(z, 2, far[1]))
    zx = sign * (_edge(z, 2, here) + _edge(x, 0, far[2]))
    return [yz, xy, zx] if odd else [xy, yz, zx]


def _relative_volume(vectors: list[torch.Tensor], axes: torch.Tensor) -> torch.Tensor:
    """Signed volume (area) that 3 (2) vectors (3, ...) span, relative to that of the grid axes (3, 3)."""
    across = torch.linalg.cross(vectors[0], vectors[1], dim=0)
    if len(vectors) == 3:
        return (across * vectors[2]).sum(0) / torch.linalg.det(axes)
    before = torch.linalg.cross(axes[:, 0], axes[:, 1], dim=0)
    normal = F.normalize(across.flatten(1).mean(1), dim=0)
    normal = normal if normal @ before >= 0 else -normal  # of the mapped plane, on the side of the plane it came from
    return torch.tensordot(normal, across, 1) / before.norm()
