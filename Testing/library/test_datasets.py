"""Which files make a case: names, channels, readers."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from imagingai.datasets import find_cases, list_images, read_label_names
from imagingai.errors import InputError
from imagingai.volume import Volume, load


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_one_reader(tmp_path):
    touch(tmp_path, "images/b.nii.gz", "images/a.nrrd", "images/.hidden.nii.gz", "images/notes.txt", "labels/a.nii.gz")
    a, b = find_cases(tmp_path / "images", tmp_path / "labels")
    assert (a.name, b.name) == ("a", "b")
    assert a.labels == {"": tmp_path / "labels/a.nii.gz"} and b.labels == {}  # b is not labeled yet


def test_several_readers_need_not_have_read_everything(tmp_path):
    touch(tmp_path, "images/a.png", "images/b.png", "labels/anna/a.png", "labels/bert/a.png", "labels/bert/b.png")
    a, b = find_cases(tmp_path / "images", tmp_path / "labels")
    assert list(a.labels) == ["anna", "bert"] and list(b.labels) == ["bert"]


def test_channels(tmp_path):
    touch(tmp_path, "images/a_0000.nii.gz", "images/a_0001.nii.gz", "labels/a.nii.gz")
    (case,) = find_cases(tmp_path / "images", tmp_path / "labels")
    assert case.name == "a" and [file.name for file in case.images] == ["a_0000.nii.gz", "a_0001.nii.gz"] and case.labels


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["labels/a.png"], r"images is not a folder of images\."),
        (["images/notes.txt", "labels/a.png"], r"images holds no images \(\.nii\.gz, \.nii"),
        (["images/a.png"], r"labels is not a folder of labels\."),
        (["images/a.png", "labels/readme.txt"], r"labels holds no label images \(\.nii\.gz"),
        (["images/a.png", "labels/b.png"], r"labels has no labels for a\.png: the files need the same names\."),
        (["images/a.png", "labels/a.png", "labels/x/a.png"], r"labels holds both label images and folders \(x\)\."),
        (["images/a.png", "images/a.nii.gz", "labels/a.png"], r"a\.nii\.gz and a\.png are the same case a\. Remove or rename one"),
        (
            ["images/a_0000.png", "images/a_0001.png", "images/b_0000.png", "labels/a.png"],
            r"a has 2 channels and b has 1: every case needs",
        ),
        (
            ["images/a_0000.png", "images/a_0001.png", "images/b_0000.png", "images/b_0002.png", "labels/a.png"],
            r"a has the channel _0001 and b has not: every case needs the same ones\.",
        ),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, files, message):
    touch(tmp_path, *files)
    with pytest.raises(InputError, match=message):
        find_cases(tmp_path / "images", tmp_path / "labels")


def test_a_file_instead_of_a_folder(tmp_path):
    touch(tmp_path, "a.nii.gz")
    with pytest.raises(InputError, match=r"a\.nii\.gz is not a folder of images\."):
        list_images(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("text", ["value,name\n1,Höhle\n", "1,Höhle\n", "\ufeff1,Höhle\n", "value;name\r\n1;Höhle\r\n"])
def test_names_of_labels_as_spreadsheets_save_them(tmp_path, text):
    (tmp_path / "a.csv").write_bytes(text.encode())
    assert read_label_names(tmp_path / "a.nii.gz") == {1: "Höhle"}


def test_names_that_are_not_utf8(tmp_path):
    (tmp_path / "a.csv").write_bytes("1,Höhle\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"a\.csv is no text in UTF-8\. Save it as CSV UTF-8, or remove it\."):
        read_label_names(tmp_path / "a.nii.gz")


def test_names_of_segments_are_read_from_their_header(tmp_path):
    from imagingai.uncertainty.seg_nrrd import write_seg_nrrd

    labels = Volume(np.array([0, 3, 7, 7], np.uint8).reshape(1, 2, 2, 1), np.eye(4))
    write_seg_nrrd(tmp_path / "a.seg.nrrd", labels, (3, 7), ("Left ear", "Tumör"))
    assert read_label_names(tmp_path / "a.seg.nrrd") == {3: "Left ear", 7: "Tumör"}
    assert load(tmp_path / "a.seg.nrrd", label=True).data.ravel().tolist() == [0, 3, 7, 7]


@pytest.mark.parametrize("layers", [2, 3])
def test_overlapping_segments_are_not_taken_for_a_color_image(tmp_path, layers):
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 5, 6, layers), np.uint8), isVector=True), str(tmp_path / "a.seg.nrrd"))
    with pytest.raises(InputError, match=rf"a\.seg\.nrrd holds segments that overlap, in {layers} layers\. Make them disjoint"):
        load(tmp_path / "a.seg.nrrd", label=True)
