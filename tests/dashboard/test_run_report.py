"""Tests of a run's report: it is self-contained, and its errors never fail a run."""

import base64
import hashlib
import os
import re
from pathlib import Path

import pytest
from gate_candidates import build_candidate
from recorded_runs import record_candidate
from typer.testing import CliRunner

from carclf.cli.app import app
from carclf.config import load_config
from carclf.dashboard.run_report import report_key, run_report, run_stage_with_report
from carclf.runs.run import Run
from carclf.services.storage import Store, init_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(tmp_path / "store")


def evaluated_run(store: Store, **settings: object) -> Run:
    return record_candidate(store, "r", build_candidate(store, "one", range(5), config=load_config("demo", settings)))


def test_a_report_is_one_file_without_scripts_and_links(store: Store) -> None:
    evaluated_run(store)
    page = run_report(store, "r")
    assert re.findall(r"<script|<link|\sstyle=|src=\"(?!data:)|href=\"(?!#)|url\((?!#)", page) == []
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'" in page
    assert page.count("<svg ") == 3 and "Recall of each class as a table" in page


def test_a_late_stage_stores_the_report_even_if_it_waits_for_approval(store: Store) -> None:
    run = evaluated_run(store, **{"gate.approval": "required", "gate.threshold": 0.1})
    assert run_stage_with_report(run, "promote").waiting
    report = store.read(report_key("r"))
    assert report is not None
    page = report.data.decode()
    assert '<span class="warn">awaiting approval</span>' in page and ">promoted<" not in page
    assert ">not applied<" in page  # the champion's rule: there is no champion
    assert "accuracy 0.9167 reaches the threshold 0.1000" in page


def test_a_damaged_section_is_not_shown_as_pending(store: Store) -> None:
    run_stage_with_report(evaluated_run(store, **{"gate.threshold": 0.1}), "promote")
    for folder in ("evaluations", "decisions"):
        for name in ("error_images.json", "decision.json", "evaluation.json"):
            for path in Path(store.url, folder).rglob(name):
                path.write_text("{")
    page = run_report(store, "r")
    assert page.count("This section cannot be read.") == 3  # evaluation, errors and gate
    assert "Not evaluated yet" not in page and "No decision yet" not in page
    assert "No training yet." in page


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a folder blocks the file even for root")
def test_a_report_that_cannot_be_written_is_logged_as_a_warning(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    run = evaluated_run(store, **{"gate.threshold": 0.1})
    Path(store.url, report_key("r"), "in the way").mkdir(parents=True)
    result = run_stage_with_report(run, "promote")
    assert result.metrics["decision"] == "promoted"
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings[-1].startswith("report: not written run=r ")


def test_runs_show_writes_the_report_to_a_file(store: Store, tmp_path: Path) -> None:
    evaluated_run(store)
    done = CliRunner().invoke(app, ["runs", "show", "r", "--store", store.url, "--html", str(tmp_path / "r.html")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "r.html").read_text() == run_report(store, "r")
