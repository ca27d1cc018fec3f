"""The tab Running of FederatedClient: where this site is, how the model does here, and every exchange."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from html import escape
from pathlib import Path

import qt
from slicer.i18n import tr as _

from ImagingAILib.case_view import LIGHTS, fillTable
from ImagingAILib.federation import Follower, JoinRun
from ImagingAILib.training_view import Plot

INTERVAL = 1000  # ms between two looks at the folder
SHOWN = 200  # exchanges in the table; all are in the log
SHORT = 12  # digits of a hash
NO_CURVE = ("round", "seconds", "bytes", "epochs", "num-examples", "held_out")
BEFORE = "_before"  # of figures of the model that came, measured before this site trained on


class RunningView:
    """Follows the folder of a federation, with the job that writes it or without, as `TaskPanel` asks of results."""

    def __init__(self, ui, onDone: Callable[[JoinRun], None]) -> None:
        self.ui, self.onDone = ui, onDone
        self.run: JoinRun | None = None
        self.follower: Follower | None = None
        self.plot = Plot(ui.curveLayout, _("Curves"))
        self.history: list[dict] = []
        self.timer = qt.QTimer()
        self.timer.connect("timeout()", self.look)
        ui.pauseButton.connect("clicked(bool)", self.onPause)
        ui.quantityBox.connect("currentIndexChanged(int)", self.draw)
        self.open(None)

    # --- as TaskPanel asks

    def suspend(self) -> None:
        pass

    def follow(self, run: JoinRun) -> None:
        """This site takes part."""
        self.open(run.folder)
        self.run = run
        self.timer.start(INTERVAL)
        self.look()

    def showProgress(self, run) -> None:
        pass

    def show(self, run) -> None:
        """The job has ended."""
        self.timer.stop()
        self.run = None
        self.look()
        self.onDone(run)

    def clear(self) -> None:
        """The scene goes away, and with it the nodes of the curves; what is followed stays."""
        self.history = []
        self.plot.remove()

    def close(self) -> None:
        self.timer.stop()
        self.run = None

    # --- the folder

    def open(self, folder: Path | None) -> None:
        """Show what is known of a federation."""
        self.follower = Follower(folder) if folder else None
        self.clear()
        self.ui.quantityBox.clear()
        self.showLog()
        self.look()

    def look(self) -> None:
        """Show what is new."""
        found, ui = self.follower, self.ui
        if found and found.readLog():
            self.showLog()
        if found and (history := found.history()) != self.history:
            self.showCurves(history)
        ui.stateLabel.text = stateText(found.state() if found else {}, self.run) + budgetText(self.history)
        ui.pauseButton.enabled = ui.leaveButton.enabled = self.run is not None
        ui.pauseButton.text = _("Go on") if self.run and self.run.isPaused else _("Pause")

    def showLog(self) -> None:
        log = self.follower.log if self.follower else []
        shown = list(reversed(log[-SHOWN:]))
        fillTable(self.ui.exchangesTable, [_("Time"), _("Round"), _("What"), _("MB"), _("SHA-256")], [lineTexts(row) for row in shown])
        for number, row in enumerate(shown):
            self.ui.exchangesTable.item(number, 2).setToolTip(detailsText(row))
            self.ui.exchangesTable.item(number, 4).setToolTip(row.get("sha256", ""))
        sent, received = ([row.get("bytes", 0) / 1e6 for row in log if row["event"] == event] for event in ("sent", "received"))
        text = _("Answers that left this site: {out}, {sent:.1f} MB. Instructions that came: {come}, {received:.1f} MB.")
        known = {"out": len(sent), "sent": sum(sent), "come": len(received), "received": sum(received)}
        self.ui.totalLabel.text = text.format(**known) if log else _("Nothing has been exchanged.")
        file = self.follower.audit if self.follower else None
        self.ui.folderLabel.text = f'<a href="{file.as_uri()}">{_("The whole log")}</a>' if file and file.exists() else ""

    def showCurves(self, history: list[dict]) -> None:
        self.history, box = history, self.ui.quantityBox
        names = quantities(history)
        if [box.itemData(number) for number in range(box.count)] != names:
            wasBlocked = box.blockSignals(True)
            box.clear()
            for name in names:
                box.addItem(quantityTitle(name), name)
            box.blockSignals(wasBlocked)
        self.draw()

    def draw(self, _index: int = 0) -> None:
        name = self.ui.quantityBox.currentData
        if self.history and name:
            self.plot.show({"": self.history}, "round", name, (_("Round"), quantityTitle(name)))

    def onPause(self, _checked=False) -> None:
        self.run.pause(not self.run.isPaused)
        self.look()


def stateText(state: dict, run: JoinRun | None) -> str:
    """Where this site is, in words."""
    known = {"round": state.get("round", 0), "rounds": state.get("rounds", "?")}
    if run is None:
        text = _("Not joined.")
        if state:
            isDone = state.get("state") == "done"
            text = _("Done after {rounds} rounds.") if isDone else _("Not joined. The last round here was {round} of {rounds}.")
        return f"<b>{text.format(**known)}</b>"
    words = {
        "preparing": _("Reading the data"),
        "connecting": _("Connecting to the aggregator"),
        "waiting": _("Waiting for the other sites, round {round} of {rounds}"),
        "training": _("Training, round {round} of {rounds}"),
        "sending": _("Sending, round {round} of {rounds}"),
        "paused": _("Paused, round {round} of {rounds}"),
        "left": _("Leaving"),
        "done": _("Done after {rounds} rounds"),
    }
    name = "paused" if run.isPaused else state.get("state", "preparing")
    light = LIGHTS["look"] if name in ("paused", "connecting") else LIGHTS["good"]
    message = escape(state.get("message") or "") if name == "connecting" else ""  # why
    return f'<span style="color:{light}">●</span> <b>{words[name].format(**known)}</b>' + (f"<br>{message}" if message else "")


def budgetText(history: list[dict]) -> str:
    """How much of the privacy budget is spent, if there is one."""
    spent = history[-1].get("epsilon") if history else 0
    return "<br>" + _("Privacy budget spent so far: epsilon {value:.2f}").format(value=spent) if spent else ""


def lineTexts(row: dict) -> tuple[str, ...]:
    """A line of the log, as it is shown."""
    kinds = {"survey": _("counts"), "train": _("weights"), "evaluate": _("figures"), "finish": _("result")}
    words = {"agreed": _("agreed"), "connected": _("connected"), "paused": _("paused"), "went on": _("went on"), "left": _("left")}
    words |= {"data": _("data read"), "refused": _("refused")}
    event, kind = row["event"], kinds.get(row.get("kind"), row.get("kind", ""))
    what = {"sent": f"↑ {kind}", "received": f"↓ {kind}"}.get(event) or words.get(event, event)
    size = f"{row['bytes'] / 1e6:.2f}" if "bytes" in row else ""
    return (localTime(row["time"]), str(row.get("round", "")), what, size, row.get("sha256", "")[:SHORT])


def detailsText(row: dict) -> str:
    """What else a line of the log says: the figures that left with the weights, or why something was refused."""
    figures = row.get("figures", {})
    lines = [f"{name}: {value:.6g}" if isinstance(value, float) else f"{name}: {value}" for name, value in figures.items()]
    return row.get("reason", "\n".join(lines))


def localTime(text: str) -> str:
    """2026-11-21T19:20:00.000+00:00 -> 20:20:00, of this computer's time zone; with the day if that is another one."""
    time, now = datetime.fromisoformat(text).astimezone(), datetime.now().astimezone()
    return f"{time:%H:%M:%S}" if time.date() == now.date() else f"{time:%Y-%m-%d %H:%M}"


def quantities(history: list[dict]) -> list[str]:
    """What can be drawn: the score and the loss of the global model on the held-out cases of this site, then the rest."""
    names = {name for row in history for name, value in row.items() if isinstance(value, (int, float)) and name not in NO_CURVE}
    names -= set() if any(row.get("epsilon") for row in history) else {"epsilon"}
    first = ("score_before", "loss_before", "loss")
    return [name for name in first if name in names] + sorted(names - set(first))


def quantityTitle(name: str) -> str:
    known = {
        "score_before": _("Score of the global model here"),
        "loss_before": _("Loss of the global model here"),
        "loss": _("Loss of the training here"),
        "epsilon": _("Privacy budget that is spent (epsilon)"),
    }
    plain = name.removesuffix(BEFORE).replace("_", " ")
    return known.get(name) or plain[:1].upper() + plain[1:]
