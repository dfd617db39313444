import logging

from carclf.progress import Meter, heard_by


def test_a_listener_is_told_what_a_line_of_the_log_says_and_nothing_once_it_has_left(caplog, monkeypatch):
    monkeypatch.setattr("carclf.progress.SECONDS_BETWEEN_LINES", 0.0)
    heard = []
    with caplog.at_level(logging.INFO, logger="carclf"), Meter("fine_tune") as meter:
        with heard_by(lambda *told: heard.append(told)):
            meter(3, 12, "loss 0.5", {"loss": 0.5})
        meter(4, 12, "loss 0.4", {"loss": 0.4})
    [(what, done, total, figures)] = heard
    assert (what, done, total, figures["loss"]) == ("fine_tune", 3, 12, 0.5)
    assert figures["per_second"] > 0
    assert [record.getMessage().split(",")[0] for record in caplog.records] == ["fine_tune 3/12", "fine_tune 4/12"]


def test_between_two_lines_a_listener_hears_nothing():
    heard = []
    with heard_by(lambda *told: heard.append(told)), Meter("fine_tune") as meter:
        meter(1, 12, figures={"loss": 0.5})
    assert heard == []
