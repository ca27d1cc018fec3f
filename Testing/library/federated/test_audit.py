"""The audit log: a chain that shows every change, and that a kill does not break."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from imagingai.errors import InputError
from imagingai.federated.audit import Audit, read_audit, verify


@pytest.fixture
def log(tmp_path):
    """A log of five exchanges."""
    audit = Audit(tmp_path / "audit.jsonl")
    for number in range(5):
        audit.write("sent", round=number, sha256="ab" * 32)
    return audit.path


def test_a_log_tells_what_when_and_in_which_order(log):
    rows = read_audit(log)
    assert [row["number"] for row in rows] == [1, 2, 3, 4, 5]
    assert [(row["event"], row["round"]) for row in rows] == [("sent", number) for number in range(5)]
    assert rows[0]["time"] <= rows[4]["time"] and rows[0]["time"].endswith("+00:00")
    verdict = verify(log)
    assert (verdict.lines, verdict.broken, verdict.torn) == (5, None, ())
    assert str(verdict) == f"The chain of all 5 lines is unbroken. SHA-256 of the last line: {verdict.last}."


def test_the_hash_of_a_line_is_what_sha256sum_says(log):
    last = Audit(log).write("left")
    tail = subprocess.run(f"tail -n 1 {log} | tr -d '\\n' | sha256sum", shell=True, capture_output=True, text=True).stdout
    assert last == verify(log).last == tail.split()[0]


def change(lines):
    lines[2] = lines[2].replace(b'"round": 2', b'"round": 7')


def remove(lines):
    del lines[2]


def insert(lines):
    lines.insert(3, lines[2])


def swap(lines):
    lines[2], lines[3] = lines[3], lines[2]


def scribble(lines):
    lines[2] = b"nothing was sent\n"


@pytest.mark.parametrize("forge, line", [(change, 4), (remove, 3), (insert, 4), (swap, 3), (scribble, 4)])
def test_forgery_is_found(log, forge, line):
    lines = log.read_bytes().splitlines(keepends=True)
    forge(lines)
    log.write_bytes(b"".join(lines))
    assert verify(log).broken == line
    assert str(verify(log)) == f"Line {line} does not follow from the one before it: the log was changed there or above."


def test_a_line_that_a_kill_has_cut_off_is_not_taken_for_forgery(log):
    os.truncate(log, log.stat().st_size - 30)
    assert (verify(log).broken, verify(log).torn) == (None, (5,))
    audit = Audit(log)
    audit.write("rejoined")
    audit.write("sent", round=5)
    assert (verify(log).broken, verify(log).torn) == (None, (5,))
    assert "Cut off while written (a kill, a full disk): line 5." in str(verify(log))
    assert [row["number"] for row in read_audit(log)] == [1, 2, 3, 4, 6, 7]


def test_kill_9_of_a_process_that_writes(tmp_path):
    log = tmp_path / "audit.jsonl"
    code = f"from imagingai.federated.audit import Audit\naudit = Audit({str(log)!r})\nwhile True: audit.write('sent', text='x' * 5000)"
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code])
        size, end = log.stat().st_size if log.exists() else 0, time.monotonic() + 20
        while (not log.exists() or log.stat().st_size < size + 50_000) and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    Audit(log).write("left")
    assert verify(log).broken is None and len(read_audit(log)) > 20


def test_an_error_in_the_middle_of_a_line_does_not_break_the_chain(log, monkeypatch):
    audit = Audit(log)
    audit.write("sent", round=5)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            audit.write("sent", round=6)
    audit.write("stopped")
    assert verify(log).broken is None
    assert json.loads(log.read_bytes().splitlines()[-1])["number"] == 8  # the line of the error is there, too


def test_a_fact_cannot_take_the_name_of_a_field(log):
    with pytest.raises(ValueError, match="facts cannot be named number"):
        Audit(log).write("sent", number=3)


def test_what_is_no_audit_log(tmp_path):
    (tmp_path / "letter.txt").write_text("Dear colleague,\n")
    with pytest.raises(InputError, match=r"letter.txt is not an audit log\."):
        verify(tmp_path / "letter.txt")
    with pytest.raises(InputError, match=r"The audit log .*nowhere cannot be read: No such file or directory\."):
        verify(tmp_path / "nowhere")
