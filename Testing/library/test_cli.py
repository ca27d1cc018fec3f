"""The command line as a user meets it: files, messages, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import SimpleITK as sitk

from imagingai.__main__ import main
from imagingai.volume import Volume, load, save


def register(pair, output, *more):
    return main(["register", "--fixed", f"{pair}/fixed.nii.gz", "--moving", f"{pair}/moving.nii.gz", "--output", str(output), *more])


@pytest.fixture(scope="module")
def result(pair, tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "result"
    labels = ["--fixed-labels", f"{pair}/fixed_labels.nii.gz", "--moving-labels", f"{pair}/moving_labels.nii.gz"]
    assert register(pair, output, *labels, "--preset", "fast") == 0
    return output


def test_register_writes_what_the_readme_says(result):
    assert {
        "moved.nii.gz",
        "transform.h5",
        "inverse.h5",
        "jacobian.nii.gz",
        "similarity_map.nii.gz",
        "report.html",
        "result.json",
        "job.json",
    } <= {file.name for file in result.iterdir()}
    found = json.loads((result / "result.json").read_text())
    assert found["state"] == "done"
    assert found["summary"]["dice"] > 0.97 > found["summary"]["dice_before"]
    assert found["summary"]["folding_percent"] == 0


def test_simpleitk_reproduces_moved_from_the_transform_file(pair, result):
    fixed, moving = (sitk.ReadImage(f"{pair}/{name}.nii.gz") for name in ("fixed", "moving"))
    again = sitk.Resample(moving, fixed, sitk.ReadTransform(f"{result}/transform.h5"), sitk.sitkLinear, 0.0)
    moved = sitk.ReadImage(f"{result}/moved.nii.gz")
    np.testing.assert_allclose(sitk.GetArrayFromImage(moved), sitk.GetArrayFromImage(again), atol=1e-4 * 150)


def test_apply_moves_labels_like_the_image(pair, result, tmp_path, capsys):
    files = ["--transform", f"{result}/transform.h5", "--fixed", f"{pair}/fixed.nii.gz", "--moving", f"{pair}/moving_labels.nii.gz"]
    assert main(["apply", *files, "--interpolation", "nearest", "--output", f"{tmp_path}/moved.nrrd"]) == 0
    moved, fixed = load(f"{tmp_path}/moved.nrrd").data > 0, load(f"{pair}/fixed_labels.nii.gz").data > 0
    assert 2 * (moved & fixed).sum() / (moved.sum() + fixed.sum()) > 0.97
    assert [file.name for file in tmp_path.iterdir()] == ["moved.nrrd"]
    assert main(["apply", *files, "--output", f"{tmp_path}/moved.nrrd"]) == 2
    assert "moved.nrrd exists. Choose another name, or add --overwrite to replace it." in capsys.readouterr().err


def test_invert_undoes_the_transform(pair, result, tmp_path, capsys):
    files = ["--transform", f"{result}/transform.h5", "--fixed", f"{pair}/fixed.nii.gz", "--moving", f"{pair}/moving.nii.gz"]
    assert main(["invert", *files, "--output", f"{tmp_path}/inverse.h5"]) == 0
    forward, back = (sitk.ReadTransform(str(path)) for path in (result / "transform.h5", tmp_path / "inverse.h5"))
    point = (-36.0, -30.0, 0.0)[: forward.GetDimension()]
    np.testing.assert_allclose(back.TransformPoint(forward.TransformPoint(point)), point, atol=0.1)
    assert "inverse consistency" in capsys.readouterr().out.lower()


def test_evaluate_prints_and_writes_the_metrics(pair, result, tmp_path, capsys):
    labels = ["--fixed-labels", f"{pair}/fixed_labels.nii.gz", "--moving-labels", f"{pair}/moving_labels.nii.gz"]
    assert (
        main(["evaluate", "--transform", f"{result}/transform.h5", "--fixed", f"{pair}/fixed.nii.gz", *labels, "--output", f"{tmp_path}/e"])
        == 0
    )
    assert json.loads((tmp_path / "e" / "result.json").read_text())["summary"]["dice"] > 0.97
    assert "Dice" in capsys.readouterr().out


def test_a_job_folder_can_be_repeated(result, tmp_path, capsys):
    (tmp_path / "job.json").write_text((result / "job.json").read_text())
    assert main(["run", str(tmp_path)]) == 0
    progress = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert progress[-1]["fraction"] == 1.0 and all("text" in line for line in progress)
    np.testing.assert_array_equal(load(tmp_path / "moved.nii.gz").data, load(result / "moved.nii.gz").data)


def test_list_shows_everything(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("register", "evaluate", "--preset accurate", "deepsim_seg", "ncc+0.5*mind", "brain3d_seg"))


def test_a_result_is_not_overwritten_unasked(pair, result, capsys):
    assert register(pair, result) == 2
    assert "already holds a result. Choose another folder, or add --overwrite to replace it." in capsys.readouterr().err


FASTEST = ("--preset", "fast", "--alignment", "none", "--iterations", "1", "--outputs")


def test_after_a_typo_the_command_can_be_repeated(pair, tmp_path):
    assert main(["register", "--fixed", "typo.nii.gz", "--moving", f"{pair}/moving.nii.gz", "--output", str(tmp_path)]) == 2
    assert register(pair, tmp_path, *FASTEST, "moved") == 0


def test_only_earlier_results_are_replaced(pair, tmp_path, capsys):
    (tmp_path / "moved.nii.gz").write_text("mine")
    assert register(pair, tmp_path, *FASTEST, "moved") == 2
    assert "already has moved.nii.gz, which would be replaced. Choose another output folder." in capsys.readouterr().err
    assert (tmp_path / "moved.nii.gz").read_text() == "mine"
    (tmp_path / "moved.nii.gz").unlink()
    assert register(pair, tmp_path, *FASTEST, "moved") == 0
    assert register(pair, tmp_path, *FASTEST, "jacobian", "--overwrite") == 0
    assert not (tmp_path / "moved.nii.gz").exists(), "an old result beside a new one would mislead"
    files = ["--fixed", f"{tmp_path}/jacobian.nii.gz", "--moving", f"{pair}/moving.nii.gz", "--output", str(tmp_path)]
    assert main(["register", *files, "--overwrite"]) == 2
    assert "jacobian.nii.gz is an earlier result in the output folder and would be replaced" in capsys.readouterr().err
    assert (tmp_path / "jacobian.nii.gz").exists()


def test_a_folder_is_not_a_file(pair, tmp_path, capsys):
    files = ["--transform", "t.h5", "--fixed", f"{pair}/fixed.nii.gz", "--output", str(tmp_path)]
    assert main(["invert", *files, "--overwrite"]) == 2
    assert "is a folder. Give the name of the file to write" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--fixed-mask", "{}/nothing.nii.gz"], "--fixed-mask: there is no file"),
        (["--fixed-mask", "x" * 300], "--fixed-mask: there is no file"),
        (["--fixed", ""], "--fixed is missing: Image that stays"),
        (["--similarity", "ssd"], "--similarity has no choice 'ssd'. Choose from mse, ncc,"),
        (["--similarity", "ncc_sup"], "--similarity ncc_sup compares labels too: give --fixed-labels and --moving-labels"),
        (["--threads", "-1"], "--threads is -1; it must lie between 0 and 256."),
    ],
)
def test_bad_settings_end_with_one_sentence(pair, tmp_path, capsys, more, message):
    assert register(pair, tmp_path / "out", *[text.format(tmp_path) for text in more]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("imagingai: ") and message in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text", "bad.nii.gz"),
        ("nan", "NaN"),
        ("constant", "constant"),
        ("3-D", "2-D"),
    ],
)
def test_bad_images_end_with_one_sentence(pair, tmp_path, capsys, content, message):
    bad, shape = tmp_path / "bad.nii.gz", (1, 20, 20, 20) if content == "3-D" else (1, 20, 20, 1)
    if content == "text":
        bad.write_text("not an image")
    else:
        data = np.random.default_rng(0).random(shape, dtype=np.float32)
        data[..., 3, 3, 0] = np.nan if content == "nan" else data[..., 3, 3, 0]
        save(Volume(data * 0 + 7 if content == "constant" else data, np.eye(4)), bad)
    files = ["--fixed", f"{pair}/fixed.nii.gz", "--moving", str(bad)]
    assert main(["register", *files, "--output", f"{tmp_path}/out"]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert {file.name for file in (tmp_path / "out").iterdir()} <= {"job.json", "result.json"}


def test_an_output_folder_that_cannot_be_written(pair, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert register(pair, tmp_path / "file" / "out") == 2
    assert "Choose a folder that you may write to." in capsys.readouterr().err


def test_an_unknown_option_names_the_way_out(pair, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        register(pair, tmp_path, "--sharpness", "3")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "imagingai: unrecognized arguments: --sharpness 3. See imagingai --help.\n"


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_no_half_written_files_and_exits_130(tmp_path, number):
    random = np.random.default_rng(0)
    for name in ("fixed", "moving"):
        save(Volume(random.random((1, 96, 96, 96), dtype=np.float32), np.eye(4)), tmp_path / f"{name}.nii.gz")
    command = [sys.executable, "-m", "imagingai", "register", "--fixed", "fixed.nii.gz", "--moving", "moving.nii.gz", "--output", "out"]
    child = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while "Aligning" not in (line := child.stderr.readline()) and line:
        pass
    child.send_signal(number)
    began = time.time()
    assert child.wait(20) == 130, child.stderr.read()
    assert time.time() - began < 10
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"job.json", "result.json"}
    assert json.loads((tmp_path / "out" / "result.json").read_text())["state"] == "cancelled"


STOPPED_WHILE_IMPORTING = """
import builtins
real = builtins.__import__
def stop(name, *more):
    if name == "imagingai.tasks":
        raise KeyboardInterrupt
    return real(name, *more)
builtins.__import__ = stop
import imagingai.__main__
"""


def test_ctrl_c_in_the_first_moment_is_quiet():
    child = subprocess.run([sys.executable, "-c", STOPPED_WHILE_IMPORTING], capture_output=True, text=True)
    assert (child.returncode, child.stderr) == (130, "")
