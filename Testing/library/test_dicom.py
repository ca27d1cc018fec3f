"""DICOM results lie where the structures are, and belong to the series that the image came from."""

from __future__ import annotations

import builtins

import highdicom as hd
import numpy as np
import pydicom
import pytest
from grids import placed, turned
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from imagingai.errors import InputError
from imagingai.uncertainty.dicom import check_source, write_parametric_map, write_segmentation
from imagingai.volume import LPS, Volume, load

CLASSES = ("background", "Left ventricle", "Tumor")


def write_series(folder, grid: Volume, *, leave_out=(), name="T1") -> list[pydicom.Dataset]:
    """One CT file per slice of the grid, with file names and instance numbers that do not follow the slices."""
    folder.mkdir(parents=True, exist_ok=True)
    study, series, frame, (x, y, z) = generate_uid(), generate_uid(), generate_uid(), grid.shape
    affine, written = LPS @ grid.affine, []
    for number, k in enumerate(np.random.default_rng(0).permutation(z), 1):
        header = pydicom.Dataset()
        header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, generate_uid()
        header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = study, series, frame
        header.PatientID, header.PatientName, header.PatientBirthDate, header.PatientSex = "17", "Doe^Jane", "19700101", "F"
        header.StudyID, header.StudyDate, header.StudyTime, header.AccessionNumber = "1", "20200101", "120000", "A1"
        header.Modality, header.SeriesNumber, header.InstanceNumber, header.SeriesDescription = "CT", 4, number, name
        header.ImageOrientationPatient = [f"{v:.9g}" for v in (affine[:3, :2] / grid.spacing[:2]).T.ravel()]
        header.ImagePositionPatient = [f"{v:.9g}" for v in affine[:3] @ (0, 0, k, 1)]
        header.PixelSpacing, header.SliceThickness = [f"{v:.9g}" for v in grid.spacing[[1, 0]]], f"{grid.spacing[2]:.9g}"
        header.Rows, header.Columns, header.SamplesPerPixel, header.PhotometricInterpretation = y, x, 1, "MONOCHROME2"
        header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
        header.RescaleSlope, header.RescaleIntercept = 1, 0
        header.PixelData = np.full((y, x), k, np.int16).tobytes()
        for keyword in leave_out:
            del header[keyword]
        header.file_meta = pydicom.dataset.FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        pydicom.dcmwrite(folder / f"{number:03}.dcm", header, enforce_file_format=True)
        written.append(header)
    return written


GRID = placed((20, 24, 10), turned(20, -15, 35) @ np.diag([-1.0, -1.0, 1.0]), (0.9, 1.2, 2.5), (5, -3, 40))


def structures(grid: Volume) -> Volume:
    """Two structures, class 1 and 2, far from each other and without symmetry."""
    data = np.zeros(grid.shape, np.uint8)
    data[2:7, 3:5, 1:4], data[2:3, 5, 1] = 1, 1
    data[10:17, 15:20, 6:9] = 2
    return grid.with_data(data)


def center(volume: Volume, weight: np.ndarray) -> np.ndarray:
    """RAS mm of the center of mass."""
    index = np.indices(volume.shape).reshape(3, -1)
    return volume.affine[:3, :3] @ np.average(index, axis=1, weights=weight.ravel()) + volume.origin


def center_in_file(file: pydicom.Dataset, number: int) -> np.ndarray:
    """RAS mm of the center of mass of a segment, from the plain attributes of each frame and nothing else."""
    shared = file.SharedFunctionalGroupsSequence[0]
    row, column = np.reshape([float(v) for v in shared.PlaneOrientationSequence[0].ImageOrientationPatient], (2, 3))
    down, right = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    total, mass = np.zeros(3), 0.0
    for frame, pixels in zip(file.PerFrameFunctionalGroupsSequence, file.pixel_array, strict=True):
        if frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number:
            position = np.array([float(v) for v in frame.PlanePositionSequence[0].ImagePositionPatient])
            for r, c in np.argwhere(pixels):
                weight = float(pixels[r, c])
                total, mass = total + weight * (position + c * right * row + r * down * column), mass + weight
    return total / mass * (-1, -1, 1)


def otherwise_stored(volume: Volume) -> Volume:
    """The same voxels at the same places, with other axes and directions of the array."""
    data = np.flip(volume.data.transpose(0, 3, 1, 2), 2)
    affine = volume.affine[:, [2, 0, 1, 3]].copy()
    affine[:, 3] += affine[:, 1] * (data.shape[2] - 1)
    affine[:, 1] *= -1
    return Volume(np.ascontiguousarray(data), affine)


@pytest.mark.parametrize("stored", [lambda v: v, otherwise_stored], ids=["as the series", "other axes"])
def test_a_segmentation_lies_where_the_structures_are(tmp_path, stored):
    headers = write_series(tmp_path / "series", GRID)
    labels = structures(GRID)
    write_segmentation(tmp_path / "s.dcm", stored(labels), CLASSES, tmp_path / "series")
    file = pydicom.dcmread(tmp_path / "s.dcm")
    assert file.SegmentationType == "BINARY" and file.Modality == "SEG"
    for number in (1, 2):
        assert center_in_file(file, number) == pytest.approx(center(labels, labels.data == number), abs=1e-3)
    assert [item.SegmentLabel for item in file.SegmentSequence] == list(CLASSES[1:])
    volume = hd.seg.segread(tmp_path / "s.dcm").get_volume(combine_segments=True)
    assert int((volume.array == 1).sum()) == int((labels.data == 1).sum())
    place = {header.SOPInstanceUID: header.ImagePositionPatient for header in headers}
    for frame in file.PerFrameFunctionalGroupsSequence:
        uid = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert np.allclose(np.array(place[uid], float), np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float), atol=1e-3)


def test_the_result_belongs_to_patient_study_and_frame_of_reference_of_the_series(tmp_path):
    header = write_series(tmp_path / "series", GRID)[0]
    write_segmentation(tmp_path / "s.dcm", structures(GRID), CLASSES, tmp_path / "series")
    file = pydicom.dcmread(tmp_path / "s.dcm")
    for name in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID", "AccessionNumber"):
        assert file[name].value == header[name].value
    assert file.SeriesInstanceUID != header.SeriesInstanceUID and file.SeriesNumber == 1004
    assert file.SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"


def test_a_fractional_segmentation_keeps_probabilities(tmp_path):
    write_series(tmp_path / "series", GRID)
    labels = structures(GRID).data[0]
    probability = np.stack([labels == 0, 0.6 * (labels == 1), 0.25 * (labels == 2)]).astype(np.float32)
    write_segmentation(tmp_path / "f.dcm", GRID.with_data(probability), CLASSES, tmp_path / "series")
    file = hd.seg.segread(tmp_path / "f.dcm")
    assert file.SegmentationType == "FRACTIONAL"
    back = file.get_volume().array
    assert back[..., 0].max() == pytest.approx(0.6, abs=1 / 255) and back[..., 1].max() == pytest.approx(0.25, abs=1 / 255)
    assert center_in_file(pydicom.dcmread(tmp_path / "f.dcm"), 2) == pytest.approx(center(GRID, labels == 2), abs=1e-3)


def test_an_image_on_a_finer_grid_is_brought_to_the_series(tmp_path):
    write_series(tmp_path / "series", GRID)
    fine = placed((40, 48, 25), GRID.direction, (0.45, 0.6, 1.0), GRID.center)
    labels = np.zeros(fine.shape, np.uint8)
    labels[8:20, 10:30, 5:15] = 1
    write_segmentation(tmp_path / "s.dcm", fine.with_data(labels), CLASSES, tmp_path / "series")
    file = pydicom.dcmread(tmp_path / "s.dcm")
    assert (file.Rows, file.Columns) == (24, 20)
    assert center_in_file(file, 1) == pytest.approx(center(fine, labels), abs=0.7)


def test_a_parametric_map_keeps_its_values_and_unit(tmp_path):
    write_series(tmp_path / "series", GRID)
    entropy = np.random.default_rng(0).random(GRID.shape).astype(np.float32)
    write_parametric_map(tmp_path / "m.dcm", otherwise_stored(GRID.with_data(entropy)), "Entropy", "bit", tmp_path / "series")
    file = pydicom.dcmread(tmp_path / "m.dcm")
    mapping = file.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert "FrameAnatomySequence" in file.SharedFunctionalGroupsSequence[0], "dcmqi, which reads it for 3D Slicer, needs it"
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "bit" and mapping.LUTLabel == "Entropy"
    assert file.pixel_array.dtype == np.float32 and file.pixel_array.shape == (10, 24, 20)
    index = np.linalg.inv(LPS @ GRID.affine)
    positions = [frame.PlanePositionSequence[0].ImagePositionPatient for frame in file.PerFrameFunctionalGroupsSequence]
    slices = [round(float((index @ [*(float(v) for v in position), 1])[2])) for position in positions]
    assert slices == list(range(10)), "dcmqi takes the frames in this order"
    assert np.allclose(file.pixel_array, entropy.T, atol=1e-6)
    assert np.allclose(hd.imread(tmp_path / "m.dcm").get_volume().array[::-1], entropy.T, atol=1e-6)  # it sorts the other way


def test_an_image_without_any_structure_is_written(tmp_path):
    write_series(tmp_path / "series", GRID)
    write_segmentation(tmp_path / "s.dcm", GRID.with_data(np.zeros(GRID.shape, np.uint8)), CLASSES, tmp_path / "series")
    assert not pydicom.dcmread(tmp_path / "s.dcm").pixel_array.any()


def test_a_series_without_names_is_fine(tmp_path):
    write_series(tmp_path / "series", GRID, leave_out=("PatientName", "PatientBirthDate", "StudyTime", "SeriesNumber"))
    write_segmentation(tmp_path / "s.dcm", structures(GRID), CLASSES, tmp_path / "series")
    assert pydicom.dcmread(tmp_path / "s.dcm").SeriesNumber == 1000


def test_of_several_series_the_one_that_the_library_reads_is_taken(tmp_path):
    scout = placed((20, 24, 3), np.eye(3), (2, 2, 5))
    write_series(tmp_path / "study" / "scout", scout)
    header = write_series(tmp_path / "study" / "main", GRID)[0]
    assert load(tmp_path / "study").shape == GRID.shape
    write_segmentation(tmp_path / "s.dcm", structures(GRID), CLASSES, tmp_path / "study")
    assert pydicom.dcmread(tmp_path / "s.dcm").FrameOfReferenceUID == header.FrameOfReferenceUID


# --- what a user can do wrong


def fails(folder, text: str, image: Volume = GRID) -> None:
    with pytest.raises(InputError, match=text):
        check_source(folder / "series", image)
    with pytest.raises(InputError, match=text):
        write_segmentation(folder / "s.dcm", image.as_type(np.uint8), CLASSES, folder / "series")
    assert not (folder / "s.dcm").exists()


def test_without_a_series(tmp_path):
    with pytest.raises(InputError, match="need the DICOM series that the image was made from"):
        write_segmentation(tmp_path / "s.dcm", structures(GRID), CLASSES, None)
    fails(tmp_path, "There is no folder .*series")


def test_a_folder_without_dicom(tmp_path):
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "notes.txt").write_text("no image")
    fails(tmp_path, "holds no readable DICOM images")


def test_two_series_of_the_same_size_are_named(tmp_path):
    write_series(tmp_path / "series" / "a", GRID, name="T1")
    write_series(tmp_path / "series" / "b", GRID, name="FLAIR")
    fails(tmp_path, r"holds 2 DICOM series \(series 4 .*T1: 10 slices; series 4 FLAIR: 10 slices\)")


def test_a_series_of_another_place(tmp_path):
    write_series(tmp_path / "series", GRID)
    fails(tmp_path, "covers 0 % of the image only", Volume(GRID.data, GRID.affine + np.array([[0, 0, 0, 500.0]] + [[0] * 4] * 3)))


def test_a_slice(tmp_path):
    write_series(tmp_path / "series", GRID)
    fails(tmp_path, r"3-D images only, not of one slice \(20, 24\)", Volume(GRID.data[..., :1], GRID.affine))


def test_a_series_that_nothing_can_refer_to(tmp_path):
    write_series(tmp_path / "series", GRID, leave_out=("FrameOfReferenceUID",))
    fails(tmp_path, "lacks FrameOfReferenceUID")


def test_highdicom_is_not_there(tmp_path, monkeypatch):
    def without(name, *arguments):
        if name == "highdicom":
            raise ImportError(name)
        return original(name, *arguments)

    original = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without)
    fails(tmp_path, "pip install highdicom")
