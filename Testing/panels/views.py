"""Slice views off screen: Slicer's own slice logics and displayable managers, without windows."""

from __future__ import annotations

from pathlib import Path

import slicer
import vtk
from proxy import implements

MANAGERS = (
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLTransformsDisplayableManager2D",
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
    """Red, green and yellow slice views of the scene."""

    layout = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
    SLICES = (("Red", "Axial"), ("Green", "Coronal"), ("Yellow", "Sagittal"))

    def __init__(self, app) -> None:
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(app.scene, True)
        self.logics, self.widgets = vtk.vtkCollection(), {}
        for name, orientation in self.SLICES:
            logic = slicer.vtkMRMLSliceLogic()
            logic.SetMRMLApplicationLogic(app.mrmlApplicationLogic)
            logic.SetMRMLScene(app.scene)
            self.logics.AddItem(logic)
            node = logic.AddSliceNode(name)
            node.SetOrientation(orientation)
            self.widgets[name] = qMRMLSliceWidget(logic)
        app.mrmlApplicationLogic.SetSliceLogics(self.logics)

    def setLayout(self, layout: int) -> None:
        self.layout = layout

    def sliceViewNames(self) -> list[str]:
        return list(self.widgets)

    def sliceWidget(self, name: str):
        return self.widgets[name]

    def mrmlSliceLogics(self):
        return self.logics

    def resetSliceViews(self) -> None:
        for widget in self.widgets.values():
            widget.fitSliceToBackground()

    def resetThreeDViews(self) -> None:
        pass


def renderSlice(logic, path: Path, size=(500, 400)) -> Path:
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
    logic.FitSliceToBackground()
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
