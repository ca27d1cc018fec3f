"""The moved image while a registration runs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from grids import GRIDS, textured

from imagingai import job
from imagingai.errors import Cancelled
from imagingai.registration import RegistrationConfig, preview, register
from imagingai.transform import Affine, warp
from imagingai.volume import Volume, load, resample_like

FAST = {"iterations": (20, 20), "alignment": "none"}


@pytest.fixture
def unhurried(monkeypatch):
    """A preview before every iteration."""
    monkeypatch.setattr(preview, "INTERVAL", 0.0)
    monkeypatch.setattr(preview, "SHARE", 1e6)


def likeness(image: Volume, other: Volume) -> float:
    """Correlation where both are, in world space."""
    data = resample_like(image, other, fill=-1).data
    inside = (data > 0) & (other.data > 0)
    assert inside.mean() > 0.3
    return float(np.corrcoef(data[inside], other.data[inside])[0, 1])


def shifted(name: str) -> tuple[Volume, Volume]:
    """A textured image on a grid, and the same moved by about two voxels along its axes."""
    fixed, matrix = textured(GRIDS[name]), np.eye(4)
    matrix[:3, 3] = GRIDS[name].affine[:3, :2].sum(1) * 1.5
    return fixed, warp(fixed, Affine(matrix), fixed)


@pytest.mark.parametrize("name", ["LAS", "oblique", "slice"])
@pytest.mark.parametrize("deformation", ["displacement", "velocity"])
def test_previews_go_from_the_moving_to_the_moved_image(unhurried, name, deformation):
    fixed, moving = shifted(name)
    shown = []
    result = register(fixed, moving, RegistrationConfig(**FAST, deformation=deformation), preview=shown.append)
    assert len(shown) > 10 and all(image.data.dtype == np.float32 for image in shown)
    for image, transform in ((shown[0], Affine(np.eye(4))), (shown[-1], result.transform)):
        assert likeness(image, warp(moving, transform, image)) > 0.98
    assert likeness(shown[0], warp(moving, result.transform, shown[0])) < 0.9


def test_a_large_image_is_shown_on_a_coarser_grid_with_the_same_corners(monkeypatch):
    monkeypatch.setattr(preview, "LARGEST", 3000)
    grid = GRIDS["oblique"]
    small = preview.coarser(grid)
    assert np.prod(small.shape) <= 3000 < np.prod(grid.shape)
    ends = [volume.affine @ [*(np.array(volume.shape) - 1), 1] for volume in (grid, small)]
    np.testing.assert_allclose(*ends, atol=1e-9)
    np.testing.assert_array_equal(grid.origin, small.origin)


def test_previews_come_once_a_second_and_take_three_percent_of_the_time_at_most(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock, shown = Clock(), []
    monkeypatch.setattr(preview, "time", clock)
    looking = preview.Preview.__new__(preview.Preview)
    looking.next = 0.0

    def work(displacement):
        shown.append(clock.now)
        clock.now += displacement()  # seconds that it takes

    monkeypatch.setattr(preview.Preview, "draw", lambda self, displacement: work(displacement))
    for cost in (0.01, 0.6):
        shown.clear()
        for _ in range(600):
            clock.now += 0.1
            looking.offer(lambda: cost)  # noqa: B023 - called at once
        gaps = np.diff(shown)
        assert gaps.min() >= max(1.0, cost / 0.03) and len(shown) >= 3


@pytest.fixture
def folder(tmp_path, pair):
    config = {**FAST, "preview": True, "outputs": ["moved"]}
    job.Job("register", {"fixed": str(pair / "fixed.nii.gz"), "moving": str(pair / "moving.nii.gz")}, config).write(tmp_path / "job")
    return tmp_path / "job"


def test_a_job_shows_its_preview_while_it_runs_and_removes_it(folder, unhurried):
    seen = []

    def look(fraction, text):
        if (folder / "preview.nrrd").exists():
            seen.append(load(folder / "preview.nrrd"))

    result = job.run(folder, look)
    assert likeness(seen[-1], load(folder / "moved.nii.gz")) > 0.98
    assert result["outputs"] == ["moved.nii.gz"] and not (folder / "preview.nrrd").exists()


def test_cancel_removes_the_preview(folder, unhurried):
    def cancel(fraction, text):
        if (folder / "preview.nrrd").exists():
            (folder / "cancel").touch()

    with pytest.raises(Cancelled):
        job.run(folder, cancel)
    assert sorted(file.name for file in folder.iterdir()) == ["cancel", "job.json", "result.json"]


def test_without_the_option_nothing_is_shown(folder):
    content = json.loads((folder / "job.json").read_text())
    content["config"]["preview"] = False
    (folder / "job.json").write_text(json.dumps(content))
    job.run(folder, lambda fraction, text: (folder / "preview.nrrd").exists() and pytest.fail("there is a preview"))
