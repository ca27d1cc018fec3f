"""Flower is importable before the first test file of this folder is read; `make test` has installed it."""

from __future__ import annotations

import sys

import pytest

from imagingai.federated.packages import activate


class TooOld(pytest.Module):
    """A test file that this Python cannot run; it is not even imported."""

    def collect(self):
        pytest.skip("Flower needs Python 3.11 or newer", allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    if sys.version_info < (3, 11):
        return TooOld.from_parent(parent, path=module_path)
    activate()  # fails, and with it the run, if the packages are not there
    return None
