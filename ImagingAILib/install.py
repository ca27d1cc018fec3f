"""Which Python runs the jobs, and what it needs: Slicer's own with packages installed on request, or one that the user chose."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import slicer
from slicer.i18n import tr as _

import imagingai
from imagingai.federated import packages

PYTHON_KEY = "ImagingAI/Python"  # setting: a Python with imagingai, or nothing for Slicer's own
WHEELS_KEY = "ImagingAI/WheelFolder"  # setting: a folder with wheels for a computer without a network, or nothing
KEPT = ("numpy", "scipy", "SimpleITK", "pydicom", "requests", "pillow", "torch")  # never replaced by another version
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
SIZES = {"torch": "200 MB, 3 GB for an NVIDIA GPU", "matplotlib": "20 MB", "scipy": "35 MB", "safetensors": "1 MB"}  # of the downloads
PATIENCE = 30  # seconds until a Python has to answer; it may lie on a slow network drive
PROGRAMS = ("bin/python", "Scripts/python.exe", "python.exe")  # of a conda or venv folder
NO_WINDOW = {"creationflags": 0x08000000} if os.name == "nt" else {}


class InstallError(Exception):
    """One sentence for the user: what went wrong and the way out."""


def ensure(requirementsPath: str | Path, confirm: Callable[[str], bool], flower: bool = False) -> bool:
    """Have a Python that can run jobs, flower: also federated ones; False if the user declined to install what is missing.

    Raises `InstallError`. Call it on the main thread: installing shows its progress.
    """
    if chosen := _setting(PYTHON_KEY):
        if problem := checkPython(chosen) or (flower and checkFlower(chosen)):
            raise InstallError(problem)
        return True
    return install(requirementsPath, confirm, flower)


def missingPackages(requirementsPath: str | Path) -> list[str]:
    """The requirements that Slicer's Python does not meet, found without importing any of them."""
    lines = Path(requirementsPath).read_text(encoding="utf-8").splitlines()
    requirements = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return [requirement for requirement in requirements if not isInstalled(requirement)]


def isInstalled(requirement: str) -> bool:
    """Whether Slicer's Python has a package, "name" or "name>=version"."""
    try:
        from slicer.packaging import pip_check
    except ImportError:  # Slicer 5.10
        name, _sign, least = requirement.partition(">=")
        return (found := _version(name)) is not None and _numbers(found) >= _numbers(least)
    return pip_check(requirement)


def install(requirementsPath: str | Path, confirm: Callable[[str], bool], flower: bool = False) -> bool:
    """Install what is missing into Slicer's Python after `confirm(text)`; False if declined. Raises `InstallError`.

    flower: also Flower and its packages, into a folder of their own, because it pins versions that Slicer has otherwise.
    """
    missing, lacksFlower = missingPackages(requirementsPath), flower and not packages.is_installed()
    if not missing and not lacksFlower:
        return True
    wheels, torchLogic = _wheelFolder(), _torchLogic()
    if not confirm(_question(missing, wheels, torchLogic, lacksFlower)):
        return False
    torch = [requirement for requirement in missing if _name(requirement) == "torch"]
    others = [requirement for requirement in missing if requirement not in torch]
    options = ["--no-index", "--find-links", str(wheels)] if wheels else []
    if torch and torchLogic and not wheels:
        _installTorch(torchLogic, torch[0])
    elif torch:
        _pipInstall(torch, options or ["--extra-index-url", CPU_INDEX])
    if others:
        _pipInstall(others, options)
    if lacksFlower:
        _installFlower(wheels)
    importlib.invalidate_caches()
    if lacking := missingPackages(requirementsPath):
        text = _("Installing ended, but {packages} cannot be found. Restart Slicer and try again; the log is in the Python console.")
        raise InstallError(text.format(packages=", ".join(lacking)))
    return True


def python() -> list[str]:
    """How to start the Python that runs the jobs."""
    if chosen := _setting(PYTHON_KEY):
        return [_program(chosen)]
    if slicerPython := shutil.which("PythonSlicer"):  # Slicer puts it on its PATH
        return [slicerPython]
    raise InstallError(_("PythonSlicer is not on the PATH. Reinstall Slicer, or choose another Python in the settings of the panel."))


def jobEnvironment() -> dict[str, str]:
    """All environment variables of a job."""
    if _setting(PYTHON_KEY):
        return _outside()
    library = str(Path(imagingai.__file__).parents[1])
    paths = [library, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def checkPython(path: str) -> str | None:
    """Why a Python cannot run jobs, or None if it can."""
    program = _program(path)
    try:
        done = _run(program, "import imagingai; print(imagingai.__version__)")
    except subprocess.TimeoutExpired:
        return _("{path} did not answer within {seconds} seconds. Choose another Python.").format(path=program, seconds=PATIENCE)
    except OSError as error:
        text = _("{path} cannot be started ({reason}). Choose the python program of an environment, or the folder of the environment.")
        return text.format(path=program, reason=error.strerror or error)
    if "No module named 'imagingai'" in done.stderr:
        return _("{path} has no imagingai. Install it there with pip, or choose another Python.").format(path=program)
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines() or [""]
    if done.returncode or not _numbers(lines[-1]):
        text = _("{path} cannot load imagingai ({reason}). Choose another Python.")
        return text.format(path=program, reason=lines[-1] or _("exit code {code}").format(code=done.returncode))
    if _numbers(lines[-1]) < _numbers(imagingai.__version__):
        text = _("{path} has imagingai {found}, but {needed} or newer is needed. Update it there with pip.")
        return text.format(path=program, found=lines[-1], needed=imagingai.__version__)
    return None


def checkFlower(path: str) -> str | None:
    """Why a Python that can run jobs cannot run federated ones, or None if it can."""
    program = _program(path)
    if _run(program, "from imagingai.federated.packages import activate; activate()").returncode == 0:
        return None
    text = _("{path} has no Flower. Install it there with: {path} -m imagingai federated install")
    return text.format(path=program)


def _run(program: str, code: str) -> subprocess.CompletedProcess:
    """Some code in another Python."""
    with tempfile.TemporaryDirectory() as folder:  # an imagingai folder in the current one must not count
        options = {"cwd": folder, "env": _outside(), "timeout": PATIENCE, **NO_WINDOW}
        return subprocess.run([program, "-c", code], capture_output=True, text=True, check=False, **options)


def _setting(key: str) -> str:
    return (slicer.util.settingsValue(key, "") or "").strip()


def _wheelFolder() -> Path | None:
    folder = _setting(WHEELS_KEY)
    if folder and not Path(folder).is_dir():
        raise InstallError(
            _("The wheel folder {folder} does not exist. Choose another, or none to download packages.").format(folder=folder)
        )
    return Path(folder) if folder else None


def _program(path: str) -> str:
    """The python program of an environment's folder, or the path as it is."""
    place = Path(path).expanduser()
    return str(next((place / name for name in PROGRAMS if (place / name).exists()), place))


def _outside() -> dict[str, str]:
    """The environment from before Slicer started, for a Python that is not Slicer's."""
    return {name: value for name, value in slicer.util.startupEnvironment().items() if not name.startswith("PYTHON")}


def _torchLogic():
    """The logic of the extension PyTorch, which finds the build for the graphics card; None without that extension."""
    try:
        from PyTorchUtils import PyTorchUtilsLogic
    except ImportError:
        return None
    return PyTorchUtilsLogic()


def _question(missing: list[str], wheels: Path | None, torchLogic, lacksFlower: bool) -> str:
    """What will be installed, how much it is and where it comes from."""
    names = [_name(requirement) for requirement in missing]
    size = "  {package}" if wheels else "  {package} ({size})"
    lines = [size.format(package=package, size=SIZES.get(name, _("small"))) for package, name in zip(missing, names, strict=True)]
    if lacksFlower:
        line = _("  Flower {version} and what it needs (170 MB), which go into {folder} only")
        lines.append(line.format(version=packages.FLOWER, folder=packages.folder()))
    if wheels:
        source = _("They will be installed from {folder}, without a network.").format(folder=wheels)
    else:
        source = _("They will be downloaded and installed into Slicer's Python, which takes a few minutes.")
    parts = [_("ImagingAI needs Python packages that Slicer lacks:"), *lines, source, _("What Slicer has already is not changed.")]
    if "torch" in names and not torchLogic and not wheels:
        parts.append(
            _("Without the extension PyTorch this is PyTorch for the CPU. For an NVIDIA GPU cancel and install that extension first.")
        )
    return "\n".join([*parts, _("Install them now?")])


def _installTorch(logic, requirement: str) -> None:
    """Through the extension PyTorch; it runs pip, which reads the constraints from the environment."""
    wayOut = _("Install it in the module PyTorch Utils, then press Apply again.")
    with _constraints(besides=[requirement]) as constraints, _variable("PIP_CONSTRAINT", constraints.as_uri()):
        try:
            module = logic.installTorch(askConfirmation=False, torchVersionRequirement=requirement.removeprefix("torch"))
        except (subprocess.CalledProcessError, OSError, RuntimeError, ValueError, ImportError) as error:
            text = _("The extension PyTorch could not install PyTorch ({reason}). {wayOut}")
            raise InstallError(text.format(reason=error, wayOut=wayOut)) from error
    if module is None:
        raise InstallError(_("The extension PyTorch did not install PyTorch. {wayOut}").format(wayOut=wayOut))


def _installFlower(wheels: Path | None) -> None:
    """Into its own folder, anew: pip does not replace what is there. The mark at the end tells that it is whole."""
    shutil.rmtree(packages.folder(), ignore_errors=True)
    _pip(packages.pip_arguments(str(wheels or "")), "Flower")
    packages.mark_installed()


def _pipInstall(requirements: list[str], options: list[str]) -> None:
    with _constraints(besides=requirements) as constraints:
        _pip([*requirements, *options], ", ".join(requirements), constraints)


def _pip(arguments: list[str], what: str, constraints: Path | None = None) -> None:
    try:
        try:
            from slicer.packaging import pip_install
        except ImportError:  # Slicer 5.10
            slicer.util.pip_install([*arguments, *(["--constraint", str(constraints)] if constraints else [])])
        else:
            pip_install(arguments, constraints=constraints, requester="ImagingAI")
    except subprocess.CalledProcessError as error:
        text = _(
            "pip ended with code {code} while it installed {packages}. Check the network or the proxy, or choose a wheel folder;"
            " the log is in the Python console."
        )
        raise InstallError(text.format(code=error.returncode, packages=what)) from error


@contextlib.contextmanager
def _constraints(besides: list[str] = ()) -> Iterator[Path]:
    """A file for pip that keeps the versions that are there, but for those of the packages that are asked for."""
    asked = {_name(requirement) for requirement in besides}
    kept = {name: version for name in KEPT if name not in asked and (version := _version(name))}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "constraints.txt"
        path.write_text("".join(f"{name}=={version}\n" for name, version in kept.items()), encoding="utf-8")
        yield path


@contextlib.contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """An environment variable for a while."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _name(requirement: str) -> str:
    return requirement.partition(">=")[0].strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """2.13.0+cpu -> (2, 13, 0)"""
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0]))
