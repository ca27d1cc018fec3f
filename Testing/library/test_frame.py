"""The grid of a model and the grid of an image: nothing is turned, mirrored or shifted on the way and back."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from grids import GRIDS, textured

from imagingai.uncertainty.frame import make_frame, reading_order, see, to_grid
from imagingai.volume import Volume, to_sitk


@pytest.fixture(params=["RAS", "LAS", "LPS", "sagittal", "oblique"])
def image(request):
    return textured(GRIDS[request.param])


def world_of(volume: Volume, data: np.ndarray, point: np.ndarray) -> float:
    index = np.linalg.inv(volume.affine) @ [*point, 1]
    return data[tuple(np.rint(index[:3]).astype(int))]


def test_reordering_keeps_every_voxel_at_its_place(image):
    frame = make_frame(image, (), 3)
    seen = to_grid(frame, image)
    assert frame.exact and np.all(np.diag(frame.grid.direction) > 0.5)  # right, front, top
    for index in [(0, 0, 0), (16, 0, 5), (3, 13, 15)]:
        point = (image.affine @ [*index, 1])[:3]
        assert world_of(frame.grid, seen, point) == image.data[(0, *index)]
    assert np.array_equal(frame.to_native(seen), image.data[0])


def test_resampling_agrees_with_simpleitk(image):
    frame = make_frame(image, (0.9, 0.9, 0.9), 3)
    reference = to_sitk(frame.grid.with_data(np.zeros(frame.grid.shape, np.float32)))
    expected = sitk.GetArrayFromImage(sitk.Resample(to_sitk(image), reference, sitk.Transform(), sitk.sitkLinear, 0.0))
    inside = expected > 0
    assert inside.mean() > 0.8
    assert np.allclose(to_grid(frame, image).transpose(2, 1, 0)[inside], expected[inside], atol=1e-2)  # of 1000


def test_a_coarser_grid_covers_the_image_and_comes_back(image):
    ramp = image.with_data(np.indices(image.shape)[0].astype(np.float32))  # linear, so that coarser voxels keep it
    frame = make_frame(ramp, (4.0, 4.0, 4.0), 3)
    back = frame.to_native(to_grid(frame, ramp), fill=-1)
    assert back.min() >= 0  # no voxel of the image is outside
    assert np.abs(back - ramp.data[0])[6:-6, 6:-6, 6:-6].max() < 0.02


def test_slices_are_cut_along_the_thick_axis():
    sagittal = Volume(np.zeros((1, 5, 32, 32), np.float32) + np.eye(32), np.diag([6.0, 1.0, 1.0, 1.0]))
    assert reading_order(sagittal, 2)[0] == (1, 2, 0)
    frame = make_frame(sagittal, (2.0, 2.0, 2.0), 2)
    assert frame.grid.shape == (16, 16, 5) and frame.grid.spacing.tolist() == [2, 2, 6]


def test_a_single_slice_of_any_orientation_is_one_slice():
    sagittal = Volume(np.zeros((1, 1, 20, 30), np.float32), np.eye(4))
    frame = make_frame(sagittal, (2.0, 2.0, 1.0), 2)
    assert frame.order == (1, 2, 0) and frame.grid.shape == (10, 15, 1)


def test_a_picture_stays_as_it_is():
    picture = Volume(np.random.default_rng(0).random((1, 9, 7, 1)), np.diag([-1.0, -1.0, 1.0, 1.0]))
    frame = make_frame(picture, (), 2)
    assert np.array_equal(to_grid(frame, picture), picture.data[0])


def test_hounsfield_units_are_kept():
    ct = Volume(np.array([-2000.0, -1000, 0, 500, 3000]).reshape(1, 5, 1, 1), np.eye(4))
    assert np.allclose(see(make_frame(ct, (), 2), ct, "ct").ravel(), [0, 0, 1, 1.5, 2])
