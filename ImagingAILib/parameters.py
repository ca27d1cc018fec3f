"""The settings of a task in a parameter node: saved with the scene, checked by the config of the task.

An option is a text parameter of the node, an input or output is a node reference. What has no parameter has the value of
the preset. Choices, limits and help are in the config alone (imagingai.options); no widget is known here.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from imagingai.options import from_dict
from imagingai.tasks import TASKS, load

PRESET = "preset"


class Parameters:
    """What a vtkMRMLScriptedModuleNode holds for a task. Names of options and inputs are those of the library."""

    def __init__(self, node, task: str) -> None:
        self.node, self.task = node, TASKS[task]
        self.config, self.presets = configOf(task), presetsOf(task)
        self.fields = {field.name: field for field in dataclasses.fields(self.config)}

    @property
    def preset(self) -> str:
        name = self.node.GetParameter(PRESET)
        return name if name in self.presets else "default" if "default" in self.presets else ""

    def choosePreset(self, name: str) -> None:
        """Take all values of a preset; options that no preset is about keep theirs."""
        wasModifying = self.node.StartModify()
        self.node.SetParameter(PRESET, name)
        for option in {option for values in self.presets.values() for option in values}:
            self.node.UnsetParameter(option)
        self.node.EndModify(wasModifying)

    def presetText(self, name: str) -> str:
        """The value that an option has if it is not set."""
        return asText(self.presets.get(self.preset, {}).get(name, self.fields[name].default))

    def text(self, name: str) -> str:
        """The value of an option as text: `true`, `0.8`, `60 40 12 7`."""
        return self.node.GetParameter(name) or self.presetText(name)

    def setText(self, name: str, text: str) -> None:
        """Set an option; the value of the preset is not stored, so that the option follows the preset."""
        if text.strip() == self.presetText(name) or not text.strip():
            self.node.UnsetParameter(name)
        else:
            self.node.SetParameter(name, text.strip())

    def isChanged(self, name: str) -> bool:
        """Whether an option differs from the preset."""
        return bool(self.node.GetParameter(name))

    def reset(self) -> None:
        """Forget all own values of options."""
        wasModifying = self.node.StartModify()
        for name in self.fields:
            self.node.UnsetParameter(name)
        self.node.EndModify(wasModifying)

    def values(self) -> dict[str, Any]:
        """The options of a job: those that differ from the defaults. Raises `InputError` for a value that is not allowed."""
        own = {name: self.node.GetParameter(name) for name in self.fields if self.isChanged(name)}
        whole = from_dict(self.config, {**self.presets.get(self.preset, {}), **own})
        return {name: value for name, field in self.fields.items() if (value := getattr(whole, name)) != field.default}

    def nodeOf(self, role: str):
        return self.node.GetNodeReference(role)

    def setNodeOf(self, role: str, node) -> None:
        self.node.SetNodeReferenceID(role, node.GetID() if node else None)

    def nodes(self) -> dict[str, Any]:
        """The chosen nodes by the name of the input."""
        chosen = {item.name: self.nodeOf(item.name) for item in self.task.inputs}
        return {name: node for name, node in chosen.items() if node}


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
