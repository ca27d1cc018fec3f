"""One registration of nodes of the scene: what is written for the job, and what becomes of its result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from ImagingAILib import nodes as files
from ImagingAILib.nodes import NodeError
from ImagingAILib.run import NodeRun
from ImagingAILib.world import chainOf, mapPoints, toWorld

FIXED_OF = "ImagingAI.Fixed"  # node reference of a result transform: what it was registered to
PARENT_BEFORE = "ImagingAI.ParentBefore"  # node reference of what a result moves: its parent transform before
MOVING_GROUP = ("moving", "moving_mask", "moving_labels", "moving_landmarks")
PROBES = np.stack(np.meshgrid(*[(-100.0, 0.0, 100.0)] * 3), -1).reshape(-1, 3)  # mm, points that tell whether a node was moved


class Registration(NodeRun):
    """Write, run, read back, undo.

    chosen: nodes by the names of the task's inputs (fixed, moving, fixed_labels ...); outputVolume, outputTransform: nodes to
    fill, or None for new ones. After a run volume, transform and table hold what came out.
    """

    task = "register"

    def __init__(self, chosen: dict[str, Any], config: dict[str, Any], folder: Path, outputVolume=None, outputTransform=None) -> None:
        super().__init__(config, folder)
        self.chosen = chosen
        self.volume, self.transform, self.table = outputVolume, outputTransform, None
        self._parents: dict[str, tuple[str | None, str | None]] = {}
        self._made: set[str] = set()
        self._restore: list[Callable[[], None]] = []

    @property
    def name(self) -> str:
        return _("{moving} to {fixed}").format(moving=self.chosen["moving"].GetName(), fixed=self.chosen["fixed"].GetName())

    @property
    def metrics(self) -> dict[str, Any]:
        """All that was measured, as in result.json: dice, tre, sdlogj, folding_percent, inverse_consistency ..."""
        return self.result.get("metrics", {})

    def writeInputs(self) -> dict[str, str]:
        """Check and write the nodes. Raises `NodeError`."""
        self._check()
        inputs = writeInputs(self.chosen, self.folder, self.transform)
        self._places = {name: placeOf(node) for name, node in self.chosen.items()}
        return inputs

    def _check(self) -> None:
        for one, other in (("fixed_labels", "moving_labels"), ("fixed_landmarks", "moving_landmarks")):
            if (one in self.chosen) != (other in self.chosen):
                raise NodeError(_("Choose {one} and {other}, or none of them.").format(one=spoken(one), other=spoken(other)))
        if self.volume in self.chosen.values():
            raise NodeError(_("{name} is an input. Choose another output volume.").format(name=self.volume.GetName()))
        moving = [self.chosen[name] for name in MOVING_GROUP if name in self.chosen]
        for node in (node for name, node in self.chosen.items() if name.startswith(("fixed", "rigid"))):
            if node in moving:
                text = _("{name} is chosen for the fixed and for the moving volume. Choose one of its own for each.")
                raise NodeError(text.format(name=node.GetName()))
            if self.transform in chainOf(node):
                text = _("{name} moves {input}, which is to stay. Choose another output transform.")
                raise NodeError(text.format(name=self.transform.GetName(), input=node.GetName()))
        if self.transform and not self.transform.IsA("vtkMRMLTransformNode"):
            raise NodeError(_("{name} is not a transform node.").format(name=self.transform.GetName()))
        special = self.transform and self.transform.GetClassName() != "vtkMRMLTransformNode"
        if special and self.config.get("deformation") != "none":
            text = _("{name} can hold a linear transform or a single grid only. Choose a new output transform.")
            raise NodeError(text.format(name=self.transform.GetName()))

    def readResult(self) -> None:
        """Make the result nodes and put what belongs to the moving volume under the transform."""
        fixed, moving = self.chosen["fixed"], self.chosen["moving"]
        if gone := [name for name, node in self.chosen.items() if node.GetScene() is None]:
            text = _("The {names} was removed from the scene meanwhile. The results are in {folder}.")
            raise NodeError(text.format(names=", ".join(map(spoken, gone)), folder=self.folder))
        if moved := [name for name, node in self.chosen.items() if not np.allclose(placeOf(node), self._places[name], atol=1e-3)]:
            text = _("The {names} was moved meanwhile. Apply again; the results for the earlier place are in {folder}.")
            raise NodeError(text.format(names=", ".join(map(spoken, moved)), folder=self.folder))
        self.volume, self.transform = (node if node and node.GetScene() else None for node in (self.volume, self.transform))
        self._remember()
        before = nodeIDs()
        self.volume = files.readVolume(self.folder / "moved.nii.gz", self.name, self.volume)
        copyWindow(moving, self.volume)
        self.transform = files.readTransform(self.folder / "transform.h5", _("{name} transform").format(name=self.name), self.transform)
        self.transform.SetNodeReferenceID(FIXED_OF, fixed.GetID())
        rows = tableRows(self.result)
        self.table = files.readTable(rows, [_("Measure"), _("Before"), _("After")], _("{name} results").format(name=self.name))
        for node in {self.chosen[name] for name in MOVING_GROUP if name in self.chosen}:
            self._parents[node.GetID()] = (node.GetTransformNodeID(), node.GetNodeReferenceID(PARENT_BEFORE))
            if self.transform in chainOf(node):
                continue  # it has just got its new content
            if resultAbove(node, fixed):
                node.SetAndObserveTransformNodeID(node.GetNodeReferenceID(PARENT_BEFORE))
            node.SetNodeReferenceID(PARENT_BEFORE, node.GetTransformNodeID())
            files.moveWith(node, self.transform)
        self._made = nodeIDs() - before

    def _remember(self) -> None:
        """What the chosen outputs hold, for undo."""
        if volume := self.volume:
            image, parent, matrix = volume.GetImageData(), volume.GetTransformNodeID(), vtk.vtkMatrix4x4()
            volume.GetIJKToRASMatrix(matrix)
            steps = (
                lambda: volume.SetAndObserveImageData(image),
                lambda: volume.SetIJKToRASMatrix(matrix),
                lambda: volume.SetAndObserveTransformNodeID(parent),
            )
            self._restore += steps
        if transform := self.transform:
            content, above, fixedID = (
                transform.GetTransformFromParent(),
                transform.GetTransformNodeID(),
                transform.GetNodeReferenceID(FIXED_OF),
            )
            self._restore += (
                lambda: transform.SetAndObserveTransformFromParent(content),
                lambda: transform.SetAndObserveTransformNodeID(above),
                lambda: transform.SetNodeReferenceID(FIXED_OF, fixedID),
            )

    def undo(self) -> None:
        """Move everything back, give chosen outputs their content back, and remove the nodes that this registration made."""
        for step in self._restore:
            step()
        for nodeID, (parentID, beforeID) in self._parents.items():
            if node := slicer.mrmlScene.GetNodeByID(nodeID):
                node.SetAndObserveTransformNodeID(parentID)
                node.SetNodeReferenceID(PARENT_BEFORE, beforeID)
        for nodeID in self._made:
            files.removeNode(slicer.mrmlScene.GetNodeByID(nodeID))
        self._parents, self._restore, self.state = {}, [], "undone"


def writeInputs(chosen: dict[str, Any], folder: Path, output=None) -> dict[str, str]:
    """Write the nodes into the folder, where they are in the world; returns the inputs of the job.

    What lies under `output`, the transform that will be replaced, or under the result of an earlier registration to the same
    fixed volume, is written as if it did not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fixed, moving = chosen["fixed"], chosen["moving"]
    where = {name: folder / f"{name}.nrrd" for name in chosen}
    where |= {name: folder / f"{name}.mrk.json" for name in chosen if name.endswith("landmarks")}
    where |= {name: folder / f"{name}.h5" for name in chosen if name == "initial"}
    group = [chosen[name] for name in MOVING_GROUP if name in chosen]
    isReplaced = any(output in chainOf(node) for node in group)
    without = output if isReplaced else next((above for node in group if (above := resultAbove(node, fixed))), None)
    files.writeVolume(fixed, where["fixed"])
    files.writeVolume(moving, where["moving"], without)
    if "fixed_labels" in chosen:
        both = ("fixed_labels", "moving_labels")
        files.writeLabels([chosen[name] for name in both], [fixed, moving], [where[name] for name in both], without)
    for name, reference in (("fixed_mask", fixed), ("moving_mask", moving), ("rigid_labels", fixed)):
        if name in chosen:
            files.writeLabels([chosen[name]], [reference], [where[name]], without)
    if "fixed_landmarks" in chosen:
        files.writeLandmarks(chosen["fixed_landmarks"], where["fixed_landmarks"])
        files.writeLandmarks(chosen["moving_landmarks"], where["moving_landmarks"], without)
    if "initial" in chosen:
        files.writeTransform(chosen["initial"], where["initial"], fixed)
    return {name: str(path) for name, path in where.items()}


def placeOf(node) -> np.ndarray:
    """Where the coordinates of a node are in the world now."""
    return mapPoints(toWorld(node), PROBES)


def interpolateLinearly() -> None:
    """Results of a loaded scene: Slicer reads their fields as cubic splines, the library takes them linearly."""
    for transform in slicer.util.getNodesByClass("vtkMRMLTransformNode"):
        if transform.GetNodeReferenceID(FIXED_OF):
            files.setLinear(transform.GetTransformFromParent())


def resultAbove(node, fixed):
    """The result of an earlier registration to the same fixed volume under which a node lies, or None."""
    return next((transform for transform in chainOf(node) if transform.GetNodeReference(FIXED_OF) is fixed), None)


def tableRows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The measures that a person reads first, then the overlap of every structure."""
    summary, metrics, names = result.get("summary", {}), result.get("metrics", {}), result.get("names", {})
    rows = []
    for key, title, form in (
        ("dice", _("Dice, mean"), "{:.3f}"),
        ("hd95", _("HD95, mean"), "{:.2f} mm"),
        ("tre", _("Landmark error, mean"), "{:.2f} mm"),
        ("sdlogj", _("Roughness (SDlogJ)"), "{:.3f}"),
        ("folding_percent", _("Folding"), "{:.3g} %"),
        ("inverse_consistency", _("Inverse consistency"), "{:.3f} mm"),
    ):
        if key in summary:
            before = summary.get(f"{key}_before")
            rows.append((title, "" if before is None else form.format(before), form.format(summary[key])))
    rows.append((_("Time"), "", _("{seconds:.0f} s").format(seconds=result.get("seconds", 0))))
    before = metrics.get("dice_before", {})
    for value, dice in metrics.get("dice", {}).items():
        title = _("Dice {structure}").format(structure=names.get(str(value), value))
        rows.append((title, f"{before[value]:.3f}" if value in before else "", f"{dice:.3f}"))
    return rows


def copyWindow(source, target) -> None:
    """Show a volume with the gray window and colors of another."""
    theirs, ours = source.GetDisplayNode(), target.GetDisplayNode()
    if theirs and ours:
        ours.SetAutoWindowLevel(False)
        ours.SetWindowLevel(theirs.GetWindow(), theirs.GetLevel())
        ours.SetAndObserveColorNodeID(theirs.GetColorNodeID())


def nodeIDs() -> set[str]:
    return {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLNode")}


def spoken(name: str) -> str:
    """fixed_labels -> fixed labels"""
    return name.replace("_", " ")
