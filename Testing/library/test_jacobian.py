"""Non-diffeomorphic volume against volumes of tetrahedra that are computed one by one."""

from __future__ import annotations

import numpy as np
import pytest
from grids import GRIDS, smooth_field

from imagingai.jacobian import determinant, non_diffeomorphic_volume


def mapped(displacement: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Where the voxels go: (X, Y, Z, 3)."""
    index = np.stack(np.meshgrid(*map(np.arange, displacement.shape[1:]), indexing="ij"), -1)
    return index @ affine[:3, :3].T + affine[:3, 3] + np.moveaxis(displacement, 0, -1)


def tetrahedra() -> list[list[tuple[int, int, int]]]:
    """The ten tetrahedra of a cube: at each corner the one with its three neighbors, and the two inner ones."""
    corners = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    one = [[c, (1 - c[0], *c[1:]), (c[0], 1 - c[1], c[2]), (*c[:2], 1 - c[2])] for c in corners]
    return [*one, [c for c in corners if sum(c) % 2 == 0], [c for c in corners if sum(c) % 2]]


@pytest.mark.parametrize("name", ["RAS", "LAS", "oblique"])
def test_each_tetrahedron_counts(name):
    shape, affine = (4, 3, 5), GRIDS[name].affine
    displacement = np.random.default_rng(0).normal(0, 0.6, (3, *shape)).astype(np.float32)
    cells, places = non_diffeomorphic_volume(displacement, affine), mapped(displacement, affine)
    assert cells.shape == (3, 2, 4)
    start = mapped(np.zeros_like(displacement), affine)
    for base in np.ndindex(*cells.shape):
        inverted = 0.0
        for corners in tetrahedra():
            at = [tuple(np.add(base, corner)) for corner in corners]
            after, before = (np.linalg.det([p[at[k]] - p[at[0]] for k in (1, 2, 3)]) for p in (places, start))
            inverted += max(-after / before, 0) * abs(before) / 6
        assert cells[base] == pytest.approx(0.5 * inverted / abs(np.linalg.det(affine[:3, :3])), abs=1e-5)
    assert cells.max() > 0.01


def test_each_triangle_counts():
    affine = GRIDS["slice"].affine
    displacement = smooth_field(GRIDS["slice"], 2.5, 1.0).data[:, :5, :4]
    cells, places = non_diffeomorphic_volume(displacement, affine), mapped(displacement, affine)[:, :, 0]
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    for x, y in np.ndindex(4, 3):
        inverted = 0.0
        for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
            corner, other, third = places[x + a, y + b], places[x + 1 - a, y + b], places[x + a, y + 1 - b]
            sign = (1 if a == 0 else -1) * (1 if b == 0 else -1)
            inverted += max(-sign * np.cross(other - corner, third - corner) @ normal / (normal @ normal), 0) / 2
        assert cells[x, y, 0] == pytest.approx(0.5 * inverted, abs=1e-4)
    assert cells.max() > 0.01


@pytest.mark.parametrize("name", GRIDS)
def test_no_motion_and_a_mirror(name):
    grid = GRIDS[name]
    still = np.zeros((3, *grid.shape), np.float32)
    np.testing.assert_allclose(determinant(still, grid.affine), 1, rtol=1e-5)
    assert non_diffeomorphic_volume(still, grid.affine).max() == 0
    first = grid.affine[:3, 0].astype(np.float32)
    mirror = -2 * first.reshape(3, 1, 1, 1) * np.arange(grid.shape[0]).reshape(1, -1, 1, 1) + still
    np.testing.assert_allclose(determinant(mirror, grid.affine), -1, rtol=1e-4)
    np.testing.assert_allclose(non_diffeomorphic_volume(mirror, grid.affine), 1, rtol=1e-4)


def test_a_checkerboard_is_seen_though_central_differences_miss_it():
    displacement = np.zeros((3, 12, 12, 12), np.float32)
    displacement[0] = 0.75 * (-1.0) ** np.arange(12).reshape(-1, 1, 1)
    assert determinant(displacement, np.eye(4))[1:-1].min() == 1
    assert non_diffeomorphic_volume(displacement, np.eye(4)).mean() > 0.1


def test_slabs_do_not_show(monkeypatch):
    field = smooth_field(GRIDS["oblique"], 3.0, 2.0)
    whole = [function(field.data, field.affine) for function in (determinant, non_diffeomorphic_volume)]
    monkeypatch.setattr("imagingai.jacobian.SLAB", 3000)
    parts = [function(field.data, field.affine) for function in (determinant, non_diffeomorphic_volume)]
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
