"""Dialogs are recorded and answered at once, nothing blocks."""

from __future__ import annotations

from dataclasses import dataclass

from contract import record
from proxy import implements, wrap
from PySide6 import QtWidgets

current: Dialogs | None = None
Button = QtWidgets.QMessageBox.StandardButton


@dataclass(frozen=True)
class Shown:
    kind: str  # class of the dialog, or the static function
    title: str
    text: str
    details: str = ""


class Dialogs(list):
    """The dialogs shown so far. A test gives `answers` to questions beforehand: a button, a path, a function of the dialog."""

    def __init__(self) -> None:
        global current
        self.answers = []
        current = self

    def ask(self, shown: Shown, isQuestion: bool, default):
        self.append(shown)
        if isQuestion and self.answers:
            return self.answers.pop(0)
        if isQuestion:
            record.keep(AssertionError(f"The test has no answer for: {shown}"))
        return default


@implements
class QMessageBox(QtWidgets.QMessageBox):
    def exec(self) -> int:
        shown = Shown(type(self).__name__, self.windowTitle().strip(), self.text(), self.detailedText())
        choices = [choice for choice in map(self.standardButton, self.buttons()) if choice != Button.NoButton]
        isQuestion = len(choices) > 1
        answer = current.ask(shown, isQuestion, "Cancel" if Button.Cancel in choices else "No" if isQuestion else "Ok")
        button = self.button(Button[answer])
        assert button is not None, f"{shown} has no button {answer}"
        button.click()
        return int(Button[answer])

    @staticmethod
    def ofKind(kind: str):
        def show(parent, title, text, buttons=Button.Ok, default=Button.NoButton):
            box = QMessageBox()
            box.setWindowTitle(title)
            box.setText(text)
            box.setStandardButtons(buttons)
            return Button(box.exec())

        return show


for kind in ("information", "warning", "critical", "question"):
    setattr(QMessageBox, kind, staticmethod(QMessageBox.ofKind(kind)))


@implements
class ctkMessageBox(QMessageBox):
    dontShowAgain = dontShowAgainVisible = False
    dontShowAgainSettingsKey = ""


@implements
class QDialog(QtWidgets.QDialog):
    def exec(self) -> int:
        self.show()
        answer = current.ask(Shown(type(self).__name__, self.windowTitle(), ""), True, None)
        if callable(answer):
            answer(wrap(self))
        self.close()
        return self.result()


def pathOrText(name: str):
    """PythonQt's functions return the path or text alone, "" when canceled."""

    def show(*args):
        return current.ask(Shown(name, *[str(arg) for arg in args[1:3]]), True, "")

    return staticmethod(show)


@implements
class QFileDialog(QtWidgets.QFileDialog):
    getOpenFileName = pathOrText("getOpenFileName")
    getSaveFileName = pathOrText("getSaveFileName")
    getExistingDirectory = pathOrText("getExistingDirectory")


@implements
class QInputDialog(QtWidgets.QInputDialog):
    getText = pathOrText("getText")


class QDesktopServices:
    """Pages that would open in the browser."""

    @staticmethod
    def openUrl(url) -> bool:
        current.append(Shown("openUrl", "", url.toString()))
        return True
