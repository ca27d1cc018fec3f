"""A federation within this process: Flower's Grid whose sites are functions. No sockets, nothing random."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from imagingai.errors import Cancelled, ImagingAIError


@dataclass(frozen=True)
class Late:
    """What a site returns to be late: the reply arrives `seconds` after the instruction."""

    reply: Message
    seconds: float


Site = Callable[[Message], Message | Late | None]  # None: the site never answers


def outside_of_flower(run_id: int = 1, node_id: int = 1) -> None:
    """Let `Message(...)` be made in a process that Flower has not started; Flower would otherwise raise."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run_id, node_id


class LocalGrid(Grid):
    """sites: node id -> what it does with an instruction. Each works when the instruction is pushed, in the order of the messages.

    A site that raises an ImagingAIError answers with an error, as a real one does; Cancelled and bugs come through.
    """

    def __init__(self, sites: Mapping[int, Site]) -> None:
        outside_of_flower()
        self.sites, self.numbers = dict(sites), count(1)
        self.replies: dict[str, tuple[float, Message]] = {}  # id of the instruction -> when it arrives, reply
        self.started = time.time()

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str = "", ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        return list(self.sites)

    def activated(self) -> dict[int, float]:
        """When each site has connected, in seconds since 1970."""
        return dict.fromkeys(self.sites, self.started)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Let the sites work; each gets a copy, as over a network."""
        return [self._deliver(copy.deepcopy(message)) for message in messages]

    def _deliver(self, message: Message) -> str:
        name, sent = f"message {next(self.numbers)}", time.monotonic()
        message.metadata.__dict__["_message_id"] = name
        try:
            reply = self.sites[message.metadata.dst_node_id](message)
        except Cancelled:
            raise
        except ImagingAIError as error:
            reply = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(error)), reply_to=message)
        if isinstance(reply, Late):
            self.replies[name] = sent + reply.seconds, reply.reply
        elif reply is not None:
            self.replies[name] = sent, reply
        return name

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that have arrived; each is given once."""
        there = [name for name in message_ids if name in self.replies and self.replies[name][0] <= time.monotonic()]
        return [self.replies.pop(name)[1] for name in there]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        names, started = self.push_messages(messages), time.monotonic()
        replies = self.pull_messages(names)
        while any(name in self.replies for name in names) and (timeout is None or time.monotonic() < started + timeout):
            time.sleep(0.01)
            replies += self.pull_messages(names)
        return replies
