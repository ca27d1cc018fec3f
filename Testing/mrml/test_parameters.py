"""Settings in a parameter node: they follow the preset until they are changed, and are checked by the config."""

from __future__ import annotations

import pytest
import slicer

from imagingai.errors import InputError
from imagingai.registration.config import PRESETS
from ImagingAILib.parameters import Parameters, asText, camelCase


@pytest.fixture
def parameters(scene) -> Parameters:
    return Parameters(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "DeepSimRegistration"), "register")


def test_what_is_not_set_has_the_value_of_the_preset(parameters):
    assert (parameters.preset, parameters.text("smoothing"), parameters.values()) == ("default", "0.8", {})
    parameters.choosePreset("smooth")
    assert parameters.text("smoothing") == "1.2" and parameters.values() == PRESETS["smooth"]


def test_a_changed_option_stays_until_a_preset_or_reset_takes_it_back(parameters):
    parameters.setText("smoothing", " 1.5 ")
    parameters.setText("seed", "7")
    assert parameters.isChanged("smoothing") and parameters.values() == {"smoothing": 1.5, "seed": 7}
    parameters.choosePreset("smooth")
    assert parameters.text("smoothing") == "1.2"
    assert parameters.text("seed") == "7", "no preset is about the seed"
    parameters.reset()
    assert not parameters.isChanged("seed") and parameters.preset == "smooth"


@pytest.mark.parametrize("text", ["0.8", ""])
def test_the_value_of_the_preset_is_not_stored(parameters, text):
    parameters.setText("smoothing", "1.5")
    parameters.setText("smoothing", text)
    assert not parameters.isChanged("smoothing")


@pytest.mark.parametrize(("name", "text"), [("smoothing", "11"), ("alignment", "bent"), ("iterations", "many"), ("seed", "1.5")])
def test_a_value_that_is_not_allowed(parameters, name, text):
    parameters.setText(name, text)
    with pytest.raises(InputError, match=name):
        parameters.values()


def test_saved_with_the_scene(parameters, tmp_path):
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "brain")
    parameters.setText("iterations", "10 5")
    parameters.choosePreset("smooth")
    parameters.setNodeOf("fixed", volume)
    slicer.util.saveScene(str(tmp_path / "case.mrb"))
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "case.mrb"))
    loaded = Parameters(slicer.util.getNode("DeepSimRegistration"), "register")
    assert loaded.preset == "smooth" and loaded.nodes()["fixed"].GetName() == "brain"


@pytest.mark.parametrize(("value", "text"), [(True, "true"), (0.8, "0.8"), ((60, 40), "60 40"), ("ncc", "ncc"), (7, "7")])
def test_values_are_written_as_on_the_command_line(value, text):
    assert asText(value) == text


def test_names_of_widgets():
    assert camelCase("fixed_labels") == "fixedLabels"
