"""The extension as Slicer builds, installs and lists it, without CMake and Slicer: a file missing from a list fails here."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ["imagingai", "ImagingAILib", "DeepSimRegistration", "UncertaintySeg", "FederatedClient"]
MODULES = ["DeepSimRegistration", "UncertaintySeg", "FederatedClient"]
REPOSITORY = "https://github.com/ImagingAI/SlicerImagingAI"
RAW = "https://raw.githubusercontent.com/ImagingAI/SlicerImagingAI/main/"
BUNDLED = {"slicer", "vtk", "qt", "ctk", "numpy", "SimpleITK"}  # with Slicer 5.10 and newer
NOT_BUNDLED = ["torch", "monai", "matplotlib", "safetensors", "nibabel", "scipy", "highdicom", "pydicom"]


def commands(folder: Path) -> list[tuple[str, list[str]]]:
    """The commands of a CMakeLists.txt with their arguments; variables that the file sets are expanded."""
    text = re.sub(r"(?m)#.*$", "", (folder / "CMakeLists.txt").read_text(encoding="utf-8"))
    variables: dict[str, str] = {}
    found = []
    for name, body in re.findall(r"(\w+)\s*\(([^()]*)\)", text):
        for variable, value in variables.items():
            body = body.replace(f'"${{{variable}}}"', value).replace(f"${{{variable}}}", value)
        arguments = ["".join(pair) for pair in re.findall(r'"([^"]*)"|(\S+)', body)]
        if name == "set":
            variables[arguments[0]] = " ".join(arguments[1:])
        found.append((name, arguments))
    return found


def packaging(folder: Path) -> tuple[str, dict[str, list[str]]]:
    """The packaging command of a folder and its arguments by keyword."""
    name, arguments = next(c for c in commands(folder) if c[0] in ("slicerMacroBuildScriptedModule", "ctkMacroCompilePythonScript"))
    given: dict[str, list[str]] = {}
    for argument in arguments:
        if re.fullmatch(r"[A-Z_]+", argument):
            given[argument] = values = []
        else:
            values.append(argument)
    return name, given


def listed(folder: str) -> list[str]:
    given = packaging(ROOT / folder)[1]
    return given["SCRIPTS"] + given.get("RESOURCES", [])


def installed(target: Path) -> Path:
    """qt-scripted-modules as Slicer's macros fill it: modules and their resources flat, packages in their folder."""
    for folder in FOLDERS:
        name, given = packaging(ROOT / folder)
        place = target if name == "slicerMacroBuildScriptedModule" else target / Path(given["DESTINATION_DIR"][0]).name
        for file in listed(folder):
            assert not (place / file).exists(), f"{file} of {folder} would overwrite that of another module"
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / folder / file, place / file)
    return target


@pytest.fixture(scope="module")
def scriptedModules(tmp_path_factory):
    return installed(tmp_path_factory.mktemp("qt-scripted-modules"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_is_listed_and_every_listed_file_exists(folder):
    files = [path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sorted(listed(folder)) == sorted(path.as_posix() for path in files if path.name != "CMakeLists.txt")


def test_all_folders_are_built():
    assert [arguments[0] for name, arguments in commands(ROOT) if name == "add_subdirectory"] == FOLDERS


def test_lists_are_read_as_cmake_reads_them(tmp_path):
    lists = 'set(SCRIPTS\n  a.py # one\n  b/c.py)\nctkMacroCompilePythonScript(SCRIPTS "${SCRIPTS}" NO_INSTALL_SUBDIR)'
    (tmp_path / "CMakeLists.txt").write_text(lists)
    assert packaging(tmp_path) == ("ctkMacroCompilePythonScript", {"SCRIPTS": ["a.py", "b/c.py"], "NO_INSTALL_SUBDIR": []})


def python(folder: Path, *arguments: str) -> str:
    """What a Python prints that has the installed folder on its path, as PythonSlicer has for a job."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_installed_library_runs_and_has_its_weights(scriptedModules):
    code = """
import importlib, pkgutil, sys, imagingai
from imagingai.federated import packages
print(imagingai.__file__)
hasFlower = sys.version_info >= (3, 11)
if hasFlower:
    packages.activate()
for module in pkgutil.walk_packages(imagingai.__path__, "imagingai."):
    if not module.name.endswith("__main__") and (hasFlower or not module.name.startswith("imagingai.federated.")):
        importlib.import_module(module.name)
"""
    assert Path(python(scriptedModules, "-c", code).strip()).is_relative_to(scriptedModules)
    assert "register" in python(scriptedModules, "-m", "imagingai", "list")
    assert {path.stem for path in (ROOT / "imagingai/weights").glob("*.safetensors")} == {
        path.stem for path in (scriptedModules / "imagingai/weights").glob("*.safetensors")
    }


def test_what_the_modules_import_of_ours_is_installed(scriptedModules):
    for file in [*scriptedModules.glob("*.py"), *scriptedModules.glob("ImagingAILib/*.py")]:
        for name in imports(file, everywhere=True):
            if name.split(".")[0] in ("imagingai", "ImagingAILib"):
                outer, _dot, inner = name.rpartition(".")
                source = moduleFile(scriptedModules, outer)  # of a function or a class
                known = moduleFile(scriptedModules, name) or (source and inner in source.read_text(encoding="utf-8"))
                assert known, f"{file.name} imports {name}, which is not installed"


def moduleFile(folder: Path, name: str) -> Path | None:
    """The file of a module or package, "package.module", if it exists."""
    place = folder.joinpath(*name.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.exists()), None)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_its_icon_panel_and_requirements(scriptedModules, module):
    assert picture(scriptedModules / f"Resources/Icons/{module}.png") == (128, 128)
    assert (scriptedModules / f"Resources/UI/{module}.ui").exists()
    assert (scriptedModules / f"Resources/{module}Requirements.txt").exists()  # of its own: all modules share one folder


# --- what runs when a module is loaded


def imports(file: Path, everywhere: bool = False) -> set[str]:
    """Names that a file imports when it is loaded (or anywhere), "package.module.name"; what only type checkers see is left out."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    nodes = [node for statement in body for node in (ast.walk(statement) if everywhere else [statement])]
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return found | {f"{node.module}.{alias.name}" for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}


def panelFiles() -> list[Path]:
    return [*(ROOT / "ImagingAILib").glob("*.py"), *(ROOT / module / f"{module}.py" for module in MODULES)]


@pytest.mark.parametrize("file", panelFiles(), ids=lambda file: file.name)
def test_loading_a_module_needs_nothing_that_slicer_lacks(file):
    packages = {name.split(".")[0] for name in imports(file)}
    assert not packages - BUNDLED - set(sys.stdlib_module_names) - {"imagingai", "ImagingAILib"}


def test_what_the_panels_load_of_the_library_works_before_anything_is_installed():
    loaded = {name for file in panelFiles() for name in imports(file) if name.split(".")[0] == "imagingai"}
    names = sorted({name if moduleFile(ROOT, name) else name.rpartition(".")[0] for name in loaded})
    assert names
    code = f"import sys\nfor name in {NOT_BUNDLED}: sys.modules[name] = None\nfor name in {names}: __import__(name)"
    python(ROOT, "-c", code)


def test_torch_is_never_asked_from_pip_by_name():
    """The extension PyTorch finds the build for the graphics card."""
    for file in panelFiles():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("pip_install", "pip_ensure"):
                assert "torch" not in ast.unparse(node).replace("torchLogic", ""), f"{file.name}:{node.lineno}"


def test_the_requirements_cover_what_the_library_imports():
    files = [ROOT / module / f"Resources/{module}Requirements.txt" for module in MODULES]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    required = {line.partition(">=")[0] for line in lines if line and not line.startswith("#")}
    needed = {name.split(".")[0] for file in (ROOT / "imagingai").rglob("*.py") for name in imports(file, everywhere=True)}
    needed -= set(sys.stdlib_module_names) | {"numpy", "SimpleITK", "imagingai", "PIL", "pydicom"}  # matplotlib brings PIL
    flower = (ROOT / "imagingai/federated/flower-requirements.txt").read_text(encoding="utf-8")  # in a folder of its own
    needed -= {re.split(r"\W", line)[0] for line in flower.splitlines()} | {"flwr", "google"}  # google: of protobuf
    assert needed == required


# --- what the Extensions Index checks


def metadata() -> dict[str, str]:
    """EXTENSION_... of the CMakeLists.txt, each a quoted text on one line."""
    lines = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8").splitlines()
    found = [re.fullmatch(r'set\((EXTENSION_\w+) "([^"]+)"\)', line) for line in lines if line.startswith("set(EXTENSION_")]
    assert all(found), "an EXTENSION_ variable is not a quoted text on one line"
    return {match[1]: match[2] for match in found}


def picture(path: Path) -> tuple[int, int]:
    """Width and height of a PNG file."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n", f"{path.name} is not PNG"
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def test_the_catalog_entry_follows_the_schema():
    text = (ROOT / "ImagingAI.json").read_bytes()
    entry = json.loads(text)
    assert b"\r" not in text
    assert entry.pop("$schema") == (
        "https://raw.githubusercontent.com/Slicer/Slicer/main/Schemas/slicer-extension-catalog-entry-schema-v1.0.1.json#"
    )
    kinds = {"category": str, "scm_url": str, "scm_revision": str, "build_dependencies": list, "build_subdirectory": str, "tier": int}
    assert {name: type(value) for name, value in entry.items()} == kinds
    assert entry["category"] == "Registration" and entry["tier"] in (1, 3, 5)
    assert entry["scm_url"] == REPOSITORY and REPOSITORY.rsplit("/", 1)[1].startswith("Slicer")


def test_names_dependencies_and_revision_agree_everywhere():
    entry = json.loads((ROOT / "ImagingAI.json").read_text(encoding="utf-8"))
    lines = [line.partition(" ") for line in (ROOT / "ImagingAI.s4ext").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    s4ext = {key: value for key, _space, value in lines}
    assert ("project", ["ImagingAI"]) in commands(ROOT)
    assert not "ImagingAI".lower().startswith("slicer")
    assert metadata()["EXTENSION_DEPENDS"].split() == entry["build_dependencies"] == s4ext["depends"].split()
    assert (s4ext["scmurl"], s4ext["scmrevision"]) == (entry["scm_url"], entry["scm_revision"])
    assert (s4ext["category"], s4ext["homepage"]) == (entry["category"], metadata()["EXTENSION_HOMEPAGE"])
    assert (s4ext["iconurl"], s4ext["screenshoturls"]) == (metadata()["EXTENSION_ICONURL"], metadata()["EXTENSION_SCREENSHOTURLS"])


def test_icon_and_screenshots_are_pictures_of_the_repository():
    icon, *screenshots = [metadata()["EXTENSION_ICONURL"], *metadata()["EXTENSION_SCREENSHOTURLS"].split()]
    assert picture(ROOT / icon.removeprefix(RAW)) == (128, 128)
    assert screenshots
    for url in screenshots:
        assert url.startswith(RAW)
        assert min(picture(ROOT / url.removeprefix(RAW))) >= 200


def test_there_is_a_license():
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone")
def test_a_clone_is_below_100_megabytes():
    lines = subprocess.run(["git", "count-objects", "-v"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    sizes = dict(line.split(": ") for line in lines)
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    tree = sum((ROOT / file).stat().st_size for file in files if (ROOT / file).is_file())
    assert (int(sizes["size"]) + int(sizes["size-pack"])) * 1024 + tree < 100e6


@pytest.mark.parametrize(
    "page", ["README.md", "docs/install-slicer.md", "docs/modules/UncertaintySeg.md", "docs/modules/FederatedClient.md"]
)
def test_links_and_pictures_of_a_page_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    for target in filter(None, targets):
        assert ((ROOT / page).parent / target).exists(), target


# --- sample data


class FakeSampleData:
    """Slicer's module of this name: `categories` is None in 5.10."""

    def __init__(self, version: str) -> None:
        self.sources, self.categories = [], []
        self.SampleDataLogic = types.SimpleNamespace(registerCustomSampleDataSource=lambda **source: self.sources.append(source))
        if version != "5.10":
            self.SampleDataLogic.registerCustomSampleDataCategory = lambda category, title: self.categories.append(category)


@pytest.mark.parametrize("version", ["5.10", "5.12"])
def test_the_sample_data_are_the_files_of_the_repository(monkeypatch, version):
    fake = FakeSampleData(version)
    i18n = types.SimpleNamespace(tr=lambda text: text)
    for name, module in {"SampleData": fake, "slicer": types.ModuleType("slicer"), "slicer.i18n": i18n}.items():
        monkeypatch.setitem(sys.modules, name, module)
    found = importlib.util.spec_from_file_location("sampledata_on_stand_ins", ROOT / "ImagingAILib/sampledata.py")
    sampledata = importlib.util.module_from_spec(found)
    found.loader.exec_module(sampledata)
    sampledata.registerSampleData()
    (source,) = fake.sources
    assert fake.categories == ([] if version == "5.10" else [source["category"]])
    assert len(source["uris"]) == len(source["fileNames"]) == len(source["nodeNames"]) == len(source["loadFileType"]) == 4
    for uri, file, checksum in zip(source["uris"], source["fileNames"], source["checksums"], strict=True):
        path = ROOT / uri.removeprefix(RAW)
        assert path.name == file
        assert checksum == f"SHA256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    picture(Path(source["thumbnailFileName"]))
