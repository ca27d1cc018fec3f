"""A widget for an option of a config: made from its type, choices and limits, read and written as text."""

from __future__ import annotations

import typing
from collections.abc import Callable
from decimal import Decimal

import ctk
import qt
from slicer.i18n import tr as _

CHANGED = {
    "QCheckBox": "toggled(bool)",
    "QComboBox": "currentTextChanged(QString)",
    "QSpinBox": "valueChanged(int)",
    "QDoubleSpinBox": "valueChanged(double)",
    "QLineEdit": "editingFinished()",
    "ctkPathLineEdit": "currentPathChanged(QString)",
}


def makeField(field, kind):
    """A check box, combo box, spin box or line edit for a dataclass field of `imagingai.options.option()`."""
    meta = field.metadata
    if kind is bool:
        widget = qt.QCheckBox()
    elif kind in (str, int) and meta["choices"]:
        widget = qt.QComboBox()
    elif kind in (int, float) and meta["limits"] and decimals(field.default) <= 2:
        widget = qt.QSpinBox() if kind is int else qt.QDoubleSpinBox()
    else:
        widget = qt.QLineEdit()
    prepareField(widget, field)
    return widget


def prepareField(widget, field) -> None:
    """Give a widget the choices, limits, unit and help of an option."""
    meta = field.metadata
    widget.toolTip = helpOf(field)
    if isinstance(widget, qt.QComboBox):
        widget.addItems([str(choice) for choice in meta["choices"]])
    elif isinstance(widget, (qt.QSpinBox, qt.QDoubleSpinBox)):
        low, high = meta["limits"]
        if isinstance(widget, qt.QDoubleSpinBox):
            widget.decimals = max(2, decimals(field.default), decimals(high)) if high <= 1000 else 0
            widget.singleStep = 0.05 if high <= 2 else 1 if high > 10 else 0.1
        widget.minimum, widget.maximum = (int(low), int(high)) if isinstance(widget, qt.QSpinBox) else (low, high)
        if meta["unit"]:
            widget.suffix = " " + meta["unit"]


def decimals(value: float) -> int:
    """0.25 -> 2; numbers like 0.0005 are typed, not spun."""
    return max(0, -Decimal(str(value)).as_tuple().exponent)


def helpOf(field) -> str:
    """The help of an option with its limits."""
    text, meta = _(field.metadata["help"]), field.metadata
    if meta["limits"]:
        text += " " + _("From {low:g} to {high:g}.").format(low=meta["limits"][0], high=meta["limits"][1])
    return text


def readField(widget) -> str:
    """The value as text, as on the command line."""
    if isinstance(widget, qt.QCheckBox):
        return str(bool(widget.checked)).lower()
    if isinstance(widget, qt.QComboBox):
        return widget.currentText
    if isinstance(widget, qt.QLineEdit):
        return widget.text
    if isinstance(widget, ctk.ctkPathLineEdit):
        return widget.currentPath
    return str(widget.value) if isinstance(widget, qt.QSpinBox) else f"{widget.value:.10g}"


def writeField(widget, text: str) -> None:
    """Show a value; no signal is sent."""
    wasBlocked = widget.blockSignals(True)
    if isinstance(widget, qt.QCheckBox):
        widget.checked = text == "true"
    elif isinstance(widget, qt.QComboBox):
        widget.setCurrentText(text)
    elif isinstance(widget, qt.QLineEdit):
        widget.text = text
    elif isinstance(widget, ctk.ctkPathLineEdit):
        widget.currentPath = text
    else:
        widget.value = float(text) if isinstance(widget, qt.QDoubleSpinBox) else int(text)
    widget.blockSignals(wasBlocked)


def mark(widget, isChanged: bool) -> None:
    """Show in bold what differs from the preset."""
    font = widget.font
    if font.bold() != isChanged:
        font.setBold(isChanged)
        widget.font = font


def onChange(widget, slot: Callable) -> None:
    """Call slot() when a person, or code, changes the value."""
    widget.connect(CHANGED[type(widget).__name__], slot)


def titleOf(name: str) -> str:
    """coarse_smoothing -> Coarse smoothing:"""
    return _(name.replace("_", " ").capitalize()) + ":"


def isList(kind) -> bool:
    return typing.get_origin(kind) is tuple
