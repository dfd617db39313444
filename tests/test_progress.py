import logging

import pytest

from carclf.progress import STAGE_START_COLOR, LogFormatter, Meter, progress_listener


def test_a_listener_gets_each_logged_progress_report_until_it_is_removed(caplog, monkeypatch):
    monkeypatch.setattr("carclf.progress.SECONDS_BETWEEN_LINES", 0.0)
    reports = []
    with caplog.at_level(logging.INFO, logger="carclf"), Meter("fine_tune") as meter:
        with progress_listener(lambda *report: reports.append(report)):
            meter(3, 12, "loss 0.5", {"loss": 0.5})
        meter(4, 12, "loss 0.4", {"loss": 0.4})
    [(activity, done, total, metrics)] = reports
    assert (activity, done, total, metrics["loss"]) == ("fine_tune", 3, 12, 0.5)
    assert metrics["per_second"] > 0
    assert [record.getMessage().split(",")[0] for record in caplog.records] == ["fine_tune: 3/12", "fine_tune: 4/12"]


def test_a_listener_is_not_called_between_two_log_lines():
    reports = []
    with progress_listener(lambda *report: reports.append(report)), Meter("fine_tune") as meter:
        meter(1, 12, metrics={"loss": 0.5})
    assert reports == []


@pytest.mark.parametrize(("environment", "start", "warning"), [
    ({}, "fine_tune: run r", "warning: score: away"),
    ({"FORCE_COLOR": "1"}, "\x1b[1m{time} fine_tune: run r\x1b[0m", "\x1b[33m{time} warning: score: away\x1b[0m"),
    ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, "fine_tune: run r", "warning: score: away"),
])
def test_warnings_are_prefixed_and_colors_follow_the_environment(monkeypatch, environment, start, warning):
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    formatter = LogFormatter()

    def line(level: int, text: str, **extra: str) -> str:
        record = logging.LogRecord("carclf", level, "", 0, text, None, None)
        vars(record).update(extra)
        return formatter.format(record).replace(formatter.formatTime(record), "{time}").removeprefix("{time} ")

    assert line(logging.INFO, "fine_tune: run r", color=STAGE_START_COLOR) == start
    assert line(logging.WARNING, "score: away") == warning
    assert line(logging.INFO, "epoch 1") == "epoch 1"


def test_a_message_with_line_ends_and_control_characters_stays_on_one_line(caplog):
    logging.getLogger("carclf").warning("file %s", "a\n\x1b[2Jb\udcff")
    assert caplog.messages == [r"file a\n\x1b[2Jb\udcff"]
