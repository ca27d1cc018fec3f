"""What Slicer, CTK and Qt classes offer to Python, read from slicer_widgets.json (made from their headers).

A class has `properties` (name -> type, "-type" = read only), `signals` and `slots` (signatures), `methods` (names),
`enums` (values); `late` members and classes came with that Slicer version. Nothing else exists in PythonQt.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

HERE = str(Path(__file__).parent / "")
SLICER_UTIL = os.path.join("slicer", "util.py")
VERSIONS = ("5.10", "5.12", "main")
DATA = json.loads(Path(__file__).with_name("slicer_widgets.json").read_text())
CLASSES = DATA["classes"]
PYTHON = DATA["python"]  # version -> module of the slicer package -> public names with their signatures
KEYWORDS = ("exec_", "raise_", "print_")
PYTHONQT = ("className", "delete", "help")  # methods that PythonQt adds to every object
DECORATORS = {  # methods that Slicer's own PythonQt decorators add
    "qSlicerCoreApplication": ("testingEnabled", "processEvents", "sendEvent"),
    "qSlicerAbstractModule": ("widgetRepresentation", "createNewWidgetRepresentation"),
    "qSlicerAbstractCoreModule": ("widgetRepresentation", "createNewWidgetRepresentation"),
}


class ContractViolation(AssertionError, AttributeError):
    """Code uses what Slicer does not have; an AttributeError too, so that hasattr() works as in Slicer."""


class NotInHost(NotImplementedError):
    """Slicer has it, this small host does not."""


class Record:
    """The Slicer version that is played, and all that went wrong so far, also where it was caught or lost in a slot."""

    def __init__(self, version: str = "5.12") -> None:
        self.version, self.errors = version, []

    def keep(self, error: Exception) -> None:
        if not any(error is known for known in self.errors):
            self.errors.append(error)

    def fail(self, message: str, kind: type[Exception] = ContractViolation) -> None:
        error, caller = kind(message), sys._getframe(1)
        while caller.f_code.co_filename.startswith(HERE):
            caller = caller.f_back
        if not caller.f_code.co_filename.endswith(SLICER_UTIL):  # Slicer itself probes and catches
            self.keep(error)
        raise error


record = Record()


def ancestry(className: str) -> list[str]:
    names = []
    while className in CLASSES:
        names.append(className)
        className = CLASSES[className]["base"]
    return names


def isIn(version: str | None) -> bool:
    return version is None or VERSIONS.index(version) <= VERSIONS.index(record.version)


def signatures(className: str, kind: str, name: str) -> list[str]:
    """The overloads of a signal or slot."""
    entries = [CLASSES[owner] for owner in ancestry(className)]
    known = [signature for entry in entries for signature in entry.get(kind, ()) if isIn(entry.get("late", {}).get(signature))]
    return [signature for signature in known if signature.split("(")[0] == name]


def member(className: str, name: str) -> tuple[str, object] | None:
    """("property", type), ("signal", signature), ("method", name), ("enum", name); None = Slicer has no such member.

    A name of a later Slicer version raises AttributeError, which code may rightly probe for.
    """
    if name == "name":  # PythonQt's short form of objectName
        return "property", "QString"
    if name in KEYWORDS:
        name = name.rstrip("_")
    for owner in ancestry(className):
        found = own(CLASSES[owner], name)
        if found and not isIn(CLASSES[owner].get("late", {}).get(found[2])):
            raise AttributeError(f"{owner}.{name} does not exist in Slicer {record.version}")
        if found:
            return found[:2]
        if name in DECORATORS.get(owner, ()):
            return "method", name
    return ("method", name) if name in PYTHONQT else None


def isStatic(className: str, name: str) -> bool:
    """Whether the class itself may have it: a static function or an enum value (also where an instance has a property)."""
    kinds = [CLASSES[owner].get(kind, ()) for owner in ancestry(className) for kind in ("methods", "enums")]
    return any(name in names for names in kinds) or any(name in DECORATORS.get(owner, ()) for owner in ancestry(className))


def own(entry: dict, name: str) -> tuple[str, object, str] | None:
    if name in entry.get("properties", {}):
        return "property", entry["properties"][name], name
    if name in entry.get("methods", ()):
        return "method", name, name
    for kind, known in (("method", entry.get("slots", ())), ("signal", entry.get("signals", ()))):
        for signature in known:
            if signature.split("(")[0] == name:
                return kind, signature, signature
    return ("enum", name, name) if name in entry.get("enums", ()) else None
