"""Slicer's Python modules that slicer-core lacks: ScriptedLoadableModule, i18n, packaging, SampleData."""

from __future__ import annotations

import inspect
import os
import sys
import types
import unittest
from pathlib import Path

import slicer
from contract import PYTHON, NotInHost, record
from packaging.requirements import Requirement


class ScriptedLoadableModule:
    def __init__(self, parent) -> None:
        self.parent = parent
        self.moduleName = type(self).__name__

    def resourcePath(self, filename: str) -> str:
        return os.path.join(os.path.dirname(self.parent.path), "Resources", filename)

    def getDefaultModuleDocumentationLink(self, docPage=None) -> str:
        return f'<p>For more information see the <a href="{docPage or self.moduleName}">online documentation</a>.</p>'

    def runTest(self, msec=100, **kwargs) -> None:
        test = getattr(sys.modules[type(self).__module__], self.moduleName + "Test")()
        test.runTest(**kwargs)


class ScriptedLoadableModuleWidget:
    def __init__(self, parent=None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = False
        self.parent = parent
        self.layout = parent.layout()

    def resourcePath(self, filename: str) -> str:
        return os.path.join(os.path.dirname(slicer.util.modulePath(self.moduleName)), "Resources", filename)

    def setup(self) -> None:
        pass

    def cleanup(self) -> None:
        pass

    def onReload(self) -> None:
        slicer.util.reloadScriptedModule(self.moduleName)


class ScriptedLoadableModuleLogic:
    def __init__(self, parent=None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self):
        if self.isSingletonParameterNode:
            node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        else:
            node = next(iter(self.getAllParameterNodes()), None)
        node = node or slicer.mrmlScene.AddNode(self.createParameterNode())
        node.SetAttribute("ModuleName", self.moduleName)  # closing the scene removes it
        return node

    def getAllParameterNodes(self) -> list:
        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
        return [node for node in nodes if node.GetAttribute("ModuleName") == self.moduleName]

    def createParameterNode(self):
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.messageDelay = 0

    def delayDisplay(self, message, requestedDelay=None, msec=None) -> None:
        slicer.app.processEvents()

    def runTest(self) -> None:
        pass


def scriptedLoadableModule() -> types.ModuleType:
    """Modules do `from slicer.ScriptedLoadableModule import *`."""
    module = types.ModuleType("slicer.ScriptedLoadableModule")
    classes = (ScriptedLoadableModule, ScriptedLoadableModuleWidget, ScriptedLoadableModuleLogic, ScriptedLoadableModuleTest)
    module.__dict__.update({c.__name__: c for c in classes}, __all__=[c.__name__ for c in classes])
    return module


class CheckedModule(types.ModuleType):
    """A module of the slicer package: only the public names of the played version, with their arguments."""

    def __init__(self, name: str, functions: dict) -> None:
        super().__init__("slicer." + name)
        self.__dict__.update(_short=name, _functions=functions)

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        known = PYTHON[record.version].get(self._short, {})
        if name not in known:
            if any(name in version.get(self._short, {}) for version in PYTHON.values()):
                raise AttributeError(f"slicer.{self._short}.{name} does not exist in Slicer {record.version}")
            record.fail(f"slicer.{self._short}.{name} does not exist")
        if name not in self._functions:
            record.fail(f"slicer.{self._short}.{name} is not part of the host", NotInHost)
        function = self._functions[name]
        return function if known[name] is None else checkedCall(function, f"slicer.{self._short}.{name}", known[name])


def checkedCall(function, name: str, signature: str):
    scope = dict(vars(slicer.util))  # some defaults are named constants of it
    exec(f"from __future__ import annotations\ndef declared{signature}: pass", scope)

    def call(*args, **keywords):
        try:
            inspect.signature(scope["declared"]).bind(*args, **keywords)
        except TypeError as error:
            record.fail(f"{name}{signature} in Slicer {record.version}: {error}")
        return function(*args, **keywords)

    return call


class Packages:
    """Stands in for pip: `missing` says what is not installed, `calls` what was asked for."""

    def __init__(self) -> None:
        self.missing: set[str] = set()
        self.calls: list[tuple] = []

    def check(self, requirements) -> bool:
        return all(Requirement(str(requirement)).name not in self.missing for requirement in asList(requirements))

    def install(self, requirements, **options) -> None:
        if not all(isinstance(requirement, str) for requirement in asList(requirements)):
            record.fail(f"pip_install takes text, not {requirements!r}")
        words = asList(requirements)
        self.calls.append(("install", words, options))
        isOption = [word.startswith("-") for word in words]
        names = [word for word, *options in zip(words, isOption, [False, *isOption], strict=False) if not any(options)]
        self.missing -= {Requirement(name).name for name in names}

    def uninstall(self, requirements, **options) -> None:
        self.calls.append(("uninstall", asList(requirements), options))

    def ensure(self, requirements, prompt_install=True, **options) -> None:
        needed = [str(requirement) for requirement in asList(requirements) if not self.check(requirement)]
        if needed and prompt_install and not slicer.util.confirmOkCancelDisplay(f"Install {needed}?"):
            raise RuntimeError("User declined package installation")
        if needed:
            self.install(needed, **options)


def asList(requirements) -> list:
    return list(requirements) if isinstance(requirements, (list, tuple)) else [requirements]


def modules(packages: Packages, translate) -> dict[str, types.ModuleType]:
    """The modules of the slicer package that scripts import."""
    util = dict(vars(slicer.util)) | {"pip_install": packages.install, "pip_uninstall": packages.uninstall}
    packaging = {
        "load_requirements": loadRequirements,
        "pip_check": packages.check,
        "pip_ensure": packages.ensure,
        "pip_install": packages.install,
        "pip_uninstall": packages.uninstall,
        "isPipInstallInProgress": lambda: False,
    }
    i18n = {"tr": translate, "translate": lambda context, text: translate(text)}
    checked = {"util": util, "i18n": i18n} | ({"packaging": packaging} if "packaging" in PYTHON[record.version] else {})
    found = {name: CheckedModule(name, functions) for name, functions in checked.items()}
    return found | {"ScriptedLoadableModule": scriptedLoadableModule()}


def loadRequirements(path) -> list[Requirement]:
    lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    return [Requirement(line) for line in lines if line and line[0] not in "#-"]


def sampleData(samples: list) -> types.ModuleType:
    fields = ("category", "sampleName", "uris", "fileNames", "nodeNames", "customDownloader", "thumbnailFileName")
    fields += ("loadFileType", "loadFileTypes", "loadFiles", "loadFileProperties", "checksums")

    def register(**sample) -> None:
        if not set(sample) <= set(fields):
            record.fail(f"registerCustomSampleDataSource does not take {set(sample) - set(fields)}")
        samples.append(sample)

    class SampleDataLogic:
        registerCustomSampleDataSource = staticmethod(register)

    if record.version != "5.10":
        SampleDataLogic.registerCustomSampleDataCategory = staticmethod(lambda category, title=None: None)
    module = types.ModuleType("SampleData")
    module.SampleDataLogic = SampleDataLogic
    return module
