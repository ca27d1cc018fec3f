"""A site that speaks Flower's messages, in the clear or under the masks of secure aggregation; on the line and in a simulation alike."""

from __future__ import annotations

from typing import Any

from flwr.app import Message

from imagingai.federated.messages import answer, instruction, read_question
from imagingai.federated.site import Site


class Member:
    """Turns a message into its reply. figures: of the last work, which stay at the site under secure aggregation."""

    def __init__(self, site: Site) -> None:
        self.site, self.figures, self.masked = site, {}, None
        if site.config.secure_aggregation:
            from imagingai.federated.secure import SecureSite

            self.masked = SecureSite(self)

    @property
    def config(self) -> Any:
        return self.site.config

    @property
    def shapes(self) -> Any:
        return self.site.shapes

    def handle(self, kind: str, weights: dict, values: dict) -> tuple[dict, dict]:
        """As the site does it, with a memory of the figures."""
        weights, self.figures = self.site.handle(kind, weights, values)
        return weights, self.figures

    def answer(self, message: Message) -> Message:
        """The reply. Raises InputError for what the invitation does not allow."""
        if self.masked and instruction(message)[0] not in ("survey", "finish"):
            return self.masked.answer(message)
        kind, weights, values = read_question(message, self.shapes)
        update, metrics = self.handle(kind, weights, values)
        if self.masked and kind == "finish":
            metrics = {"num-examples": metrics["num-examples"]}
        return answer(message, update, metrics, self.config.exchange)
