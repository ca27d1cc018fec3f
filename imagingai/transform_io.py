"""Transform files: ITK .h5, .tfm, .txt, .mat and displacement images (.nii.gz, .nrrd, .mha), as Slicer and ANTs know them.

In these files points and vectors are LPS mm, and a composite lists the transform that is applied last first.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imagingai.errors import InputError
from imagingai.formats import FORMATS_3D, check_readable, read_any, replacing, write_image
from imagingai.transform import Affine, Composite, DisplacementField, Transform, compose
from imagingai.volume import LPS, Volume, from_sitk, to_sitk

if TYPE_CHECKING:
    import SimpleITK as sitk

LINEAR_ONLY = (".txt", ".mat")
TRANSFORM_FILES = (".h5", ".hdf5", ".tfm", *LINEAR_ONLY)
FLIP = np.array([-1.0, -1.0, 1.0], np.float32).reshape(3, 1, 1, 1)  # a vector LPS <-> RAS


def load_transform(path: str | Path, reference: Volume | None = None) -> Transform:
    """Read a transform from the fixed to the moving image.

    A B-spline has no grid of its own that we could keep: it becomes a displacement field on the grid of `reference`.
    Raises InputError if the file is missing, is no transform, or needs a reference.
    """
    import SimpleITK as sitk

    path = Path(path)
    if not path.exists():
        raise InputError(f"There is no file {path}.")
    if not path.name.lower().endswith(TRANSFORM_FILES):
        return _field(read_any(path), path)
    check_readable(path)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError:
        raise InputError(f"{path} cannot be read as a transform. Readable are ITK transforms (.h5, .tfm, .txt, .mat) and fields.") from None
    return compose(_from_itk(transform, path, reference))


def save_transform(transform: Transform, path: str | Path) -> None:
    """Write .h5 or .tfm (any transform), .txt or .mat (linear), or a displacement field as .nii.gz, .nii, .nrrd, .mha.

    The file appears only when complete. Raises InputError for a format that cannot hold the transform, JobFailed for
    a full disk.
    """
    import SimpleITK as sitk

    path, transform = Path(path), compose(transform)
    name = path.name.lower()
    if name.endswith(FORMATS_3D):
        if not isinstance(transform, DisplacementField):
            raise InputError(f"{path.name} can hold a displacement field only. Choose .h5, or make it one with to_displacement.")
        write_image(_vectors(transform), path)
        return
    if not name.endswith(TRANSFORM_FILES):
        raise InputError(f"Cannot write {path.name}: choose a name that ends with {', '.join((*TRANSFORM_FILES, *FORMATS_3D))}.")
    if name.endswith(LINEAR_ONLY) and not isinstance(transform, Affine):
        raise InputError(f"{path.name} can hold a linear transform only. Choose a name that ends with .h5.")
    # A full disk makes HDF5 crash later on, so look before: fields are stored as doubles, uncompressed.
    doubles = sum(part.data.size for part in Composite((transform,)).parts if isinstance(part, DisplacementField))
    with replacing(path, size=8 * doubles) as temporary:
        sitk.WriteTransform(to_itk(transform), str(temporary))
        _check_complete(temporary)


def _check_complete(path: Path) -> None:
    """ITK does not notice a full disk when it writes text: the last line of a complete file has the fixed parameters."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        end = file.read()
    if not end or (path.suffix in (".tfm", ".txt") and not (b"FixedParameters:" in end and end.endswith(b"\n"))):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def to_itk(transform: Transform) -> sitk.Transform:
    """The same mapping as a SimpleITK transform of LPS points."""
    import SimpleITK as sitk

    if isinstance(transform, Composite):
        return sitk.CompositeTransform([to_itk(part) for part in reversed(transform.parts)])
    if isinstance(transform, DisplacementField):
        return sitk.DisplacementFieldTransform(sitk.Cast(_vectors(transform), sitk.sitkVectorFloat64))
    matrix = LPS @ transform.matrix @ LPS
    return sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())


def from_itk(transform: sitk.Transform, reference: Volume | None = None) -> Transform:
    """The same mapping of a SimpleITK transform; a B-spline needs a reference."""
    return compose(_from_itk(transform, "the transform", reference))


def _from_itk(transform: sitk.Transform, name: Path | str, reference: Volume | None) -> Transform:
    import SimpleITK as sitk

    transform = transform.Downcast() if type(transform) is sitk.Transform else transform
    if isinstance(transform, sitk.CompositeTransform):
        parts = [_from_itk(transform.GetNthTransform(k), name, reference) for k in range(transform.GetNumberOfTransforms())]
        return Composite(tuple(reversed(parts)))
    if isinstance(transform, sitk.DisplacementFieldTransform):
        return _field(transform.GetDisplacementField(), name)
    if transform.IsLinear():
        return _linear(transform)
    if reference is None or transform.GetDimension() != 3:
        raise InputError(f"{name} holds a {transform.GetName()}, which needs the 3-D fixed image (its grid) to be read.")
    grid = to_sitk(reference)
    return _field(
        sitk.TransformToDisplacementField(
            transform, sitk.sitkVectorFloat32, grid.GetSize(), grid.GetOrigin(), grid.GetSpacing(), grid.GetDirection()
        ),
        name,
    )


def _linear(transform: sitk.Transform) -> Affine:
    """Any linear transform, 2-D or 3-D, from where it puts the origin and the unit vectors."""
    size = transform.GetDimension()
    origin = np.array(transform.TransformPoint([0.0] * size))
    matrix = np.eye(4)
    matrix[:size, 3] = origin
    matrix[:size, :size] = np.stack([np.array(transform.TransformPoint(unit)) - origin for unit in np.eye(size).tolist()], axis=1)
    return Affine(LPS @ matrix @ LPS)


def _field(image: sitk.Image, name: Path | str) -> DisplacementField:
    size, count = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    one_slice = size == 2 and count == 3 and image.HasMetaDataKey("srow_x")
    if size not in (2, 3) or (count != size and not one_slice):
        raise InputError(
            f"{name} is not a transform: it is a {size}-D image {image.GetSize()} with {count} value(s) per voxel, "
            "and a displacement field has one vector per voxel."
        )
    volume = from_sitk(image)
    if one_slice:  # ITK drops the third dimension of a NIfTI field of one slice; the header still has its plane
        rows = [[float(number) for number in image.GetMetaData(f"srow_{axis}").split()] for axis in "xyz"]
        volume = Volume(volume.data, np.array([*rows, [0, 0, 0, 1]]))
    data = volume.data if count == 3 else np.concatenate([volume.data, np.zeros_like(volume.data[:1])])
    if not np.all(np.isfinite(data)):
        raise InputError(f"The displacement field {name} holds NaN or infinite values. Make it anew.")
    return DisplacementField(data.astype(np.float32) * FLIP, volume.affine)


def _vectors(field: DisplacementField) -> sitk.Image:
    return to_sitk(Volume(field.data * FLIP, field.affine))
