"""Loads .ui files as Slicer does, after checking every class, property and connection in them."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import contract
from contract import CLASSES, NotInHost, record
from proxy import implementation, method, proxyClass, wrap
from PySide6 import QtCore, QtUiTools

UIC_NAMES = {"buddy", "margin", "leftMargin", "topMargin", "rightMargin", "bottomMargin", "spacing", "sizeConstraint"}
DYNAMIC = {"SlicerParameterName"}  # read by Slicer's parameter node wrapper


class QFile(QtCore.QFile):
    def __init__(self, path) -> None:
        if not isinstance(path, str):
            record.fail(f"qt.QFile takes a str, not {path!r}")
        super().__init__(path)


class UiLoader:
    """qt.QUiLoader."""

    translate = str

    def load(self, file, parent=None):
        path = file.fileName()
        tree = ET.parse(path).getroot()
        connections = tree.find("connections")
        checkWidgets(tree, path)
        for element in tree.iter("string"):
            if element.text and element.get("notr") != "true":
                element.text = self.translate(element.text)
        if connections is not None:
            tree.remove(connections)  # Qt does not know the signals of our stand-ins
        data = QtCore.QBuffer()
        data.setData(ET.tostring(tree))
        data.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        widget = Loader().load(data)
        if widget is None:
            record.fail(f"{path}: Qt cannot load it")
        for connection in connections if connections is not None else ():
            connect(widget, connection, path)
        return wrap(widget)


class Loader(QtUiTools.QUiLoader):
    def createWidget(self, className, parent=None, name=""):
        if className not in CLASSES or className == "Line":
            return super().createWidget(className, parent, name)
        native = implementation(className)
        if native is None:
            record.fail(f"{className} is not part of the host", NotInHost)
        widget = native(parent)
        widget.setObjectName(name)
        return widget


def checkWidgets(tree, path: str) -> None:
    for element in tree.iter():
        if element.tag not in ("widget", "layout", "action"):
            continue
        className = element.get("class", "QAction")
        if className not in CLASSES or not contract.isIn(CLASSES[className].get("since")):
            record.fail(f"{path}: there is no class {className} in Slicer {record.version}")
        for prop in element.findall("property"):
            checkProperty(className, prop.get("name"), path)
            for value in prop.findall("set") + prop.findall("enum"):
                replaceEnum(value)


def checkProperty(className: str, name: str, path: str) -> None:
    if name in UIC_NAMES or name in DYNAMIC:
        return
    found = contract.member(className, name)
    if found is None or found[0] != "property" or found[1].startswith("-"):
        record.fail(f"{path}: {className} has no property {name} that can be set")
    native = implementation(className)
    if native and not native.__module__.startswith("PySide6") and native.staticMetaObject.indexOfProperty(name) < 0:
        record.fail(f"{path}: {className}.{name} is not part of the host", NotInHost)


def replaceEnum(element) -> None:
    """Values of CTK's enums become numbers, as Qt does not know them."""
    names = [name.split("::") for name in (element.text or "").split("|")]
    if names[0][0] in CLASSES and names[0][0][0] != "Q":
        element.text = str(sum(int(getattr(proxyClass(owner), name)) for owner, name in names))
        element.tag = "number"


def connect(widget, connection, path: str) -> None:
    sender, signal, receiver, slot = (connection.findtext(tag) for tag in ("sender", "signal", "receiver", "slot"))
    found = {name: widget if widget.objectName() == name else widget.findChild(QtCore.QObject, name) for name in (sender, receiver)}
    for name, native in found.items():
        if native is None:
            record.fail(f"{path}: a connection names {name}, which does not exist")
    target = wrap(found[receiver])
    if slot not in contract.signatures(type(target).__name__, "slots", slot.split("(")[0]):
        record.fail(f"{path}: {type(target).__name__} has no slot {slot}")
    wrap(found[sender]).connect(signal, method(target, slot.split("(")[0]))
