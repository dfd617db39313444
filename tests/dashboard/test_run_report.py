"""A run's report as one file: it needs nothing else, and never fails a run."""

import base64
import hashlib
import os
import re
from pathlib import Path

import pytest
from gate_candidates import build_candidate
from typer.testing import CliRunner

from carclf.cli.app import app
from carclf.config import load_config
from carclf.dashboard.run_report import report_key, run_report, run_stage_with_report
from carclf.dashboard.templates import style_sheet
from carclf.runs.run import Result, Run
from carclf.services.storage import Store, open_store


@pytest.fixture()
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def evaluated(store: Store, **settings: object) -> Run:
    one = build_candidate(store, "one", range(5), config=load_config("demo", settings))
    run = Run.start_or_resume("r", store, "demo", one.config)
    for stage, artifact in (("download", one.archive), ("split", one.split), ("fine_tune", one.model),
                            ("evaluate", one.evaluation)):
        run.record_result(Result(stage, artifact.key, False, 1.0, artifact.metrics, ""))
    return run


def test_a_report_is_one_file_without_script_and_network(store):
    evaluated(store)
    page = run_report(store, "r")
    assert re.findall(r"<script|<link|\sstyle=|src=\"(?!data:)|href=\"(?!#)|url\((?!#)", page) == []
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'" in page
    assert page.count("<svg ") == 2 and "Recall of each class as a table" in page


def test_a_late_stage_leaves_the_report_in_the_store_also_where_it_waits_for_a_person(store):
    run = evaluated(store, **{"gate.approval": "required", "gate.threshold": 0.1})
    assert run_stage_with_report(run, "promote").waiting
    page = store.read(report_key("r")).data.decode()
    assert "awaiting approval" in page and "accuracy 0.9167 reaches the threshold 0.1000" in page


def channels(color):
    short = color.removeprefix("#")
    digits = short if len(short) == 6 else "".join(2 * digit for digit in short)
    return [int(digits[place : place + 2], 16) for place in (0, 2, 4)]


def luminance(rgb):
    """As WCAG 2 defines it."""
    shares = [value / 255 for value in rgb]
    linear = [one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4 for one in shares]
    return sum(share * value for share, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_confusions_figures_are_readable_on_every_shade(theme):
    style = style_sheet()
    rule = re.search(rf'\[data-theme="{theme}"\] {{(.*?)}}', style, re.DOTALL)[1]
    known = {name: channels(color) for name, color in re.findall(r"--(\w+): (#\w+)", rule)}
    shades = re.findall(r"\.shade\d {[^}]*var\(--(\w+)\) (\d+)%, var\(--card\)", style)
    assert len(shades) == 18
    for name, percent in shades:
        ground = [(int(percent) * one + (100 - int(percent)) * other) / 100
                  for one, other in zip(known[name], known["card"], strict=True)]
        dark, light = sorted([luminance(ground), luminance(known["text"])])
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, percent)


def test_a_part_that_is_lost_is_not_told_as_one_that_has_not_run(store):
    run = evaluated(store, **{"gate.threshold": 0.1})
    run_stage_with_report(run, "promote")
    for place in ("evaluations", "decisions"):
        for name in ("error_images.json", "decision.json", "evaluation.json"):
            for path in Path(store.url, place).rglob(name):
                path.write_text("{")
    page = run_report(store, "r")
    assert page.count("Cannot be read: see the top of the page.") == 3  # evaluation, errors, gate
    assert "Not evaluated yet" not in page and "Not judged yet" not in page and "None yet" not in page
    assert "Nothing has been trained yet." in page


@pytest.mark.skipif(os.geteuid() != 0, reason="a folder in the way stands for a store that refuses")
def test_a_report_that_cannot_be_written_is_a_warning(store, caplog):
    run = evaluated(store, **{"gate.threshold": 0.1})
    Path(store.url, report_key("r"), "in the way").mkdir(parents=True)
    result = run_stage_with_report(run, "promote")
    assert result.metrics["decision"] == "promoted"
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"][-1].startswith(
        "The report of r was not written: ")


def test_the_command_writes_the_report_where_it_is_told(store, tmp_path):
    evaluated(store)
    done = CliRunner().invoke(app, ["runs", "show", "r", "--store", store.url, "--html", str(tmp_path / "r.html")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "r.html").read_text() == run_report(store, "r")
