"""What the coordinator sees of a federation: in the terminal, and live in a browser."""

from __future__ import annotations

import html
import http.client
import json
import re
import shutil
import socket
import subprocess
import time
from html.parser import HTMLParser

import pytest

from imagingai.errors import InputError, JobFailed
from imagingai.federated import status_page
from imagingai.federated.status import duration, finite, format_snapshot, seconds_left, site_state, size, snapshot, table
from imagingai.federated.status_page import serve_status
from imagingai.federated.store import RoundRow, SiteRow, Store

START = 1_800_000_000.0
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def clock(monkeypatch):
    """A list with the time, which the test moves on."""
    now = [START]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


@pytest.fixture
def store(tmp_path, clock):
    """Three sites; round 1 is complete, in round 2 b is late, round 3 runs: a has answered after 10 s, c still trains after 40 s."""
    store = Store(tmp_path / "federation.db")
    store.set("name", "Hearts <b>of</b> four")
    store.set("rounds", 5)
    store.set("state", "running")
    for name in "abc":
        store.add_site(name, f"key {name}", f"SHA256:{name}", expires=START + 1e6)
        store.seen(name, "waiting")
    store.add_site("never", "key n", "SHA256:n", expires=START + 1e6)
    for number in (1, 2):
        store.begin_round(number, ["a", "b", "c"], bytes=2_000_000)
        clock[0] += 20
        for site, examples in (("a", 30), ("b", 10), ("c", 60)):
            metrics = {"num-examples": examples, "score_before": 0.1 * number + examples / 1000, "loss_before": 1.0 / number}
            if (number, site) == (2, "b"):
                store.add_update(number, site, "late", "it was late")
            else:
                store.add_update(number, site, "counted", "", 1_000_000, 12.0, metrics, examples / 100)
        store.end_round(number, {"score_before": 0.1 * number + 0.05, "loss_before": 1.0 / number}, f"round_{number}.safetensors", "ab")
    store.begin_round(3, ["a", "c"], bytes=2_000_000)
    store.seen("c", "train round 3")
    clock[0] += 10
    store.seen("a", "train round 3 done")
    store.event("b is left out of round 2", "warning")
    clock[0] += 30
    yield store
    store.close()


# --- the numbers


def test_a_snapshot_has_the_numbers_of_each_site_and_round(store):
    found = snapshot(store)
    sites = {site["name"]: site for site in found["sites"]}
    assert (found["round"], found["done"], found["rounds"], found["started"]) == (3, 2, 5, START)
    assert found["score"] == [[0, pytest.approx(0.15)], [1, pytest.approx(0.25)]], "in round 1 the model of round 0 is measured"
    assert sites["a"]["score"] == [[0, pytest.approx(0.13)], [1, pytest.approx(0.23)]] and sites["b"]["loss"] == [[0, 1.0]]
    assert [sites["a"][key] for key in ("examples", "seconds", "weight", "round")] == [30, 12.0, 0.3, 2]
    assert [site["bytes_down"] for site in found["sites"]] == [6_000_000, 4_000_000, 6_000_000, 0]
    assert [site["bytes_up"] for site in found["sites"]] == [2_000_000, 1_000_000, 2_000_000, 0]
    assert (found["bytes_down"], found["bytes_up"]) == (16_000_000, 5_000_000)
    assert found["history"][1]["sites"]["b"] == {"state": "late", "reason": "it was late", "weight": None}
    assert [row["seconds"] for row in found["history"]] == [20.0, 20.0, None]
    assert [row["text"] for row in found["events"]] == ["b is left out of round 2"]


def test_the_last_model_is_measured_after_the_last_round(store):
    store.set("final", {"mean": {"score_before": 0.9}, "sites": {"a": {"score_before": 0.8}}})
    found = snapshot(store)
    assert found["score"][-1] == [5, 0.9] and found["sites"][0]["score"][-1] == [5, 0.8] and len(found["sites"][1]["score"]) == 1


def test_figures_of_a_site_that_are_no_numbers_are_left_out(store):
    store.add_update(3, "a", "counted", metrics={"score_before": float("nan"), "loss_before": [1], "num-examples": "many"})
    site = snapshot(store)["sites"][0]
    assert len(site["score"]) == len(site["loss"]) == 2 and site["examples"] is None
    json.dumps(snapshot(store), allow_nan=False)
    assert finite({"a": [float("inf"), 1]}) == {"a": [None, 1]}


def test_the_time_left_is_that_of_the_last_rounds():
    rounds = [RoundRow(number, [], 0, 100.0 * number, 100.0 * number + 50, {}, "", "") for number in (1, 2)]
    current = RoundRow(3, [], 0, 300.0, None, {}, "", "")
    assert seconds_left(rounds, 4, now=260.0) == 100.0
    assert seconds_left([*rounds, current], 4, now=320.0) == 80.0
    assert seconds_left([*rounds, current], 4, now=9000.0) == 0.0
    assert seconds_left([current], 4, now=320.0) is None and seconds_left(rounds, 2, now=260.0) is None


def site(
    name: str = "a", activity: str = "train round 3", state: str = "invited", seen: float | None = 100.0, expires: float = 1e9
) -> SiteRow:
    return SiteRow(name, "key", "f", 1, state, 0.0, expires, seen, activity)


@pytest.mark.parametrize(
    ("word", "row", "more"),
    [
        ("training", site(), {"now": 119.0}),
        ("late", site(), {"now": 122.0}),  # the others needed 10 s
        ("late", site(activity="train round 2"), {"now": 101.0}),  # still at an earlier round
        ("late", site(), {"update": "late"}),
        ("rejected", site(activity="train round 3 done"), {"update": "rejected"}),
        ("waiting", site(activity="train round 3 done"), {}),
        ("measuring", site(activity="evaluate round 5"), {}),
        ("offline", site(), {"online": ["b"]}),
        ("training", site(), {"online": ["a"]}),
        ("offline", site(), {"state": "stopped", "online": []}),
        ("waiting", site(), {"state": "stopped"}),
        ("done", site(activity="finish round 3 done"), {"state": "finished", "online": []}),
        ("invited", site(seen=None, activity=""), {}),
        ("waiting", site(seen=None, activity=""), {"online": ["a"]}),  # connected, and not asked yet
        ("expired", site(seen=None, expires=50.0), {}),
        ("revoked", site(state="revoked"), {}),
    ],
)
def test_the_word_for_what_a_site_does(word, row, more):
    others = [site(name, "train round 3 done", seen=110.0) for name in "bc"]
    last = RoundRow(3, ["a", "b", "c"], 0, 100.0, None, {}, "", "")
    values = {"update": "", "state": "running", "online": None, "now": 115.0} | more
    assert site_state(row, [row, *others], last, values["update"], values["state"], values["online"], values["now"]) == word


def test_bytes_and_times_have_units():
    assert [size(n) for n in (0, 999, 1000, 20_449_000, 99_960_000, 123e6, 4.5e9, 1e16)] == [
        "0 B", "999 B", "1.0 kB", "20.4 MB", "100 MB", "123 MB", "4.5 GB", "10000 TB"]  # fmt: skip
    assert [duration(s) for s in (5, 100, 3 * 3600, 5 * 86400)] == ["5 s", "2 min", "3 h", "5 days"]


# --- the terminal


def test_the_table_fits_a_terminal(store, tmp_path):
    lines = table(tmp_path).splitlines()
    assert lines[0] == "Hearts <b>of</b> four: running, round 3 of 5, about 20 s left"
    assert lines[1] == "[############..................] down 16.0 MB, up 5.0 MB, score 0.25 (best 0.25, round 1)"
    assert re.fullmatch(r"site +state +seen +examples +s/round +down +up +weight +score", lines[3])
    assert re.fullmatch(r"a +waiting +30 s ago +30 +12\.0 +6\.0 MB +2\.0 MB +0\.300 +0\.23", lines[4])
    assert re.fullmatch(r"c +late +40 s ago +60 +12\.0 .*", lines[6]) and re.fullmatch(r"never +invited +never +- +-.*", lines[7])
    assert max(map(len, lines)) <= 100 and lines[3].index("seen") == lines[4].index("30 s ago")
    assert "warning: b is left out of round 2" in lines[-1]


def test_what_a_site_writes_cannot_steer_the_terminal(store):
    store.add_update(3, "a", "rejected", "\x1b[2J\x1b]0;owned\x07 bad\nnews " + 200 * "x")
    text = format_snapshot(snapshot(store))
    assert "\x1b" not in text and "\x07" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("round 3: a rejected:")]
    assert len(line) <= 100 and "bad news" in line


def test_without_a_federation_the_way_out_is_told(tmp_path):
    with pytest.raises(InputError, match=r"There is no federation in .* yet\. Start it with: imagingai federated serve project\.toml\."):
        table(tmp_path)
    assert not list(tmp_path.iterdir()), "asking makes no file"


# --- the server


def ask(page, path="/", method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, answer.headers, body


@pytest.fixture
def page(store):
    with serve_status(store.path, port=0) as page:
        yield page


def test_the_server_answers_two_questions_and_no_other(page):
    code, headers, body = ask(page)
    assert code == 200 and "<title>" in body and headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
    code, headers, body = ask(page, "/status.json")
    assert code == 200 and headers["Content-Type"] == "application/json" and json.loads(body)["name"] == "Hearts <b>of</b> four"
    assert [ask(page, path)[0] for path in ("/federation.db", "/../federation.db", "/status.json?x")] == [404] * 3
    assert [ask(page, "/", method)[0] for method in ("POST", "PUT", "DELETE", "OPTIONS", "HEAD")] == [501] * 5


def test_a_page_of_another_name_does_not_get_the_state(page):
    assert [ask(page, "/status.json", Host=host)[0] for host in ("evil.example", "evil.example:80", "")] == [403] * 3
    assert [ask(page, "/status.json", Host=host)[0] for host in ("localhost:8081", "127.0.0.1", "[::1]:8081")] == [200] * 3


def test_a_port_that_is_taken_is_replaced_and_a_closed_page_lets_go(store):
    with socket.create_server(("127.0.0.1", 0)) as other, serve_status(store.path, port=other.getsockname()[1]) as page:
        assert page.port != other.getsockname()[1] and ask(page)[0] == 200
        assert page.url == f"http://127.0.0.1:{page.port}/"
    with pytest.raises(ConnectionRefusedError):
        ask(page)
    with serve_status(store.path, port=page.port) as again:
        assert again.port == page.port


def test_an_address_of_another_computer_is_refused(store):
    with pytest.raises(InputError, match=r"The status page cannot be opened at 192\.0\.2\.1: .* Use an address of this computer\."):
        serve_status(store.path, host="192.0.2.1")


def test_a_state_that_cannot_be_read_is_told(page, monkeypatch):
    def fail(store):
        raise JobFailed("The disk is full.")

    monkeypatch.setattr(status_page, "snapshot", fail)
    code, _, body = ask(page, "/status.json")
    assert code == 503 and json.loads(body) == {"error": "The disk is full."}


# --- the page in a browser


class Element:
    """A part of the page: tag, attributes, text, parts."""

    def __init__(self, tag: str, attributes: dict[str, str | None]) -> None:
        self.tag, self.attributes, self.parts, self.text = tag, attributes, [], ""

    def find(self, tag: str = "", **attributes: str) -> list[Element]:
        here = [self] if tag in ("", self.tag) and all(self.attributes.get(key) == value for key, value in attributes.items()) else []
        return here + [found for part in self.parts for found in part.find(tag, **attributes)]


class Dom(HTMLParser):
    """The tree of what chromium dumps."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open = [Element("document", {})]
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        part = Element(tag, dict(attributes))
        self.open[-1].parts.append(part)
        if tag not in ("meta", "link"):
            self.open.append(part)

    def handle_endtag(self, tag):
        self.open.pop()

    def handle_data(self, data):
        for part in self.open:
            part.text += data


def browse(page) -> tuple[Element, str]:
    """The page after some seconds in a headless browser, and what its console says."""
    if BROWSER is None:
        pytest.skip("there is no chromium or Chrome on this computer")
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--virtual-time-budget=5000",
        "--dump-dom",
    ]
    done = subprocess.run([*command, page.url], capture_output=True, text=True, timeout=60, check=True)
    return Dom(done.stdout).open[0], "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def test_the_page_shows_sites_curves_rounds_and_who_is_late(store, page):
    store.add_update(3, "a", "rejected", "<img src=x onerror=alert(1)>")
    document, console = browse(page)
    assert console == "", "no error, and nothing that the policy forbids"
    (name,), (state,), (bar,) = (document.find(id=key) for key in ("name", "state", "bar"))
    assert name.text == "Hearts <b>of</b> four" and state.text == "running"
    assert (bar.attributes["value"], bar.attributes["max"]) == ("2", "5")
    rows = {row.find("th")[0].text: [cell.text for cell in row.find("td")] for row in document.find(id="sites")[0].find("tr")}
    assert rows["c"] == ["late", "40 s ago", "60", "0.260", "0.600", "12 s", "round 2", "6.0 MB", "2.0 MB"]
    assert {name: row[0] for name, row in rows.items()} == {"a": "rejected", "b": "waiting", "c": "late", "never": "invited"}
    for kind in ("score", "loss"):
        (chart,) = document.find(id=f"chart-{kind}")
        lines = {group.attributes["data-site"]: group.find("path")[0].attributes["d"] for group in chart.find("g")}
        assert [lines[site].count("L") for site in "abc"] == [1, 0, 1] and len(chart.find("circle")) == 5
        assert chart.find("path", **{"class": "mean"})[0].attributes["d"].count("L") == 1
        assert {"0", "5"} <= {text.text for text in chart.find("text")}
    cells = {row.find("th")[0].text: [cell.text for cell in row.find("td")] for row in document.find(id="cells")[0].find("tr")}
    assert cells == {"a": ["●", "●", "✕", ""], "b": ["●", "◐", "·", ""], "c": ["●", "●", "○", ""], "never": ["·", "·", "·", ""]}
    assert [item.text for item in document.find(id="reasons")[0].find("li")] == [
        "Round 3, a, rejected: <img src=x onerror=alert(1)>", "Round 2, b, late: it was late"]  # fmt: skip
    assert "b is left out of round 2" in document.find(id="events")[0].text


def test_names_from_outside_do_not_become_markup(store, page, monkeypatch):
    found = snapshot(store)
    found["sites"][0]["name"] = "<script>alert(1)</script>"
    found["events"].append({"time": START, "level": "<i>", "text": "<img src=x onerror=alert(1)>"})
    found["message"] = "<iframe src=//evil.example>"
    monkeypatch.setattr(status_page, "snapshot", lambda store: found)
    document, console = browse(page)
    assert console == "" and len(document.find("script")) == 1
    assert not document.find("img") and not document.find("iframe") and not document.find("i")
    assert document.find(id="sites")[0].find("th")[0].text == "<script>alert(1)</script>"
    assert document.find(id="message")[0].text == "<iframe src=//evil.example>"


@pytest.mark.parametrize("reason", ["", "The disk is full."], ids=["gone", "failing"])
def test_the_page_tells_when_the_aggregator_does_not_answer(store, page, monkeypatch, reason):
    first = [snapshot(store)]

    def once(store):
        if first:
            return first.pop()
        raise JobFailed(reason) if reason else ConnectionResetError

    monkeypatch.setattr(status_page, "snapshot", once)
    monkeypatch.setattr(page.server, "handle_error", lambda *_: None)
    document, _ = browse(page)
    (lost,), (content,) = document.find(id="lost"), document.find(id="content")
    assert "hidden" not in lost.attributes and content.attributes["class"] == "stale"
    text = html.unescape(lost.text)
    assert re.match(r"The aggregator does not answer since .*; what you see is from then", text) and text.endswith(reason or ".")
    assert document.find(id="sites")[0].find("tr"), "the last state stays"
