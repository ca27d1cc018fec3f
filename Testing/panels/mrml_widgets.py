"""Slicer's widgets as far as our panels use them, on the real MRML scene."""

from __future__ import annotations

import weakref

import shiboken6
import slicer
import vtk
from contract import record
from ctk_widgets import fillRow, stored
from dialogs import QInputDialog
from proxy import implements
from PySide6.QtCore import Property, Signal
from PySide6.QtWidgets import QComboBox, QSizePolicy, QWidget


def observe(subject, event, method) -> int:
    """Calls the widget's method until the widget is deleted."""
    weak = weakref.WeakMethod(method)

    def call(*args) -> None:
        if weak() and shiboken6.isValid(weak().__self__):
            weak()(*args)

    return subject.AddObserver(event, call)


@implements
class qMRMLWidget(QWidget):
    mrmlSceneChanged = Signal(object)
    scene = None

    def mrmlScene(self):
        return self.scene

    def setMRMLScene(self, scene) -> None:
        if scene is not self.scene:
            self.scene = scene
            self.mrmlSceneChanged.emit(scene)


@implements
class qSlicerWidget(QWidget):
    mrmlSceneChanged = Signal(object)

    def setMRMLScene(self, scene) -> None:
        self.mrmlSceneChanged.emit(scene)


@implements
class qMRMLNodeComboBox(QWidget):
    """Lists the nodes of the scene by type and attribute, and follows the scene."""

    currentNodeChanged = Signal(object)
    currentNodeChanged_bool = Signal(bool)
    currentNodeIDChanged = Signal(str)
    currentNodeRenamed = Signal(str)
    nodeAddedByUser = Signal(object)
    nodeAddedByUserAction = Signal(object)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self.scene, self.observers, self.attributes = None, [], {}
        self.nodes, self.current, self.wanted = [], None, ""
        self.combo = QComboBox()
        self.combo.activated.connect(self.onActivated)
        fillRow(self, self.combo)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self.combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setEnabled(False)

    def refresh(self) -> None:
        """Lists the nodes again; selects one when there must be one."""
        index = self.nodes.index(self.current) if self.current in self.nodes else 0
        self.nodes = [node for node in self.allNodes() if self.isListed(node)]
        node = self.current
        if node not in self.nodes:
            isLost = node is not None and self.nodes
            node = self.nodes[min(index, len(self.nodes) - 1)] if isLost or (self.nodes and not self.noneEnabled) else None
        self.fill()
        self.select(node)

    def fill(self) -> None:
        self.combo.blockSignals(True)
        self.combo.clear()
        if self.noneEnabled:
            self.combo.addItem(self.noneDisplay, None)
        for node in self.nodes:
            self.combo.addItem(node.GetName(), node.GetID())
        for nodeType in self.nodeTypes if self.addEnabled and self.scene else ():
            self.combo.addItem(f"Create new {self.nodeTypeLabel(nodeType)}", "CREATE/" + nodeType)
        if self.renameEnabled and self.scene:
            self.combo.addItem("Rename current node", "RENAME/")
        if self.removeEnabled and self.scene:
            self.combo.addItem("Delete current node", "DELETE/")
        self.combo.setCurrentIndex(self.combo.findData(self.currentNodeID or None))
        self.combo.blockSignals(False)

    nodeTypes = stored("QStringList", "nodeTypes", [], refresh)
    noneEnabled = stored(bool, "noneEnabled", False, refresh)
    addEnabled = stored(bool, "addEnabled", True, fill)
    removeEnabled = stored(bool, "removeEnabled", True, fill)
    renameEnabled = stored(bool, "renameEnabled", False, fill)
    showHidden = stored(bool, "showHidden", False, refresh)
    showChildNodeTypes = stored(bool, "showChildNodeTypes", True, refresh)
    hideChildNodeTypes = stored("QStringList", "hideChildNodeTypes", [], refresh)
    selectNodeUponCreation = stored(bool, "selectNodeUponCreation", True)
    noneDisplay = stored(str, "noneDisplay", "None", fill)

    def setBaseName(self, name: str) -> None:
        if not self.nodeTypes:
            record.fail("qMRMLNodeComboBox.baseName is lost when it is set before nodeTypes")
        self._baseName = name

    baseName = Property(str, lambda self: getattr(self, "_baseName", ""), setBaseName)

    def allNodes(self) -> list:
        return [self.scene.GetNthNode(i) for i in range(self.scene.GetNumberOfNodes())] if self.scene else []

    def isListed(self, node) -> bool:
        if node.GetHideFromEditors() and not self.showHidden:
            return False
        if any(node.IsA(kind) for kind in self.hideChildNodeTypes):
            return False
        matches = (lambda kind: node.IsA(kind)) if self.showChildNodeTypes else (lambda kind: node.GetClassName() == kind)
        return any(matches(kind) and self.hasAttributes(node, kind) for kind in self.nodeTypes)

    def hasAttributes(self, node, nodeType: str) -> bool:
        wanted = ((name, value) for (kind, name), value in self.attributes.items() if kind == nodeType)
        return all(node.GetAttribute(name) is not None and value in (None, node.GetAttribute(name)) for name, value in wanted)

    def addAttribute(self, nodeType: str, name: str, value=None) -> None:
        self.attributes[nodeType, name] = None if value is None else str(value)
        self.refresh()

    def mrmlScene(self):
        return self.scene

    def setMRMLScene(self, scene) -> None:
        if scene is self.scene:
            return
        for tag in self.observers:
            self.scene.RemoveObserver(tag)
        self.scene, self.observers = scene, []
        self.setEnabled(scene is not None)
        if scene:
            events = slicer.vtkMRMLScene
            changes = (events.NodeAddedEvent, events.NodeRemovedEvent, events.EndBatchProcessEvent, events.EndCloseEvent)
            self.observers = [observe(scene, event, self.onSceneEvent) for event in (*changes, events.EndImportEvent)]
        self.refresh()
        if self.wanted and scene:
            self.setCurrentNodeID(self.wanted)
        self.wanted = ""

    def onSceneEvent(self, scene, event) -> None:
        if not scene.IsBatchProcessing():
            self.refresh()

    def onNodeModified(self, node, event) -> None:
        self.fill()

    def select(self, node) -> None:
        """Makes `node` the current one; all signals only when it is another."""
        if node is self.current:
            return
        if self.current is not None:
            self.current.RemoveObserver(self.nameObserver)
        self.current = node
        if node is not None:
            self.nameObserver = observe(node, vtk.vtkCommand.ModifiedEvent, self.onNodeModified)
        self.fill()
        self.currentNodeChanged.emit(node)
        self.currentNodeChanged_bool.emit(node is not None)
        self.currentNodeIDChanged.emit(self.currentNodeID)

    def currentNode(self):
        return self.current

    def setCurrentNode(self, node) -> None:
        if isinstance(node, str):
            record.fail("qMRMLNodeComboBox.setCurrentNode(ID) is deprecated: use setCurrentNodeID")
        self.setCurrentNodeID(node.GetID() if node else "")

    def setCurrentNodeID(self, nodeID: str) -> None:
        if self.scene is None:
            self.wanted = nodeID
        self.select(next((node for node in self.nodes if node.GetID() == nodeID), None))

    currentNodeID = Property(str, lambda self: self.current.GetID() if self.current else "", setCurrentNodeID)

    def nodeCount(self) -> int:
        return len(self.nodes)

    def nodeFromIndex(self, index: int):
        return self.nodes[index] if 0 <= index < len(self.nodes) else None

    def nodeTypeLabel(self, nodeType: str) -> str:
        return self.scene.GetTypeDisplayNameByClassName(nodeType) or "node"

    def addNode(self, nodeType: str | None = None):
        nodeType = nodeType or self.nodeTypes[0]
        name = self.baseName or self.scene.GetTagByClassName(nodeType)
        node = self.scene.AddNewNodeByClass(nodeType, self.scene.GenerateUniqueName(name))
        for (kind, attribute), value in self.attributes.items():
            if kind == nodeType:
                node.SetAttribute(attribute, value or "")
        self.refresh()
        if self.selectNodeUponCreation:
            self.select(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self) -> None:
        self.scene.RemoveNode(self.current)

    def renameCurrentNode(self) -> None:
        name = QInputDialog.getText(self, "Rename", "New name:")
        if name:
            self.current.SetName(name)
            self.currentNodeRenamed.emit(name)

    def onActivated(self, index: int) -> None:
        action, _, nodeType = (self.combo.itemData(index) or "").partition("/")
        self.fill()
        if action == "CREATE":
            self.nodeAddedByUserAction.emit(self.addNode(nodeType))
        elif action == "RENAME":
            self.renameCurrentNode()
        elif action == "DELETE":
            self.removeCurrentNode()
        else:
            self.setCurrentNodeID(action)
