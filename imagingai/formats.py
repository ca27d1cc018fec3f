"""Image files in and out, as SimpleITK images: which formats, their traps, and files that appear only when complete."""

from __future__ import annotations

import contextlib
import errno
import gzip
import logging
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imagingai.errors import NO_SPACE, InputError, JobFailed

if TYPE_CHECKING:
    import SimpleITK as sitk

log = logging.getLogger(__name__)

FORMATS_3D = (".nii.gz", ".nii", ".nrrd", ".mha")
FORMATS_2D = (".png", ".tif", ".tiff")
FULL = ("failed to write to file", "too large", "disk space")  # what SimpleITK says of a full disk, by format
LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, of red, green, blue


# --- reading


def read_image(path: Path) -> sitk.Image:
    """The 2-D or 3-D image of a file or DICOM folder, one value per voxel. Raises InputError with the way out."""
    if not path.exists():
        raise InputError(f"There is no file {path}.")
    image = read_dicom_folder(path) if path.is_dir() else read_any(path)
    while image.GetDimension() > 3 and image.GetSize()[-1] == 1:
        image = image[(slice(None),) * (image.GetDimension() - 1) + (0,)]
    if image.GetDimension() > 3:
        raise InputError(f"{path} holds {image.GetSize()[3]} images over time {image.GetSize()}. Save one of them as a 3-D image.")
    if path.name.endswith((".nii", ".nii.gz")):
        _check_nifti_values(path)
    return _luminance(image, path) if image.GetNumberOfComponentsPerPixel() > 1 else image


def _check_nifti_values(path: Path) -> None:
    """Raise InputError for what ITK would silently read as 0: NaN or infinity in NIfTI-1, and the rest of a file that was cut off."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with (gzip.open if packed else open)(path, "rb") as file:
            header, content = file.read(348), file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InputError(_cut_off(path)) from None
    if header[344:] != b"n+1\0":
        return
    order = "<" if header[:4] == b"\x5c\x01\x00\x00" else ">"
    dimensions, *sizes = np.frombuffer(header, order + "i2", 8, 40).tolist()
    code, bits = np.frombuffer(header, order + "i2", 2, 70).tolist()
    content = content[int(np.frombuffer(header, order + "f4", 1, 108)[0]) - len(header) :]
    size = math.prod(sizes[:dimensions]) * bits // 8
    if len(content) < size:
        raise InputError(_cut_off(path))
    if code not in (16, 64):
        return
    values = np.frombuffer(content[:size], f"{order}f{bits // 8}")
    if bad := int(values.size - np.isfinite(values).sum()):
        raise InputError(
            f"{path} has {bad} voxels that are NaN or infinite. Replace them, for example by 0 (numpy.nan_to_num), and try again."
        )


def _cut_off(path: Path) -> str:
    return f"{path} is cut off or damaged: {path.stat().st_size} bytes are not the whole image. Copy it once more."


def check_readable(path: Path) -> None:
    """Raise InputError with the reason of the system, which ITK would not tell."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None


def read_any(path: Path) -> sitk.Image:
    """An image file as it is: vectors and time too."""
    import SimpleITK as sitk

    check_readable(path)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    if path.name.endswith(".nii.gz") and path.with_suffix("").exists():
        # Asked for a.nii.gz, ITK silently reads a.nii if that lies beside it: read a copy elsewhere.
        with tempfile.TemporaryDirectory() as folder:
            return read_any(Path(shutil.copy(path, folder)))
    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        if "orthonormal" in str(error):
            raise InputError(
                f"The axes of {path} are not at right angles (sheared), which most programs misread. "
                "Resample it onto a straight grid first, for example in 3D Slicer."
            ) from None
        raise InputError(f"{path} cannot be read as an image. Readable are NIfTI, NRRD, MHA, PNG, TIFF, JPEG and DICOM folders.") from None


def _luminance(image: sitk.Image, path: Path) -> sitk.Image:
    """Gray values of an 8- or 16-bit color image; alpha is ignored."""
    import SimpleITK as sitk

    count, array = image.GetNumberOfComponentsPerPixel(), sitk.GetArrayViewFromImage(image)
    if path.name.endswith(".seg.nrrd"):
        raise InputError(
            f"{path} holds segments that overlap, in {count} layers. Make them disjoint, or export them as a label map: "
            "here a voxel has one label."
        )
    if count not in (3, 4) or array.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path} has {count} values per voxel ({array.dtype}). Save one of them as an image with one value per voxel.")
    gray = sitk.GetImageFromArray(np.rint(array[..., :3] @ LUMINANCE).astype(array.dtype))
    gray.CopyInformation(image)
    return gray


def read_dicom_folder(folder: Path) -> sitk.Image:
    """The image series in a folder and its sub-folders; of several, the one with the most slices.

    Raises InputError if there is none, if two are equally large, or if its slices are uneven or tilted.
    """
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    series = {}
    for place in [folder, *sorted(p for p in folder.rglob("*") if p.is_dir())]:
        for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(place)):
            series[place, uid] = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(place), uid)
    if not series:
        raise InputError(f"The folder {folder} holds no readable DICOM images.")
    files = _largest(series, folder)
    try:
        image = sitk.ReadImage(files[0]) if len(files) == 1 else sitk.ReadImage(files)
        if len(files) > 1:
            _check_slices(files, image, folder)
    except RuntimeError:
        raise InputError(f"The DICOM series in {folder} cannot be read. Open it in 3D Slicer and save it as NIfTI or NRRD.") from None
    return image


def _largest(series: dict[tuple[Path, str], tuple[str, ...]], folder: Path) -> tuple[str, ...]:
    ranked = sorted(series.values(), key=len, reverse=True)
    if len(ranked) > 1:
        found = "; ".join(f"{_series_name(files[0])}: {len(files)} slices" for files in ranked[:8])
        if len(ranked[0]) == len(ranked[1]):
            raise InputError(f"The folder {folder} holds {len(ranked)} DICOM series ({found}). Put the one to use into its own folder.")
        log.warning("The DICOM folder holds %d series (%s); the largest is used.", len(ranked), found)
    return ranked[0]


def _header(file: str) -> dict[str, str]:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    return {key: reader.GetMetaData(key).strip() for key in reader.GetMetaDataKeys()}


def _series_name(file: str) -> str:
    """Number and description of a series: nothing that tells who the patient is."""
    try:
        header = _header(file)
    except RuntimeError:
        return "unreadable series"
    return f"series {header.get('0020|0011', '?')} {header.get('0008|103e', '')}".strip()


def _check_slices(files: tuple[str, ...], image: sitk.Image, folder: Path) -> None:
    """Missing slices and a tilted gantry would silently bend the anatomy: refuse them."""
    texts = [_header(file).get("0020|0032", "") for file in files]
    if not all(texts):
        return
    positions = np.array([[float(x) for x in text.split("\\")] for text in texts])
    steps = np.diff(positions, axis=0)
    lengths, step = np.linalg.norm(steps, axis=1), steps.mean(0)
    normal = np.reshape(image.GetDirection(), (3, 3))[:, 2]
    way_out = "Open it in 3D Slicer, which regularizes the slices (DICOM module, acquisition transform), and save it as NIfTI or NRRD."
    if np.abs(lengths - np.median(lengths)).max() > max(0.02 * np.median(lengths), 0.01):
        raise InputError(
            f"The slices in {folder} are missing or uneven: their distance is {lengths.min():.3g} to {lengths.max():.3g} mm. {way_out}"
        )
    if np.linalg.norm(step - normal * (step @ normal)) > 0.01 * np.linalg.norm(step):
        raise InputError(f"The slices in {folder} are tilted against each other (gantry tilt). {way_out}")


# --- writing


def write_image(image: sitk.Image, path: Path) -> None:
    """Write by the ending of the name. Raises InputError (format, folder) or JobFailed (full disk)."""
    import SimpleITK as sitk

    suffix = next((s for s in (*FORMATS_3D, *FORMATS_2D) if path.name.lower().endswith(s)), None)
    if suffix is None:
        raise InputError(f"Cannot write {path.name}: choose a name that ends with {', '.join((*FORMATS_3D, *FORMATS_2D))}.")
    if suffix in FORMATS_2D:
        if image.GetSize()[2] > 1:
            raise InputError(f"Cannot write {path.name}: a 3-D image {image.GetSize()} needs .nii.gz, .nrrd or .mha.")
        image = image[:, :, 0]
    with replacing(path) as temporary:
        if suffix in (".nii", ".nii.gz"):
            _write_nifti(image, temporary)
        else:
            sitk.WriteImage(image, str(temporary), suffix not in (".tif", ".tiff"), 1)


def _write_nifti(image: sitk.Image, path: Path) -> None:
    """ITK does not notice a full disk here and compresses slowly: write plain, count the bytes, compress."""
    import SimpleITK as sitk

    plain = path.with_name(path.name.removesuffix(".gz")) if path.suffix == ".gz" else path
    try:
        sitk.WriteImage(image, str(plain), False)
        if plain.stat().st_size < sitk.GetArrayViewFromImage(image).nbytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if plain != path:
            with plain.open("rb") as source, gzip.open(path, "wb", compresslevel=1) as target:
                shutil.copyfileobj(source, target, 1 << 20)
    finally:
        if plain != path:
            plain.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: Path, size: int = 0) -> Iterator[Path]:
    """A file to write beside `path` that takes its place when all went well, so that no half-written file is seen.

    `size` is what is known of its bytes: raises JobFailed at once if the disk has no room for them.
    """
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        temporary.touch()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise JobFailed(_disk_full(path)) from None
        raise InputError(
            f"Cannot write into the folder {path.parent}: {error.strerror}. Choose a folder that exists and that you may write to."
        ) from None
    try:
        if shutil.disk_usage(path.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield temporary
        os.replace(temporary, path)
    except RuntimeError as error:  # how SimpleITK reports every failure
        reason = str(error).strip().splitlines()[-1]
        full = shutil.disk_usage(path.parent).free < 1 << 20 or any(sign in str(error) for sign in FULL)
        raise JobFailed(_disk_full(path) if full else f"Could not write {path.name}: {reason}") from None
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise JobFailed(_disk_full(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def _disk_full(path: Path) -> str:
    free = shutil.disk_usage(path.parent).free >> 20
    return f"The disk is full: {path.name} could not be written, {free} MB are left. Free some space or choose another folder."
