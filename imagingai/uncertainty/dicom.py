"""DICOM results that lie on the series the image came from: segmentation (binary or fractional) and parametric map.

Written by highdicom (Bridge et al., Journal of Digital Imaging 2022). Patient, study and frame of reference are those of
the series, its slices are referenced. highdicom is imported when it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imagingai import __version__
from imagingai.errors import InputError
from imagingai.formats import read_dicom_folder, replacing
from imagingai.pictures import structure_color
from imagingai.volume import LPS, Volume, from_sitk, resample_like, same_grid

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

UNITS = {"bit": "bits", "mm": "millimeter", "1": "no units"}  # UCUM code: meaning
NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID")
MAY_BE_EMPTY = (  # of the patient and study (DICOM PS3.3, type 2): left out by some tools that remove names
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
    *("ReferringPhysicianName", "SeriesNumber"),
)


def write_segmentation(path: Path, segmentation: Volume, classes: Sequence[str], source: Path | None) -> None:
    """Write a DICOM segmentation on the grid of the series in the folder `source`.

    segmentation: class index (1, X, Y, Z), written as BINARY, or probability 0 .. 1 of each class (K, X, Y, Z), written as
    FRACTIONAL in steps of 1/255. Class 0 is the background; class k becomes segment k with the name `classes[k]`. On another
    grid than the series, class indices are brought there with nearest, probabilities with linear interpolation.

    Raises InputError if highdicom or the series is missing, if the folder holds no or several series (see
    `formats.read_dicom_folder`), if the image is 2-D, or if the series does not cover it.
    """
    hd = _highdicom()
    fractional = len(segmentation.data) > 1
    headers, grid = _series(source, segmentation)
    data = _onto(grid, segmentation, "linear" if fractional else "nearest")
    if fractional:
        channels = {"SegmentNumber": list(range(1, len(classes)))}
        array = np.clip(np.moveaxis(data[1:], 0, -1), 0, 1).astype(np.float32)
    else:
        channels, array = None, data[0].astype(np.uint8 if len(classes) < 256 else np.uint16)
    kind = "fractional segmentation" if fractional else "segmentation"
    result = hd.seg.Segmentation(
        source_images=headers,
        pixel_array=_placed(array, grid, headers[0], channels),
        segmentation_type="FRACTIONAL" if fractional else "BINARY",
        segment_descriptions=[_describe(number, name) for number, name in enumerate(classes) if number],
        content_label="SEGMENTATION",
        **_origin(headers[0], kind, 1001 if fractional else 1000),
    )
    _save(result, path)


def check_source(source: Path | None, image: Volume) -> None:
    """Raise the errors of `write_segmentation` before the work: if results for this image could not be written."""
    _highdicom()
    _series(source, image)


def write_parametric_map(path: Path, values: Volume, name: str, unit: str, source: Path | None) -> None:
    """Write a map as DICOM parametric map (float32) on the grid of the series in the folder `source`, linearly interpolated.

    values: (1, X, Y, Z); unit: a key of `UNITS`. Raises the errors of `write_segmentation`.
    """
    hd = _highdicom()
    headers, grid = _series(source, values)
    array = _onto(grid, values, "linear")[0].astype(np.float32)
    low, high = float(array.min()), float(array.max())
    mapping = hd.pm.RealWorldValueMapping(
        lut_label=name[:16],
        lut_explanation=f"{name} ({UNITS[unit]})",
        unit=hd.sr.CodedConcept(unit, "UCUM", UNITS[unit]),
        value_range=(low, high),
        slope=1.0,
        intercept=0.0,
        quantity_definition=hd.sr.CodedConcept(name.upper().replace(" ", "_")[:16], "99IMAGINGAI", name),
    )
    result = hd.pm.ParametricMap(
        source_images=headers,
        pixel_array=_placed(array, grid, headers[0]),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[hd.VOILUTTransformation(window_center=(low + high) / 2, window_width=max(high - low, 1e-6))],
        content_label="MAP",
        **_origin(headers[0], name, 1002),
    )
    _suit_slicer(result)
    _save(result, path)


def _highdicom() -> Any:
    try:
        import highdicom
    except ImportError:
        raise InputError("DICOM results need the package highdicom. Install it with: pip install highdicom") from None
    return highdicom


# --- the series


def _series(source: Path | None, image: Volume) -> tuple[list[Dataset], Volume]:
    """Headers of the slices, in any order, and the grid of the series as the library reads it (data: its intensities)."""
    if source is None:
        raise InputError("DICOM results need the DICOM series that the image was made from. Give its folder with --series.")
    if not Path(source).is_dir():
        raise InputError(f"There is no folder {source}. Give the folder of the DICOM series that the image was made from with --series.")
    if image.ndim == 2:
        raise InputError(f"DICOM results are made of 3-D images only, not of one slice {image.shape[:2]}. Take NIfTI, NRRD or PNG.")
    grid = from_sitk(read_dicom_folder(Path(source)))
    headers = _headers(Path(source))
    for name in NEEDED:
        if any(name not in header for header in headers):
            raise InputError(f"The DICOM series in {source} lacks {name}, so no result can refer to it. Export it again from the archive.")
    share = _covered(image, grid)
    if share < 0.95:
        raise InputError(
            f"The DICOM series in {source} covers {100 * share:.0f} % of the image only. Give the series that the image was made from."
        )
    for header in headers:
        for name in MAY_BE_EMPTY:
            header.setdefault(name, None)
    return headers, grid


def _headers(folder: Path) -> list[Dataset]:
    """Headers of the largest image series below a folder, which is the one that `read_dicom_folder` reads."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    series: dict[tuple[Path, str], list[Dataset]] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True)
        except InvalidDicomError:
            continue
        if "Rows" in header:
            series.setdefault((file.parent, str(header.get("SeriesInstanceUID"))), []).append(header)
    return max(series.values(), key=len)


def _covered(image: Volume, grid: Volume) -> float:
    """Share of the voxels of the image that lie in the series, or within one voxel of it."""
    index = np.indices(image.shape).reshape(3, -1)[:, :: max(1, image.data[0].size // 100_000)]
    points = image.affine[:3, :3] @ index + image.affine[:3, 3:]
    there = np.linalg.inv(grid.affine[:3, :3]) @ (points - grid.affine[:3, 3:])
    return float(np.all((there > -1) & (there < np.array(grid.shape)[:, None]), axis=0).mean())


def _onto(grid: Volume, volume: Volume, interpolation: str) -> np.ndarray:
    """(C, X, Y, Z) on the grid of the series."""
    return volume.data if same_grid(volume, grid) else resample_like(volume, grid, interpolation=interpolation).data


# --- what highdicom needs


def _placed(array: np.ndarray, grid: Volume, header: Dataset, channels: dict[str, list[int]] | None = None) -> Any:
    """A highdicom volume (slices, rows, columns[, segments]) of an array (X, Y, Z[, segments]); its world is LPS mm."""
    import highdicom as hd

    return hd.Volume(
        array=np.ascontiguousarray(array.swapaxes(0, 2)),
        affine=(LPS @ grid.affine)[:, [2, 1, 0, 3]],
        coordinate_system="PATIENT",
        frame_of_reference_uid=header.FrameOfReferenceUID,
        channels=channels,
    )


def _describe(number: int, name: str) -> Any:
    """One segment. What kind of structure it is is not known here: Tissue is also what 3D Slicer writes then."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=codes.SCT.Tissue,
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence("ImagingAI", codes.DCM.ArtificialIntelligence, __version__),
        display_color=hd.color.CIELabColor.from_string(structure_color(number)),
    )


def _origin(header: Dataset, description: str, number: int) -> dict[str, Any]:
    """Who made it, and a series of its own: `number` is added to that of the source."""
    import highdicom as hd

    return {
        "series_instance_uid": hd.UID(),
        "series_number": int(header.SeriesNumber or 0) + number,
        "series_description": f"ImagingAI {description}"[:64],
        "sop_instance_uid": hd.UID(),
        "instance_number": 1,
        "manufacturer": "ImagingAI",
        "manufacturer_model_name": "imagingai",
        "software_versions": __version__,
        "device_serial_number": "0",
        "content_description": f"ImagingAI {description}"[:64],
    }


def _suit_slicer(result: Dataset) -> None:
    """Make a parametric map readable for 3D Slicer (dcmqi 1.5), which takes the frames in ascending order along the normal of the
    slices without looking at their positions (highdicom writes them descending), and breaks off if no part of the body is named."""
    import highdicom as hd
    from pydicom.dataset import Dataset

    result.PerFrameFunctionalGroupsSequence = list(reversed(result.PerFrameFunctionalGroupsSequence))
    frames = np.frombuffer(result.FloatPixelData, np.float32).reshape(result.NumberOfFrames, -1)
    result.FloatPixelData = frames[::-1].tobytes()
    anatomy = Dataset()
    anatomy.FrameLaterality = "U"
    anatomy.AnatomicRegionSequence = [hd.sr.CodedConcept("38266002", "SCT", "Entire body")]
    result.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [anatomy]


def _save(result: Dataset, path: Path) -> None:
    result.setdefault("ContentCreatorName", None)  # must be there (type 2), which highdicom leaves out of a parametric map
    with replacing(Path(path)) as temporary:
        result.save_as(temporary)
