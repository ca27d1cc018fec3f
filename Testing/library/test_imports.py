"""The rules of flow of docs/developing.md, so that they cannot rot."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[2] / "imagingai"
LIGHT = [
    "errors.py",
    "options.py",
    "job.py",
    "tasks.py",
    "progress.py",
    "__main__.py",
    "batch.py",
    "datasets.py",
    "uncertainty/queue.py",
    *(str(p.relative_to(LIBRARY)) for p in LIBRARY.glob("*/config.py")),
]


def imported(file: Path) -> set[str]:
    """Top-level names of all modules that a file imports anywhere."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("file", LIGHT)
def test_what_panels_and_help_need_imports_the_standard_library_only(file):
    outside = {
        name for name in imported(LIBRARY / file) if name.split(".")[0] not in sys.stdlib_module_names and not name.startswith("imagingai")
    }
    assert not outside


@pytest.mark.parametrize("file", sorted(LIBRARY.rglob("*.py")), ids=lambda file: str(file.relative_to(LIBRARY)))
def test_the_library_never_imports_slicer(file):
    assert not {name.split(".")[0] for name in imported(file)} & {"slicer", "qt", "ctk", "vtk", "ImagingAILib", "torchvision"}


def test_help_starts_without_torch():
    code = """
import sys
import imagingai.__main__
try:
    imagingai.__main__.main(["register", "--help"])
except SystemExit:
    assert "torch" not in sys.modules and "numpy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_features_do_not_import_each_others_tasks():
    for file in LIBRARY.glob("*/*.py"):
        for name in imported(file):
            parts = name.split(".")
            assert not (parts[0] == "imagingai" and parts[-1] == "task" and parts[1] != file.parent.name), f"{file} imports {name}"
