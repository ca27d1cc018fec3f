"""Take the pictures of a report out of it, for the documentation.

make demo && python docs/make_pictures.py demo-output/report.html docs/modules/pictures
"""

from __future__ import annotations

import base64
import sys
from html.parser import HTMLParser
from pathlib import Path


class Pictures(HTMLParser):
    """{name: PNG} of the pictures that have a name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: dict[str, bytes] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "img" and given.get("id") and given.get("src"):
            self.found[given["id"]] = base64.b64decode(given["src"].partition(",")[2])


if __name__ == "__main__":
    report, folder = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    for name, png in Pictures(report.read_text(encoding="utf-8")).found.items():
        (folder / f"{name}.png").write_bytes(png)
