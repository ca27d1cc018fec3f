"""Installing what jobs need and choosing their Python, on stand-ins for Slicer's packaging and a real pip and Python."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import imagingai
from imagingai.federated import packages

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "DeepSimRegistration/Resources/DeepSimRegistrationRequirements.txt"


class FakeSlicer:
    """Slicer as install.py sees it: what is installed, what pip was asked for, settings, PyTorchUtils."""

    def __init__(self, monkeypatch, version: str) -> None:
        self.monkeypatch, self.installed = monkeypatch, {"numpy": "2.4.6", "scipy": "1.17.1", "SimpleITK": "2.5.5"}
        self.pip: list[dict] = []
        self.settings: dict[str, str] = {}
        self.pipCode, self.pipInstalls = 0, True
        self.startup = {"PATH": os.environ["PATH"], "PYTHONPATH": "/theirs", "LD_LIBRARY_PATH": "/usr/lib"}
        slicer, util, i18n = types.ModuleType("slicer"), types.ModuleType("slicer.util"), types.ModuleType("slicer.i18n")
        slicer.util, i18n.tr = util, lambda text: text
        util.settingsValue = lambda key, default: self.settings.get(key, default)
        util.startupEnvironment = lambda: dict(self.startup)
        parts = {"slicer": slicer, "slicer.util": util, "slicer.i18n": i18n, "slicer.packaging": None, "PyTorchUtils": None}
        if version == "5.10":
            util.pip_install = self.pipInstall
        else:
            parts["slicer.packaging"] = types.ModuleType("slicer.packaging")
            parts["slicer.packaging"].pip_install = self.pipInstall
            parts["slicer.packaging"].pip_check = lambda requirement: requirement.split(">=")[0] in self.installed
        for name, module in parts.items():
            monkeypatch.setitem(sys.modules, name, module)  # None: importing it fails
        found = importlib.util.spec_from_file_location("install_on_stand_ins", ROOT / "ImagingAILib/install.py")
        self.install = importlib.util.module_from_spec(found)  # outside of its package, which other tests import on real MRML
        found.loader.exec_module(self.install)
        monkeypatch.setattr(self.install, "_version", self.installed.get)

    def pipInstall(self, requirements: list[str], constraints: Path | None = None, requester: str = "") -> None:
        if "--constraint" in requirements:
            at = requirements.index("--constraint")
            requirements, constraints = requirements[:at] + requirements[at + 2 :], requirements[at + 1]
        self.pip.append({"asked": requirements, "kept": Path(constraints).read_text(encoding="utf-8").split() if constraints else []})
        if self.pipCode:
            raise subprocess.CalledProcessError(self.pipCode, "pip")
        if self.pipInstalls:
            self.installed |= {requirement.split(">=")[0]: "99" for requirement in requirements if not requirement.startswith("-")}

    def addPyTorchUtils(self, works: bool = True) -> list[dict]:
        """The extension PyTorch; the list tells how its installTorch was called."""
        calls = []

        class PyTorchUtilsLogic:
            def installTorch(logic, **options):
                constraints = os.environ["PIP_CONSTRAINT"]
                calls.append(options | {"constraints": constraints, "kept": _readUri(constraints)})
                if works:
                    self.installed["torch"] = "2.7.1+cu128"
                return types.ModuleType("torch") if works else None

        self.monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=PyTorchUtilsLogic))
        return calls


def _readUri(uri: str) -> list[str]:
    from urllib.request import urlopen

    return urlopen(uri).read().decode().split()


@pytest.fixture(params=["5.10", "5.12"])
def slicer(request, monkeypatch):
    return FakeSlicer(monkeypatch, request.param)


def test_what_is_missing_is_found_without_importing_it(slicer):
    assert slicer.install.missingPackages(REQUIREMENTS) == ["torch>=2.2", "safetensors>=0.4", "matplotlib>=3.7"]


@pytest.mark.parametrize(("there", "enough"), [("2.1.9", False), ("2.2", True), ("2.13.0+cpu", True), ("3", True)])
def test_a_package_that_is_too_old_counts_as_missing(monkeypatch, there, enough):
    slicer = FakeSlicer(monkeypatch, "5.10")  # 5.12 has pip_check for this
    slicer.installed["torch"] = there
    assert slicer.install.isInstalled("torch>=2.2") == enough


def test_the_question_lists_packages_with_sizes_and_no_installs_nothing(slicer):
    questions = []
    assert slicer.install.ensure(REQUIREMENTS, lambda text: questions.append(text)) is False  # append returns None: no
    assert slicer.pip == []
    for part in ("torch>=2.2 (200 MB", "matplotlib>=3.7", "safetensors>=0.4", "extension PyTorch"):
        assert part in questions[0]


def test_yes_installs_the_missing_packages_and_keeps_what_slicer_has(slicer):
    assert slicer.install.ensure(REQUIREMENTS, lambda text: True) is True
    torch, others = slicer.pip
    assert torch["asked"] == ["torch>=2.2", "--extra-index-url", "https://download.pytorch.org/whl/cpu"]
    assert others["asked"] == ["safetensors>=0.4", "matplotlib>=3.7"]
    assert {"numpy==2.4.6", "SimpleITK==2.5.5"} <= set(torch["kept"]) & set(others["kept"])
    assert "torch==99" in others["kept"]  # a build for the graphics card is not replaced by another


def test_torch_comes_through_the_extension_pytorch_which_keeps_slicers_packages_too(slicer):
    calls = slicer.addPyTorchUtils()
    slicer.monkeypatch.setenv("PIP_CONSTRAINT", "of the user")
    assert slicer.install.ensure(REQUIREMENTS, lambda text: "extension PyTorch" not in text) is True
    assert calls[0]["torchVersionRequirement"] == ">=2.2" and calls[0]["askConfirmation"] is False
    assert "numpy==2.4.6" in calls[0]["kept"]
    assert os.environ["PIP_CONSTRAINT"] == "of the user"
    assert [call["asked"] for call in slicer.pip] == [["safetensors>=0.4", "matplotlib>=3.7"]]


def test_a_torch_that_is_too_old_may_be_replaced(monkeypatch):
    slicer = FakeSlicer(monkeypatch, "5.10")
    slicer.installed["torch"] = "2.0"
    calls = slicer.addPyTorchUtils()
    assert slicer.install.ensure(REQUIREMENTS, lambda text: True) is True
    assert "torch==2.0" not in calls[0]["kept"]


def test_nothing_is_asked_when_all_is_there(slicer):
    slicer.installed |= {"torch": "2.7", "safetensors": "0.5", "matplotlib": "3.9"}
    assert slicer.install.ensure(REQUIREMENTS, lambda text: pytest.fail(text)) is True


def test_a_wheel_folder_replaces_the_network_for_torch_as_well(slicer, tmp_path):
    calls = slicer.addPyTorchUtils()
    slicer.settings["ImagingAI/WheelFolder"] = str(tmp_path)
    assert slicer.install.ensure(REQUIREMENTS, lambda text: str(tmp_path) in text) is True
    assert calls == []
    assert all(call["asked"][-3:] == ["--no-index", "--find-links", str(tmp_path)] for call in slicer.pip)


@pytest.fixture
def flowerFolder(slicer, tmp_path, monkeypatch):
    """Where Flower is to be installed; all other packages are there."""
    monkeypatch.setenv("IMAGINGAI_FLOWER", str(tmp_path / "flower"))
    slicer.installed |= {"torch": "2.7", "safetensors": "0.5", "matplotlib": "3.9"}
    plain = slicer.pipInstall

    def pipInstall(arguments, **options):
        (tmp_path / "flower").mkdir(exist_ok=True)
        plain(arguments, **options)

    for name in ("slicer.packaging", "slicer.util"):
        if hasattr(sys.modules[name], "pip_install"):
            monkeypatch.setattr(sys.modules[name], "pip_install", pipInstall)
    return tmp_path / "flower"


def test_flower_goes_into_a_folder_of_its_own(slicer, flowerFolder, tmp_path):
    questions = []
    assert slicer.install.ensure(REQUIREMENTS, lambda text: pytest.fail(text)) is True, "other modules do not ask for it"
    assert slicer.install.ensure(REQUIREMENTS, lambda text: questions.append(text), flower=True) is False
    assert str(flowerFolder) in questions[0] and "170 MB" in questions[0] and slicer.pip == []
    slicer.settings["ImagingAI/WheelFolder"] = str(tmp_path)
    assert slicer.install.ensure(REQUIREMENTS, lambda text: True, flower=True) is True
    (call,) = slicer.pip
    assert call["asked"][:4] == ["--no-deps", "--upgrade", "--target", str(flowerFolder)] and call["kept"] == []
    assert call["asked"][-5:-2] == ["--no-index", "--find-links", str(tmp_path)]
    assert slicer.install.ensure(REQUIREMENTS, lambda text: pytest.fail(text), flower=True) is True, "it is asked once"


def test_a_flower_that_could_not_be_installed_is_asked_for_again(slicer, flowerFolder):
    slicer.pipCode = 1
    with pytest.raises(slicer.install.InstallError, match="while it installed Flower"):
        slicer.install.ensure(REQUIREMENTS, lambda text: True, flower=True)
    slicer.pipCode = 0
    assert slicer.install.ensure(REQUIREMENTS, lambda text: False, flower=True) is False


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Flower needs Python 3.11")
def test_another_python_needs_its_own_flower(slicer, tmp_path):
    slicer.settings["ImagingAI/Python"] = sys.executable
    slicer.startup["IMAGINGAI_FLOWER"] = str(tmp_path)
    with pytest.raises(slicer.install.InstallError, match=r"has no Flower\. Install it there with: .* -m imagingai federated install"):
        slicer.install.ensure(REQUIREMENTS, lambda text: pytest.fail(text), flower=True)
    (tmp_path / packages.MARK).write_text(packages.REQUIREMENTS.read_text(encoding="utf-8"), encoding="utf-8")
    assert slicer.install.ensure(REQUIREMENTS, lambda text: pytest.fail(text), flower=True) is True


def test_errors_say_the_cause_and_the_way_out(slicer, tmp_path):
    error = slicer.install.InstallError
    slicer.settings["ImagingAI/WheelFolder"] = str(tmp_path / "gone")
    with pytest.raises(error, match=r"gone does not exist\. Choose another"):
        slicer.install.ensure(REQUIREMENTS, lambda text: True)
    slicer.settings.clear()
    slicer.pipCode = 2
    with pytest.raises(error, match=r"pip ended with code 2 .* torch>=2\.2\. Check the network or the proxy"):
        slicer.install.ensure(REQUIREMENTS, lambda text: True)
    slicer.addPyTorchUtils(works=False)
    with pytest.raises(error, match=r"did not install PyTorch\. Install it in the module PyTorch Utils"):
        slicer.install.ensure(REQUIREMENTS, lambda text: True)


def test_a_pip_that_ends_well_but_installed_nothing_is_noticed(slicer):
    slicer.addPyTorchUtils()
    slicer.pipInstalls = False
    with pytest.raises(slicer.install.InstallError, match=r"safetensors>=0\.4, matplotlib>=3\.7 cannot be found\. Restart Slicer"):
        slicer.install.ensure(REQUIREMENTS, lambda text: True)


def test_a_real_pip_installs_from_the_wheel_folder_and_keeps_the_pinned_version(slicer, tmp_path):
    """pip understands what it is given: a dry run against wheels of two versions, one of which is pinned."""
    wheels = tmp_path / "my wheels"
    for name in ("demo_kept-1.0", "demo_kept-2.0", "demo_new-1.0"):
        _makeWheel(wheels, name, requires="demo_kept" if name == "demo_new-1.0" else "")
    slicer.installed["demo_kept"] = "1.0"
    slicer.monkeypatch.setattr(slicer.install, "KEPT", ("demo_kept",))
    with slicer.install._constraints() as constraints:
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--find-links", str(wheels), "demo_new"]
        explicit = subprocess.run([*command, "--constraint", str(constraints)], capture_output=True, text=True, check=True)
        with slicer.install._variable("PIP_CONSTRAINT", constraints.as_uri()):
            inherited = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Would install demo_kept-1.0 demo_new-1.0" in explicit.stdout
    assert explicit.stdout.splitlines()[-1] == inherited.stdout.splitlines()[-1]


def _makeWheel(folder: Path, name: str, requires: str) -> None:
    import zipfile

    folder.mkdir(exist_ok=True)
    package, version = name.split("-")
    metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n" + (f"Requires-Dist: {requires}\n" if requires else "")
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.dist-info/METADATA", metadata)
        wheel.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}.dist-info/RECORD", "")


def test_jobs_run_with_pythonslicer_and_the_library_of_the_extension(slicer, tmp_path, monkeypatch):
    program = tmp_path / ("PythonSlicer.exe" if os.name == "nt" else "PythonSlicer")
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", "before")
    assert slicer.install.python() == [str(program)]
    assert slicer.install.jobEnvironment()["PATH"] == str(tmp_path)
    assert slicer.install.jobEnvironment()["PYTHONPATH"].split(os.pathsep) == [str(Path(imagingai.__file__).parents[1]), "before"]
    monkeypatch.setenv("PATH", "")
    with pytest.raises(slicer.install.InstallError, match="PythonSlicer is not on the PATH"):
        slicer.install.python()


def test_another_python_gets_the_environment_from_before_slicer(slicer):
    slicer.settings["ImagingAI/Python"] = sys.executable
    assert slicer.install.python() == [sys.executable]
    assert slicer.install.jobEnvironment() == {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": "/usr/lib"}


def test_the_folder_of_an_environment_will_do(slicer, tmp_path, monkeypatch):
    program = tmp_path / "env" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    slicer.settings["ImagingAI/Python"] = "~/env"
    assert slicer.install.python() == [str(program)]


def test_this_python_can_run_jobs_and_then_nothing_is_installed(slicer):
    assert slicer.install.checkPython(sys.executable) is None
    slicer.settings["ImagingAI/Python"] = sys.executable
    assert slicer.install.ensure(REQUIREMENTS, lambda text: pytest.fail(text)) is True


@pytest.mark.skipif(os.name == "nt", reason="the stand-ins are shell scripts")
@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("echo 0.0.1", r"has imagingai 0\.0\.1, but .* or newer is needed\. Update it there with pip\."),
        ("echo \"ModuleNotFoundError: No module named 'imagingai'\" >&2; exit 1", r"has no imagingai\. Install it there with pip"),
        ("echo 'ImportError: wrong libc' >&2; exit 1", r"cannot load imagingai \(ImportError: wrong libc\)"),
        ("exit 3", r"cannot load imagingai \(exit code 3\)"),
        ("sleep 20", r"did not answer within 0\.5 seconds"),
    ],
)
def test_a_python_that_cannot_run_jobs_is_refused_with_the_reason(slicer, tmp_path, script, sentence):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    slicer.monkeypatch.setattr(slicer.install, "PATIENCE", 0.5 if "sleep" in script else 20)
    slicer.settings["ImagingAI/Python"] = str(program)
    with pytest.raises(slicer.install.InstallError, match=sentence):
        slicer.install.ensure(REQUIREMENTS, lambda text: True)


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_another_python_is_checked_without_slicers_own_variables(slicer, tmp_path, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/slicer/lib")
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\n[ -z "$PYTHONPATH" ] && [ "$LD_LIBRARY_PATH" = /usr/lib ] && echo {imagingai.__version__}\n')
    program.chmod(0o755)
    assert slicer.install.checkPython(str(program)) is None


def test_a_python_that_is_not_there(slicer, tmp_path):
    assert "cannot be started (No such file" in slicer.install.checkPython(str(tmp_path / "nowhere"))


def test_the_shell_of_the_current_folder_does_not_lend_its_imagingai(slicer, tmp_path, monkeypatch):
    """A Python without imagingai is not taken for one that has it because Slicer was started in the source folder."""
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    monkeypatch.chdir(ROOT)
    assert "has no imagingai" in slicer.install.checkPython(str(bare))
