"""An image with its place in the world. The only file that knows LPS, file formats and axis order.

Coordinates, stated once: the world is RAS mm. `Volume.affine` maps voxel indices (i, j, k) to it. Arrays are
(C, X, Y, Z), the first index running along the first axis of the affine; a 2-D image has Z == 1. LPS (the world of
SimpleITK and DICOM) exists only at file input and output: LPS = diag(-1, -1, 1) RAS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imagingai.errors import InputError
from imagingai.formats import read_image, write_image

if TYPE_CHECKING:
    import SimpleITK as sitk
    import torch

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS -> LPS and back
INTERPOLATIONS = {"linear": "sitkLinear", "nearest": "sitkNearestNeighbor", "cubic": "sitkBSpline3"}


@dataclass(frozen=True, eq=False)
class Volume:
    """An image on a grid. data: (C, X, Y, Z), dtype as stored; affine: (4, 4), voxel index -> RAS mm."""

    data: np.ndarray
    affine: np.ndarray

    def __post_init__(self) -> None:
        if self.data.ndim != 4 or self.affine.shape != (4, 4):
            raise InputError(f"A volume needs data (C, X, Y, Z) and a 4x4 affine, not {self.data.shape} and {self.affine.shape}.")
        object.__setattr__(self, "affine", np.asarray(self.affine, float))
        if not np.all(np.isfinite(self.affine)) or abs(np.linalg.det(self.direction)) < 1e-6:
            raise InputError(f"The grid of an image has no volume: its index-to-mm matrix is {self.affine[:3, :3].tolist()}.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(X, Y, Z)."""
        return self.data.shape[1:]

    @property
    def ndim(self) -> int:
        """2 if there is one slice only, else 3."""
        return 2 if self.shape[2] == 1 else 3

    @property
    def spacing(self) -> np.ndarray:
        """(3,) mm between voxels along the axes of the array."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in ml."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    @property
    def direction(self) -> np.ndarray:
        """(3, 3), columns are the RAS unit vectors of the axes of the array."""
        return self.affine[:3, :3] / np.maximum(self.spacing, 1e-300)

    @property
    def origin(self) -> np.ndarray:
        """(3,) RAS mm of voxel (0, 0, 0)."""
        return self.affine[:3, 3]

    @property
    def center(self) -> np.ndarray:
        """(3,) RAS mm of the middle of the grid."""
        return self.affine[:3, :3] @ ((np.array(self.shape) - 1) / 2) + self.origin

    def tensor(self, device: str | torch.device = "cpu") -> torch.Tensor:
        """The data as float32 (1, C, X, Y, Z)."""
        import torch

        return torch.from_numpy(np.ascontiguousarray(self.data, np.float32)[None]).to(device)

    def with_data(self, data: np.ndarray | torch.Tensor) -> Volume:
        """Other data, (X, Y, Z), (C, X, Y, Z) or (1, C, X, Y, Z), on the same grid."""
        data = _as_numpy(data)
        if data.ndim == 5:
            data = data[0]
        data = data[None] if data.ndim == 3 else data
        if data.shape[1:] != self.shape:
            raise InputError(f"Data of shape {data.shape[1:]} do not fit a grid of {self.shape}.")
        return replace(self, data=data)

    def as_type(self, dtype: np.dtype | type | str) -> Volume:
        """The data as another type; integers are rounded and clipped to what the type can hold."""
        data = self.data
        if np.issubdtype(dtype, np.integer) and not np.issubdtype(data.dtype, np.integer):
            limits = np.iinfo(dtype)
            data = np.clip(np.rint(data), limits.min, limits.max)
        return replace(self, data=data.astype(dtype))

    @staticmethod
    def from_array(
        data: np.ndarray | torch.Tensor, affine: np.ndarray | None = None, *, spacing: Sequence[float] | float | None = None
    ) -> Volume:
        """A volume from (X, Y), (X, Y, Z) or (C, X, Y, Z) data; the grid from an affine, a spacing in mm, or 1 mm."""
        data = _as_numpy(data)
        if data.ndim not in (2, 3, 4):
            raise InputError(f"An image has 2 or 3 dimensions, not {data.ndim}.")
        if data.ndim < 4:
            data = data.reshape(1, *data.shape, *([1] if data.ndim == 2 else []))
        if affine is None:
            given = np.atleast_1d(1.0 if spacing is None else spacing)
            steps = np.full(3, given[0]) if len(given) == 1 else np.array([*given, 1.0][:3])
            affine = np.diag([*steps, 1.0])
        return Volume(data, np.asarray(affine, float))


def as_volume(image: Volume | np.ndarray | torch.Tensor | sitk.Image | str | Path) -> Volume:
    """Anything that is an image: a volume, an array or tensor (spacing 1 mm), a SimpleITK image, a file."""
    if isinstance(image, Volume):
        return image
    if isinstance(image, (str, Path)):
        return load(image)
    return from_sitk(image) if hasattr(image, "GetDirection") else Volume.from_array(image)


def _as_numpy(data: np.ndarray | torch.Tensor) -> np.ndarray:
    return data.detach().cpu().numpy() if hasattr(data, "detach") else np.asarray(data)


# --- SimpleITK


def from_sitk(image: sitk.Image) -> Volume:
    """A volume from a 2-D or 3-D SimpleITK image; the components of a vector image become channels."""
    import SimpleITK as sitk

    dimension = image.GetDimension()
    array = sitk.GetArrayViewFromImage(image)
    if image.GetNumberOfComponentsPerPixel() == 1:
        array = array[..., None]
    if dimension == 2:
        array = array[None]
    linear, origin = np.eye(3), np.zeros(3)
    linear[:dimension, :dimension] = np.reshape(image.GetDirection(), (dimension, dimension)) * image.GetSpacing()
    origin[:dimension] = image.GetOrigin()
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, origin
    return Volume(np.ascontiguousarray(array.transpose(3, 2, 1, 0)), LPS @ affine)


def to_sitk(volume: Volume) -> sitk.Image:
    """A 3-D SimpleITK image (one slice for a 2-D volume); channels become the components of a vector image."""
    import SimpleITK as sitk

    data = volume.data
    if data.dtype == bool or data.dtype == np.float16:
        data = data.astype(np.uint8 if data.dtype == bool else np.float32)
    vector = len(data) > 1
    array = np.ascontiguousarray(data.transpose(3, 2, 1, 0) if vector else data[0].transpose(2, 1, 0))
    image = sitk.GetImageFromArray(array, isVector=vector)
    affine = LPS @ volume.affine
    image.SetSpacing(volume.spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / volume.spacing).ravel().tolist())
    return image


def resample_like(volume: Volume, reference: Volume, *, interpolation: str = "linear", fill: float = 0.0) -> Volume:
    """The volume on the grid of another one: float32, or its own type with nearest; `fill` beyond its edge."""
    import SimpleITK as sitk

    image, affine = to_sitk(volume), LPS @ reference.affine
    resample = sitk.ResampleImageFilter()
    resample.SetSize(reference.shape)
    resample.SetOutputSpacing(reference.spacing.tolist())
    resample.SetOutputOrigin(affine[:3, 3].tolist())
    resample.SetOutputDirection((affine[:3, :3] / reference.spacing).ravel().tolist())
    resample.SetInterpolator(getattr(sitk, INTERPOLATIONS[interpolation]))
    resample.SetDefaultPixelValue(fill)
    if interpolation != "nearest":
        resample.SetOutputPixelType(sitk.sitkFloat32 if len(volume.data) == 1 else sitk.sitkVectorFloat32)
    return from_sitk(resample.Execute(image))


def smooth_for(image: Volume, spacing: np.ndarray) -> Volume:
    """The image without detail that a grid of this spacing (mm) cannot hold; the same image if it is not finer."""
    ratios = [step / own if n > 1 else 1.0 for step, own, n in zip(spacing, image.spacing, image.shape, strict=True)]
    sigma = [0.4 * math.sqrt(max(ratio**2 - 1, 0)) for ratio in ratios]
    if max(sigma) < 0.3:
        return image
    from scipy.ndimage import gaussian_filter

    return image.with_data(gaussian_filter(image.data.astype(np.float32), [0, *sigma], mode="nearest"))


def same_grid(a: Volume, b: Volume, tolerance: float = 0.01) -> bool:
    """Whether two grids have the same shape and corners that agree within `tolerance` of a voxel."""
    if a.shape != b.shape:
        return False
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in a.shape], indexing="ij")).reshape(3, -1)
    corners = np.vstack([corners, np.ones(corners.shape[1])])
    return bool(np.abs((a.affine - b.affine) @ corners).max() <= tolerance * a.spacing.min())


# --- files


def load(path: str | Path, *, label: bool = False) -> Volume:
    """Read an image: NIfTI, NRRD, MHA, MHD, PNG, TIFF, JPEG (colors become luminance) or a DICOM folder, 2-D or 3-D.

    With `label` the values must be whole numbers; they come as integers. Raises InputError if the file is missing,
    is no image, or has more than one value per voxel (vectors, time).
    """
    volume = from_sitk(read_image(Path(path)))
    if not label or np.issubdtype(volume.data.dtype, np.integer):
        return volume
    _check_whole(volume.data, f"label image {path}")
    return volume.as_type(np.int32)


def save(volume: Volume, path: str | Path) -> None:
    """Write .nii.gz, .nii, .nrrd, .mha, or .png, .tif for a 2-D image; appears under its name only when complete.

    Raises InputError for an unknown format or a folder that cannot be written, JobFailed for a full disk.
    """
    path = Path(path)
    if path.suffix.lower() == ".png" and not np.issubdtype(volume.data.dtype, np.integer):
        volume = volume.as_type(np.uint8 if volume.data.max(initial=0) < 255.5 else np.uint16)  # a PNG holds no fractions
    write_image(to_sitk(volume), path)


# --- checks of what a user gives; `name` is that of the parameter: fixed, moving_mask, ...


def _title(name: str) -> str:
    return f"{name} image" if name in ("fixed", "moving") else name.replace("_", " ")


def check_image(image: Volume, name: str) -> None:
    """Raise InputError if the image is empty, holds NaN or infinity, or has the same value everywhere."""
    if image.data.size == 0:
        raise InputError(f"The {_title(name)} is empty: its shape is {image.shape}.")
    _check_finite(image, name)
    low, high = image.data.min(), image.data.max()
    if low == high:
        raise InputError(f"The {_title(name)} is constant: every voxel is {low:g}. Check that this is the right file.")


def check_pair(fixed: Volume, moving: Volume) -> None:
    """Raise InputError if one image is 2-D and the other 3-D."""
    if fixed.ndim != moving.ndim:
        raise InputError(
            f"The fixed image is {fixed.ndim}-D {fixed.shape} and the moving image {moving.ndim}-D {moving.shape}. "
            "Take two images of the same kind; a slice can be cut out of the 3-D image first."
        )


def check_mask(mask: Volume, image: Volume, name: str) -> None:
    """Raise InputError if the mask is not finite, not on the grid of its image, or selects nothing."""
    _check_grid(mask, image, name)
    _check_finite(mask, name)
    if not np.any(mask.data > 0):
        raise InputError(f"The {_title(name)} is empty: no voxel is above 0. Leave it out to use the whole image.")


def check_labels(labels: Volume, image: Volume, name: str) -> None:
    """Raise InputError if the labels are not whole numbers, not on the grid of their image, or all background."""
    _check_grid(labels, image, name)
    _check_finite(labels, name)
    _check_whole(labels.data, name)
    if not np.any(labels.data):
        raise InputError(f"The {_title(name)} hold no label: every voxel is 0.")


def _check_grid(volume: Volume, image: Volume, name: str) -> None:
    if not same_grid(volume, image):
        raise InputError(
            f"The {_title(name)} and the image do not share a grid: {_describe(volume)}, image {_describe(image)}. "
            "Resample it onto the image, for example with imagingai apply --interpolation nearest."
        )


def _describe(volume: Volume) -> str:
    numbers = [np.array2string(x, precision=3, separator=", ", suppress_small=True) for x in (volume.spacing, volume.origin)]
    return f"{volume.shape} voxels of {numbers[0]} mm from {numbers[1]} mm"


def _check_finite(volume: Volume, name: str) -> None:
    if np.issubdtype(volume.data.dtype, np.inexact) and (bad := int(volume.data.size - np.isfinite(volume.data).sum())):
        raise InputError(
            f"The {_title(name)} has {bad} voxels ({100 * bad / volume.data.size:.3g} %) that are NaN or infinite. "
            "Replace them, for example by 0 (numpy.nan_to_num), and try again."
        )


def _check_whole(data: np.ndarray, name: str) -> None:
    if np.issubdtype(data.dtype, np.inexact) and np.any(fractions := data != np.rint(data)):
        raise InputError(
            f"The {_title(name)} holds {data[fractions][0]:g}, which is not a whole number, so it is no label image. "
            "Labels are resampled with nearest interpolation."
        )
