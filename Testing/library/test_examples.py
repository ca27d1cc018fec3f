"""The examples run and show what they promise."""

from __future__ import annotations

import importlib.util
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_register_files(tmp_path):
    assert min(example("01_register_files").main(tmp_path).values()) > 0.6
    assert (tmp_path / "moved.nii.gz").exists() and (tmp_path / "transform.h5").exists()


def test_arrays_and_simpleitk():
    assert example("02_arrays_and_simpleitk").main() < 15


def test_transforms():
    assert example("03_transforms").main() < 0.25  # mm, a quarter of a voxel


def test_segment_with_uncertainty():
    assert 0.1 < example("04_segment_with_uncertainty").main(samples=2) < 1.5  # bits in the structures
