"""Questions to the sites and their answers: who is asked, how long is waited, who is late, who has come back, whose answer is no good."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message
from torch import Tensor

from imagingai.errors import InputError
from imagingai.federated.config import ProjectConfig
from imagingai.federated.messages import LOST, TYPES, check_figures, question, read_answer
from imagingai.federated.store import Store

Weights = dict[str, Tensor]


@dataclass
class Answer:
    """What a site sent: its reply for the strategy, and the same as plain values. seconds: from the question to the answer."""

    reply: Message
    weights: Weights
    metrics: dict[str, Any]
    seconds: float


@dataclass
class Questions:
    """Asks sites. grid: Flower's, on sockets or local; names: node -> site, asked anew whenever we wait; shapes: of what is shared.

    tick(): called some times a second; raises Cancelled to stop. busy: late sites, with the question that they still work on.
    """

    config: ProjectConfig
    grid: Any
    store: Store
    shapes: Mapping[str, tuple[int, ...]]
    names: Callable[[], dict[int, str]]
    tick: Callable[[], None]
    poll: float
    busy: dict[int, tuple[str, float]] = field(default_factory=dict)

    def ask(
        self, kind: str, number: int, weights: Weights, sites: Mapping[int, str], more: Callable[[str], dict[str, Any]]
    ) -> dict[str, Answer]:
        """Ask these sites, and wait as the project says; returns the answers that can be used, by site. more(site): settings for it."""
        self.state("running", f"{kind} round {number}")
        send = lambda node: self._send(node, sites[node], kind, number, weights, more(sites[node]))  # noqa: E731
        pending = {node: send(node) for node in sites}
        answers: dict[str, Answer] = {}
        began, over = time.time(), math.inf
        while pending and time.time() < min(began + self.config.deadline, over):
            for node, reply in self._replies(pending):
                _, sent = pending.pop(node)
                answer = self._accept(kind, number, sites[node], reply, time.time() - sent)
                answers |= {sites[node]: answer} if answer else {}
            online = self.online(sites)
            for node, (_, sent) in list(pending.items()):
                if online.get(node, 0.0) > sent:  # it has come back without the question
                    self.store.event(f"{sites[node]} has come back in round {number} and is asked again.")
                    pending[node] = send(node)
            enough = len(answers) >= math.ceil(self.config.quorum * len(sites)) or not any(node in online for node in pending)
            over = min(over, time.time() + self.config.grace) if enough else math.inf
            self._sleep()
        self._left_out(kind, number, sites, pending)
        return dict(sorted(answers.items()))

    def wait_for_sites(self, kind: str, number: int) -> dict[int, str]:
        """The sites that are online and not busy with an earlier round; waits until there are enough."""
        while True:
            names = self.names()
            online = self.online(names)
            for node, (name, sent) in list(self.busy.items()):
                if online.get(node, 0.0) > sent or any(True for _ in self.grid.pull_messages([name])):
                    del self.busy[node]
            sites = {node: names[node] for node in online if node in names and node not in self.busy}
            if len(sites) >= self.config.min_sites:
                return dict(sorted(sites.items(), key=lambda item: item[1]))
            self.state("waiting", f"{len(sites)} of at least {self.config.min_sites} sites are there for {kind} round {number}")
            self._sleep(1.0)

    def _send(self, node: int, site: str, kind: str, number: int, weights: Weights, more: Mapping[str, Any]) -> tuple[str, float]:
        """One question; returns the number of the message, and when it was sent."""
        content = question(kind, number, weights, more, self.config.exchange)
        message = self.grid.create_message(content, TYPES[kind], node, group_id=str(number))
        sent = time.time()
        (name,) = self.grid.push_messages([message])
        self.store.seen(site, f"{kind} round {number}")
        return name, sent

    def _replies(self, pending: Mapping[int, tuple[str, float]]) -> list[tuple[int, Message]]:
        """(node, reply) of the questions that are answered; a reply that is lost for now is not one."""
        asked = {name: node for node, (name, _) in pending.items()}
        found = [(asked.get(reply.metadata.reply_to_message_id), reply) for reply in self.grid.pull_messages(list(asked))]
        return [(node, reply) for node, reply in found if node is not None and not (reply.has_error() and reply.error.code in LOST)]

    def _accept(self, kind: str, number: int, site: str, reply: Message, seconds: float) -> Answer | None:
        """The answer, or None for one that cannot be used; the log says why."""
        try:
            answer = Answer(reply, *read_answer(reply, self.shapes if kind == "train" else {}), seconds)
            check_figures(kind, answer.metrics, self.config)
        except InputError as error:
            state = "failed" if reply.has_error() else "rejected"
            self.store.event(f"{site}, {kind} round {number}: {state}: {error}", "warning")
            if kind == "train":
                self.store.add_update(number, site, state, str(error))
            return None
        reply.content.pop("arrays", None)  # they are in answer.weights, and eight times 20 MB are too many to keep twice
        self.store.seen(site, f"{kind} round {number} done")
        return answer

    def _left_out(self, kind: str, number: int, sites: Mapping[int, str], pending: Mapping[int, tuple[str, float]]) -> None:
        online = self.grid.activated()
        for node, sent in pending.items():
            reason = "it was late" if node in online else "it is offline"
            self.store.event(f"{sites[node]} is left out of {kind} round {number}: {reason}.", "warning")
            if kind == "train":
                self.store.add_update(number, sites[node], "late", reason)
            if node in online:
                self.busy[node] = sent

    def _sleep(self, seconds: float = 0.0) -> None:
        self.tick()
        time.sleep(seconds or self.poll)

    def online(self, names: Mapping[int, str]) -> dict[int, float]:
        """node -> when it has connected, of the sites that are there; kept for those who watch."""
        online = self.grid.activated()
        if (there := sorted(names[node] for node in online if node in names)) != self.store.get("online"):
            self.store.set("online", there)
        return online

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """What Flower's SecAgg+ needs of a grid; a site that has left does not hold up the others."""
        messages = list(messages)
        names = self.grid.push_messages(messages)
        pending, replies = {name: message.metadata.dst_node_id for name, message in zip(names, messages, strict=True)}, []
        end = time.time() + (timeout or math.inf)
        while pending and time.time() < end:
            online = self.grid.activated()
            replies += (found := list(self.grid.pull_messages(list(pending))))
            answered = {reply.metadata.reply_to_message_id for reply in found}
            pending = {name: node for name, node in pending.items() if name not in answered and node in online}
            self._sleep()
        return replies

    def state(self, state: str, message: str) -> None:
        """Say what is going on."""
        if self.store.get("message") != message or self.store.get("state") != state:
            self.store.set("message", message)
            self.store.set("state", state)
