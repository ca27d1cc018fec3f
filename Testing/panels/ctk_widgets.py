"""CTK's widgets as far as our panels use them; properties and signals as in CTK's headers."""

from __future__ import annotations

from dialogs import QFileDialog
from proxy import implements
from PySide6.QtCore import Property, QDir, QSettings, QSize, Qt, Signal
from PySide6.QtWidgets import (
    QAbstractButton,
    QComboBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QSizePolicy,
    QSlider,
    QStyle,
    QStyleOptionButton,
    QStylePainter,
    QToolButton,
    QWidget,
)


def stored(kind, name: str, default, changed=None):
    """A Qt property kept in an attribute; `changed(self)` follows a new value."""

    def get(self):
        return getattr(self, "_" + name, default)

    def set(self, value):
        setattr(self, "_" + name, value)
        if changed:
            changed(self)

    return Property(kind, get, set)


def forwarded(kind, part: str, name: str):
    """A Qt property of a part of the widget."""

    def get(self):
        return getattr(self, part).property(name)

    def set(self, value):
        getattr(self, part).setProperty(name, value)

    return Property(kind, get, set)


def fillRow(widget, *parts) -> None:
    """Lays the parts out side by side; the first takes the room."""
    layout = QHBoxLayout(widget)
    layout.setContentsMargins(0, 0, 0, 0)
    for part in parts:
        layout.addWidget(part, 1 if part is parts[0] else 0)


@implements
class ctkCollapsibleButton(QAbstractButton):
    """A title bar that shows or hides the widgets of its layout."""

    contentsCollapsed = Signal(bool)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self.setCheckable(True)
        self.setChecked(True)
        self.setSizePolicy(QSizePolicy.Policy.Minimum, QSizePolicy.Policy.Preferred)
        self.setContentsMargins(0, self.titleHeight(), 0, 0)
        self.toggled.connect(self.onToggled)

    collapsedHeight = stored(int, "collapsedHeight", 10)
    flat = stored(bool, "flat", False)
    collapsed = Property(bool, lambda self: not self.isChecked(), lambda self, value: self.setChecked(not value))

    def titleHeight(self) -> int:
        return self.fontMetrics().height() + 8

    def onToggled(self, isOpen: bool) -> None:
        for child in self.children():
            if isinstance(child, QWidget):
                child.setVisible(isOpen)
        self.setMaximumHeight(16777215 if isOpen else self.titleHeight() + 2)
        self.contentsCollapsed.emit(not isOpen)

    def childEvent(self, event) -> None:
        super().childEvent(event)
        if event.added() and not self.isChecked() and isinstance(event.child(), QWidget):
            event.child().setVisible(False)

    def hitButton(self, position) -> bool:
        return position.y() <= self.titleHeight()

    def sizeHint(self):
        return self.layout().totalSizeHint() if self.layout() and self.isChecked() else self.minimumSizeHint()

    def minimumSizeHint(self):
        isOpen = self.layout() and self.isChecked()
        return self.layout().totalMinimumSize() if isOpen else QSize(100, self.titleHeight() + 2)

    def paintEvent(self, event) -> None:
        painter, option = QStylePainter(self), QStyleOptionButton()
        option.initFrom(self)
        option.rect = self.rect().adjusted(0, 0, 0, self.titleHeight() - self.height())
        painter.drawControl(QStyle.ControlElement.CE_PushButtonBevel, option)
        arrow = "\u25bc" if self.isChecked() else "\u25b6"
        painter.drawText(option.rect.adjusted(8, 0, -4, 0), Qt.AlignmentFlag.AlignVCenter, f"{arrow}  {self.text()}")


@implements
class ctkSliderWidget(QWidget):
    STEPS = 1000  # positions of the slider; the number itself is the spin box's

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self.slider, self.spinBox = QSlider(Qt.Orientation.Horizontal), QDoubleSpinBox()
        self.slider.setMaximum(self.STEPS)
        self.slider.sliderMoved.connect(self.onSliderMoved)
        self.spinBox.valueChanged.connect(self.onValueChanged)
        fillRow(self, self.slider, self.spinBox)

    value = forwarded(float, "spinBox", "value")
    minimum = forwarded(float, "spinBox", "minimum")
    maximum = forwarded(float, "spinBox", "maximum")
    decimals = forwarded(int, "spinBox", "decimals")
    singleStep = forwarded(float, "spinBox", "singleStep")
    prefix = forwarded(str, "spinBox", "prefix")
    suffix = forwarded(str, "spinBox", "suffix")
    pageStep = stored(float, "pageStep", 10.0)
    tracking = stored(bool, "tracking", True)

    def setValue(self, value: float) -> None:
        self.spinBox.setValue(value)

    def setDecimals(self, decimals: int) -> None:
        self.spinBox.setDecimals(decimals)

    def onSliderMoved(self, position: int) -> None:
        low, high = self.spinBox.minimum(), self.spinBox.maximum()
        self.spinBox.setValue(low + (high - low) * position / self.STEPS)

    def onValueChanged(self, value: float) -> None:
        low, high = self.spinBox.minimum(), self.spinBox.maximum()
        self.slider.setValue(round(self.STEPS * (value - low) / (high - low)) if high > low else 0)
        self.valueChanged.emit(value)


@implements
class ctkPathLineEdit(QWidget):
    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self.edit, self.browseButton = QComboBox(), QToolButton()
        self.edit.setEditable(True)
        self.edit.currentTextChanged.connect(self.currentPathChanged)
        self.browseButton.setText("...")
        self.browseButton.clicked.connect(self.browse)
        fillRow(self, self.edit, self.browseButton)

    Dirs, Files, NoDotAndDotDot, Readable = (QDir.Filter[name].value for name in ("Dirs", "Files", "NoDotAndDotDot", "Readable"))
    filters = stored(int, "filters", QDir.Filter.AllEntries.value)
    nameFilters = stored("QStringList", "nameFilters", [])
    settingKey = stored(str, "settingKey", "")
    label = stored(str, "label", "")
    currentPath = Property(str, lambda self: self.edit.currentText(), lambda self, path: self.setCurrentPath(path))
    showBrowseButton = Property(
        bool, lambda self: not self.browseButton.isHidden(), lambda self, value: self.browseButton.setVisible(value)
    )
    showHistoryButton = stored(bool, "showHistoryButton", True)

    def setCurrentPath(self, path: str) -> None:
        self.edit.setCurrentText(path)

    def addCurrentPathToHistory(self) -> None:
        if self.settingKey and self.currentPath:
            QSettings().setValue(self.settingKey, [self.currentPath, *(QSettings().value(self.settingKey) or [])])

    def comboBox(self):
        return self.edit

    def browse(self) -> None:
        files = bool(self.filters & QDir.Filter.Files.value)
        path = (QFileDialog.getOpenFileName if files else QFileDialog.getExistingDirectory)(self, self.label, self.currentPath)
        if path:
            self.setCurrentPath(path)


for pathFilter in QDir.Filter:
    setattr(ctkPathLineEdit, pathFilter.name, pathFilter.value)
