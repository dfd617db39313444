import logging

import pytest

from carclf.progress import STAGE_START_COLOR, LogLines, Meter, progress_listener


def test_a_listener_is_told_what_a_line_of_the_log_says_and_nothing_once_it_has_left(caplog, monkeypatch):
    monkeypatch.setattr("carclf.progress.SECONDS_BETWEEN_LINES", 0.0)
    heard = []
    with caplog.at_level(logging.INFO, logger="carclf"), Meter("fine_tune") as meter:
        with progress_listener(lambda *told: heard.append(told)):
            meter(3, 12, "loss 0.5", {"loss": 0.5})
        meter(4, 12, "loss 0.4", {"loss": 0.4})
    [(what, done, total, metrics)] = heard
    assert (what, done, total, metrics["loss"]) == ("fine_tune", 3, 12, 0.5)
    assert metrics["per_second"] > 0
    assert [record.getMessage().split(",")[0] for record in caplog.records] == ["fine_tune 3/12", "fine_tune 4/12"]


def test_between_two_lines_a_listener_hears_nothing():
    heard = []
    with progress_listener(lambda *told: heard.append(told)), Meter("fine_tune") as meter:
        meter(1, 12, metrics={"loss": 0.5})
    assert heard == []


@pytest.mark.parametrize(("environment", "begin", "warning"), [
    ({}, "fine_tune: run r", "warning: score: away"),
    ({"FORCE_COLOR": "1"}, "\x1b[1m{time} fine_tune: run r\x1b[0m", "\x1b[33m{time} warning: score: away\x1b[0m"),
    ({"FORCE_COLOR": "1", "NO_COLOR": ""}, "fine_tune: run r", "warning: score: away"),
])
def test_a_warning_is_called_one_and_colours_are_there_where_they_are_wanted(monkeypatch, environment, begin, warning):
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    lines = LogLines()

    def line(level: int, text: str, **more: str) -> str:
        record = logging.LogRecord("carclf", level, "", 0, text, None, None)
        vars(record).update(more)
        return lines.format(record).replace(lines.formatTime(record), "{time}").removeprefix("{time} ")

    assert line(logging.INFO, "fine_tune: run r", color=STAGE_START_COLOR) == begin
    assert line(logging.WARNING, "score: away") == warning
    assert line(logging.INFO, "epoch 1") == "epoch 1"
