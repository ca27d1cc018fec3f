"""Slice views off screen: Slicer's own slice logics and displayable managers, without windows."""

from __future__ import annotations

from pathlib import Path

import slicer
import vtk
from proxy import implements

SIZE = (500, 400)  # of a slice view, in pixels
MANAGERS = (
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLTransformsDisplayableManager2D",
    "vtkMRMLColorLegendDisplayableManager",
)


@implements
class qMRMLSliceWidget:
    def __init__(self, logic) -> None:
        self.logicOfSlice = logic

    def sliceLogic(self):
        return self.logicOfSlice

    def mrmlSliceNode(self):
        return self.logicOfSlice.GetSliceNode()

    def mrmlSliceCompositeNode(self):
        return self.logicOfSlice.GetSliceCompositeNode()

    def fitSliceToBackground(self) -> None:
        self.logicOfSlice.FitSliceToBackground()


@implements
class qSlicerLayoutManager:
    """The slice views of the scene; other views exist as nodes only."""

    def __init__(self, app) -> None:
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(app.scene, True)
        self.app, self.widgets, self.logics = app, {}, vtk.vtkCollection()
        app.mrmlApplicationLogic.SetSliceLogics(self.logics)
        self.layouts = slicer.vtkMRMLLayoutLogic()
        self.layouts.SetMRMLScene(app.scene)
        self.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)

    def layoutLogic(self):
        return self.layouts

    @property
    def layout(self) -> int:
        return self.layouts.GetLayoutNode().GetViewArrangement()

    @layout.setter
    def layout(self, layout: int) -> None:
        self.layouts.GetLayoutNode().SetViewArrangement(layout)
        for node in self.sliceNodes():
            if node.GetLayoutName() not in self.widgets:
                self.widgets[node.GetLayoutName()] = qMRMLSliceWidget(self.sliceLogic(node))

    def setLayout(self, layout: int) -> None:
        self.layout = layout

    def sliceNodes(self) -> list:
        views = self.layouts.GetViewNodes()
        nodes = [views.GetItemAsObject(i) for i in range(views.GetNumberOfItems())]
        return [node for node in nodes if node.IsA("vtkMRMLSliceNode")]

    def sliceViewNames(self) -> list[str]:
        return [node.GetLayoutName() for node in self.sliceNodes()]

    def sliceWidget(self, name: str):
        return self.widgets.get(name)

    def sliceLogic(self, node):
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(self.app.mrmlApplicationLogic)
        logic.SetMRMLScene(self.app.scene)
        logic.SetSliceNode(node)
        logic.ResizeSliceNode(*SIZE)
        self.logics.AddItem(logic)
        return logic

    def mrmlSliceLogics(self):
        return self.logics

    def resetSliceViews(self) -> None:
        for name in self.sliceViewNames():
            self.sliceWidget(name).fitSliceToBackground()

    def resetThreeDViews(self) -> None:
        pass


def renderSlice(logic, path: Path, size=SIZE) -> Path:
    """What the slice view of `logic` shows, with segmentations, markups and transforms."""
    renderer, window = vtk.vtkRenderer(), vtk.vtkRenderWindow()
    renderer.GetActiveCamera().ParallelProjectionOn()
    window.SetOffScreenRendering(1)
    window.AddRenderer(renderer)
    interactor = vtk.vtkRenderWindowInteractor()
    interactor.SetRenderWindow(window)
    interactor.Initialize()
    window.SetSize(*size)
    mapper, actor = vtk.vtkImageMapper(), vtk.vtkActor2D()
    mapper.SetColorWindow(255)
    mapper.SetColorLevel(127.5)
    actor.SetMapper(mapper)
    renderer.AddViewProp(actor)  # before the managers, or it hides what they draw
    group = displayableManagers(renderer, logic.GetSliceNode())
    logic.ResizeSliceNode(*size)
    showOldLegends(logic.GetSliceCompositeNode())
    mapper.SetInputConnection(logic.GetImageDataConnection())
    window.Render()
    grabbed, writer = vtk.vtkWindowToImageFilter(), vtk.vtkPNGWriter()
    grabbed.SetInput(window)
    grabbed.ReadFrontBufferOff()
    grabbed.Update()
    writer.SetFileName(str(path))
    writer.SetInputConnection(grabbed.GetOutputPort())
    writer.Write()
    group.SetMRMLDisplayableNode(None)
    return path


def showOldLegends(composite) -> None:
    """The manager of color legends asks for those that are older than itself when a layer changes."""
    flags = composite.GetInteractionFlags()
    composite.SetInteractionFlags(composite.BackgroundVolumeFlag)
    composite.Modified()
    composite.SetInteractionFlags(flags)


def displayableManagers(renderer, sliceNode):
    factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
    factory.SetMRMLApplicationLogic(slicer.app.applicationLogic())
    for manager in MANAGERS:
        if not factory.IsDisplayableManagerRegistered(manager):
            factory.RegisterDisplayableManager(manager)
    group = slicer.vtkMRMLDisplayableManagerGroup()
    group.SetRenderer(renderer)
    group.Initialize(factory, renderer)
    group.SetMRMLDisplayableNode(sliceNode)
    return group
