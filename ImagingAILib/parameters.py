"""The settings of a task in a parameter node: saved with the scene, checked by the config of the task.

An option is a text parameter of the node, an input or output is a node reference or, as a file, a text parameter. What has no
parameter has the value of the preset. Choices, limits and help are in the config alone (imagingai.options); no widget is known here.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from imagingai.options import from_dict
from imagingai.tasks import TASKS, load

PRESET = "preset"
FILE = "file."  # before the names of inputs that are files: an option may have the same name


class Parameters:
    """What a vtkMRMLScriptedModuleNode holds for a task. Names of options and inputs are those of the library.

    prefix: before all names, for a module with several tasks.
    """

    def __init__(self, node, task: str, prefix: str = "") -> None:
        self.node, self.task, self.prefix = node, TASKS[task], prefix
        self.config, self.presets = configOf(task), presetsOf(task)
        self.fields = {field.name: field for field in dataclasses.fields(self.config)}

    @property
    def preset(self) -> str:
        name = self._get(PRESET)
        return name if name in self.presets else "default" if "default" in self.presets else ""

    def choosePreset(self, name: str) -> None:
        """Take all values of a preset; options that no preset is about keep theirs."""
        wasModifying = self.node.StartModify()
        self._set(PRESET, name)
        for option in {option for values in self.presets.values() for option in values}:
            self._set(option, "")
        self.node.EndModify(wasModifying)

    def presetText(self, name: str) -> str:
        """The value that an option has if it is not set."""
        return asText(self.presets.get(self.preset, {}).get(name, self.fields[name].default))

    def text(self, name: str) -> str:
        """The value of an option as text: `true`, `0.8`, `60 40 12 7`."""
        return self._get(name) or self.presetText(name)

    def setText(self, name: str, text: str) -> None:
        """Set an option; the value of the preset is not stored, so that the option follows the preset."""
        self._set(name, "" if text.strip() == self.presetText(name) else text.strip())

    def isChanged(self, name: str) -> bool:
        """Whether an option differs from the preset."""
        return bool(self._get(name))

    def reset(self) -> None:
        """Forget all own values of options."""
        wasModifying = self.node.StartModify()
        for name in self.fields:
            self._set(name, "")
        self.node.EndModify(wasModifying)

    def values(self) -> dict[str, Any]:
        """The options of a job: those that differ from the defaults. Raises `InputError` for a value that is not allowed."""
        own = {name: self._get(name) for name in self.fields if self.isChanged(name)}
        whole = from_dict(self.config, {**self.presets.get(self.preset, {}), **own})
        return {name: value for name, field in self.fields.items() if (value := getattr(whole, name)) != field.default}

    def nodeOf(self, role: str):
        return self.node.GetNodeReference(self.prefix + role)

    def setNodeOf(self, role: str, node) -> None:
        self.node.SetNodeReferenceID(self.prefix + role, node.GetID() if node else None)

    def nodes(self) -> dict[str, Any]:
        """The chosen nodes by the name of the input."""
        chosen = {item.name: self.nodeOf(item.name) for item in self.task.inputs}
        return {name: node for name, node in chosen.items() if node}

    def file(self, name: str) -> str:
        """The file or folder of an input, or nothing."""
        return self._get(FILE + name)

    def setFile(self, name: str, path: str) -> None:
        self._set(FILE + name, path.strip())

    def files(self) -> dict[str, str]:
        """The chosen files and folders by the name of the input."""
        return {item.name: self.file(item.name) for item in self.task.inputs if self.file(item.name)}

    def _get(self, name: str) -> str:
        return self.node.GetParameter(self.prefix + name)

    def _set(self, name: str, text: str) -> None:
        if text:
            self.node.SetParameter(self.prefix + name, text)
        else:
            self.node.UnsetParameter(self.prefix + name)


def configOf(task: str) -> type:
    return load(TASKS[task].config)


def presetsOf(task: str) -> dict[str, dict[str, Any]]:
    return load(TASKS[task].presets) if TASKS[task].presets else {}


def typeOf(config: type, name: str) -> Any:
    """The type of an option: bool, int, float, str, or tuple[...]."""
    return typing.get_type_hints(config)[name]


def asText(value: Any) -> str:
    """As it is typed on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(asText, value)) if isinstance(value, tuple) else f"{value:.10g}" if isinstance(value, float) else str(value)


def camelCase(name: str) -> str:
    """fixed_labels -> fixedLabels"""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
