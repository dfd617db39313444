"""The pages' routes: permissions, security headers, and requests that try to leave the store."""

import base64
import hashlib
import html
import json
import re
import shutil
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from gate_candidates import build_candidate
from httpx import Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded_runs import record_attempt

from carclf.config import load_config
from carclf.dashboard import templates
from carclf.dashboard.charts import Chart, render_svg
from carclf.errors import ConfigError
from carclf.experiments.plan import make_plan, record_rejection, write_plan
from carclf.runs.index import rebuild_index
from carclf.runs.record import run_id_from_dag_run
from carclf.runs.run import Result, Run
from carclf.services.storage import Store

HTML = {"Accept": "text/html"}
SECRET = "a file next to the store"
HOSTILE = ["..", "../secret.txt", "..%2f..%2fsecret.txt", "....//secret.txt", "%00", "a%00.html", "/etc/passwd",
           "%2e%2e%2fsecret.txt", "..\\secret.txt", "s3://bucket/x", "champion.json", "a" * 5000, "😀", "%ff%fe", "r;x",
           "manifest.json", "<script>alert(1)</script>", "' OR 1=1", "file:///etc/passwd", "."]
# Pages with status 200 for a hostile name: a run that has not started, and "." and "..", which lead to other pages.
HARMLESS = ("has not started yet", "Not compared yet", '"version":"none"', "Car classifier</h1>")
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
          "base-uri 'none'; form-action 'none'; frame-ancestors 'self'")


def record_run(store: Store, name: str, wrong: range = range(0)) -> Run:
    """Record a run of a candidate with wrong predictions at these positions."""
    candidate = build_candidate(store, name, wrong)
    run = Run.start_or_resume(name, store, "demo", load_config("demo", {"seed": len(name)}))
    for stage, artifact in (("download", candidate.archive), ("split", candidate.split),
                            ("fine_tune", candidate.model), ("evaluate", candidate.evaluation)):
        run.record_result(Result(stage, artifact.key, False, 1.0, artifact.metrics, ""))
    return run


def requests_of(app: FastAPI) -> list[tuple[str, str]]:
    """Return a request for each route and each of its methods."""
    return [(method, re.sub(r"\{[^}]*\}", "x", route.path)) for route in app.routes for method in route.methods]


def test_every_route_returns_401_without_a_login(app: FastAPI, anonymous_client: TestClient) -> None:
    requests = requests_of(app)
    assert len(requests) >= 16
    statuses = {request: anonymous_client.request(*request).status_code for request in requests}
    assert statuses == dict.fromkeys(requests, 401)
    assert anonymous_client.get("/nothing/here").status_code == 401
    page = anonymous_client.get("/", headers=HTML)
    assert page.status_code == 401
    assert "Log in" in page.text


def test_a_forged_login_is_rejected(anonymous_client: TestClient, viewer: TestClient) -> None:
    token = viewer.cookies["_token"]
    head, _, signature = token.split(".")
    admin = base64.urlsafe_b64encode(json.dumps({"sub": "admin", "role": "admin"}).encode()).decode().rstrip("=")
    for forged in ("x", f"{head}.{admin}.{signature}", f"{token[:-2]}AA", ""):
        viewer.cookies.clear()
        viewer.cookies.set("_token", forged)
        assert viewer.get("/data/runs").status_code in (401, 403), forged


def test_every_route_returns_403_without_permissions(app: FastAPI, client_without_role: TestClient) -> None:
    requests = requests_of(app)
    statuses = {request: client_without_role.request(*request).status_code for request in requests}
    assert statuses == dict.fromkeys(requests, 403)


def test_all_routes_except_the_fallback_are_read_only(app: FastAPI) -> None:
    *routes, last = app.routes
    assert {method for route in routes for method in route.methods} == {"GET"}
    assert last.path == "/{path:path}"


def modifying_requests(app: FastAPI) -> list[tuple[str, str]]:
    """Return a request to each route with each method that could change something."""
    paths = dict.fromkeys(path for _, path in requests_of(app))
    return [(method, path) for path in paths for method in ("POST", "PUT", "PATCH", "DELETE")]


def test_a_modifying_request_requires_the_permission_to_edit_the_dag(app: FastAPI, viewer: TestClient) -> None:
    requests = modifying_requests(app)
    assert {request: viewer.request(*request).status_code for request in requests} == dict.fromkeys(requests, 403)
    assert "permission to edit this DAG" in viewer.post("/", headers=HTML).text


def test_an_editor_cannot_change_anything_either(app: FastAPI, editor: TestClient) -> None:
    requests = modifying_requests(app)
    assert {request: editor.request(*request).status_code for request in requests} == dict.fromkeys(requests, 404)
    assert editor.get("/", headers=HTML).status_code == 200


def test_every_response_has_the_strict_policy(store: Store, viewer: TestClient) -> None:
    record_run(store, "good")
    store.write("runs/damaged.json", b"{")
    expected = {"/": 200, "/policy": 200, "/runs/good": 200, "/data/runs": 200, "/static/site.js": 200,
                "/runs/none": 404, "/no/such": 404, "/data/runs?limit=x": 422, "/dag-run": 422, "/runs/damaged": 500}
    responses = {path: viewer.get(path, headers=HTML) for path in expected}
    responses["/", "401"] = TestClient(viewer.app, base_url=viewer.base_url).get("/")
    assert {path: response.status_code for path, response in responses.items()} == expected | {("/", "401"): 401}
    for path, response in responses.items():
        headers = response.headers
        assert headers["content-security-policy"] == POLICY, path
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["cache-control"] == ("private, max-age=86400" if "static" in path else "no-store"), path


def test_pages_have_no_script_style_or_handler_that_the_policy_forbids(store: Store, editor: TestClient) -> None:
    record_run(store, "a", range(9))
    record_run(store, "b", range(2))
    for path in ("/", "/runs/a", "/compare?a=a&b=b", "/runs/none", "/start?set=seed=%22%3Cscript%3E"):
        page = editor.get(path, headers=HTML).text
        assert re.findall(r"<script(?![^>]* src=\"/carclf/static/)[^>]*>", page) == [], path
        assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:|https?://(?!vega\.github\.io)", page) == [], path


def test_only_those_who_may_start_runs_get_the_form(store: Store, viewer: TestClient) -> None:
    response = viewer.get("/start", headers=HTML)
    assert response.status_code == 403
    assert "permission to start runs of this DAG" in response.text
    record_run(store, "abc")
    for page in ("/", "/runs/abc"):
        assert "/start" not in viewer.get(page, headers=HTML).text, page


def test_a_run_can_be_started_again_with_changes(store: Store, editor: TestClient) -> None:
    record_run(store, "abc")
    link = re.findall(r'href="/carclf(/start[^"]+)"', editor.get("/runs/abc", headers=HTML).text)[0]
    page = editor.get(html.unescape(link), headers=HTML).text
    assert re.findall(r'name="seed" value="(\d+)"', page) == ["3"]
    assert 'data-api="/api/v2/dags/car_retrain"' in page
    assert "disabled" not in re.findall(r'<button[^>]*id="start"[^>]*>', page)[0]


def test_the_form_shows_an_error_next_to_the_values_that_cause_it(store: Store, editor: TestClient) -> None:
    page = editor.get("/start", params={"set": ["seed=<b>", "force=maybe"], "note": "a \"note\""}, headers=HTML).text
    assert re.findall(r'<button[^>]*id="start"[^>]*( disabled)>', page) == [" disabled"]
    assert 'name="seed" value="&lt;b&gt;"' in page
    assert "<option selected>maybe</option>" in page
    assert 'value="a &#34;note&#34;"' in page
    assert editor.get("/start?recipe=none", headers=HTML).status_code == 404
    assert editor.get("/start?unknown=1", headers=HTML).status_code == 422


def test_the_policy_page_shows_the_limits_and_an_invalid_policy_is_an_error(
    store: Store, editor: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_run(store, "a")
    assert "This deployment has no policy" in editor.get("/policy", headers=HTML).text
    path = tmp_path / "policy.toml"
    path.write_text('[settings]\ngate.threshold = 0.9\n[allowed]\nsources = ["<b>", "s3://cars/*"]\n'
                    "[approval]\nown_runs = false\n")
    monkeypatch.setenv("CARCLF_POLICY", str(path))
    page = editor.get("/policy", headers=HTML).text
    assert '<th scope="row">gate.threshold</th><td>at least 0.9</td>' in page
    assert "&lt;b&gt;, s3://cars/*" in page
    assert "Nobody may approve a run that they started." in page
    path.unlink()
    for page in ("/policy", "/start", "/runs/a/approval"):
        response = editor.get(page, headers=HTML)
        assert response.status_code == 500
        assert "policy.toml" in response.text


def test_simultaneous_requests_for_a_report_compute_it_once_and_leave_the_server_responsive(
    store: Store, viewer: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_run(store, "a", range(9))
    lock, threads = threading.Lock(), set()

    def render(chart: Chart) -> str:
        threads.add(threading.current_thread().name)
        with lock:  # another page is served while the report waits
            return render_svg(chart)

    monkeypatch.setattr(templates, "render_svg", render)
    with ThreadPoolExecutor(60) as pool:
        lock.acquire()
        try:
            reports = [pool.submit(viewer.get, "/runs/a/report.html") for _ in range(50)]
            assert viewer.get("/data/runs").status_code == 200  # with its own thread
        finally:
            lock.release()
        contents = {report.result().content for report in reports}
    assert (len(contents), len(threads)) == (1, 1)
    before = contents.pop()
    record_attempt(Run.load("a", store), "promote", "failed", text="changed")
    assert viewer.get("/runs/a/report.html").content != before


def test_no_link_leads_to_a_missing_page(store: Store, viewer: TestClient) -> None:
    run = record_run(store, "a")
    run.run_stage("promote")
    links = {link for page in ("/", "/runs/a") for link in re.findall(r'href="/carclf(/[^"#]*)', viewer.get(page).text)}
    assert "/runs/a" in links
    assert {link: viewer.get(link.replace("&amp;", "&")).status_code for link in links} == dict.fromkeys(links, 200)
    Path(store.url, "runs/a.json").unlink()
    rebuild_index(store)
    assert 'href="/carclf/runs/a"' not in viewer.get("/").text


def test_script_style_and_chart_library_come_from_the_package(viewer: TestClient) -> None:
    files = {name: viewer.get(f"/static/{name}") for name in ("site.js", "site.css", "vega.js", "icon.svg")}
    assert {name: response.headers["content-type"].split(";")[0] for name, response in files.items()} == {
        "site.js": "text/javascript", "site.css": "text/css", "vega.js": "text/javascript", "icon.svg": "image/svg+xml"}
    assert "window.vegaEmbed" in files["vega.js"].text
    assert len(files["vega.js"].content) > 500_000


NAMED = ["/runs/{}", "/runs/{}/approval", "/data/runs/{}/live", "/runs/{}/report.html",
         "/runs/{}/files/evaluate/evaluation.json", "/runs/good/files/{}/evaluation.json",
         "/runs/good/files/evaluate/{}", "/static/{}", "/experiments/{}/report.html",
         "/dag-run?dag_id=car_retrain&run_id={}", "/dag-run?dag_id=car_experiments&run_id={}",
         "/compare?a=good&b={}", "/compare?a={}&b=good"]


def test_every_route_with_a_name_is_tested_with_hostile_names(app: FastAPI) -> None:
    paths = {route.path for route in app.routes if "{" in route.path} - {"/{path:path}"}
    tested = {re.sub(r"good|evaluate|evaluation\.json|\{\}", "{}", path.split("?")[0]) for path in NAMED}
    assert {re.sub(r"\{\w+\}", "{}", path) for path in paths} - tested == set()


def is_safe(response: Response) -> bool:
    """Return whether the response to a hostile name reveals nothing outside the store."""
    harmless = response.status_code == 200 and any(text in response.text for text in HARMLESS)
    unescaped = "<script>alert" in response.text and response.headers["content-type"] != "application/json"
    hidden = all(text not in response.text for text in (SECRET, "root:", "Traceback"))
    return (response.status_code in (404, 422) or harmless) and hidden and not unescaped


@pytest.mark.parametrize("path", NAMED)
def test_hostile_names_never_leave_the_store(
    store: Store, viewer: TestClient, tmp_path: Path, path: str
) -> None:
    record_run(store, "good")
    (tmp_path / "secret.txt").write_text(SECRET)
    unsafe = {name: response.text for name in HOSTILE
              if not is_safe(response := viewer.get(path.format(name), headers=HTML))}
    assert unsafe == {}


class OpenedFiles:
    """Records the files that this process opens while recording is on; an audit hook cannot be removed."""

    def __init__(self) -> None:
        self.recording = False
        self.paths: set[str] = set()
        sys.addaudithook(self._record)

    def _record(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.recording and event == "open":
            self.paths.add(str(arguments[0]))

    def during(self, call: Callable[[], Response]) -> Response:
        self.paths = set()
        self.recording = True
        response = call()
        self.recording = False
        return response


OPENED = OpenedFiles()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(NAMED), st.text(min_size=1, max_size=40) | st.text("./%\\0ab:", min_size=1, max_size=20))
def test_no_name_opens_a_file_outside_the_store(
    store: Store, viewer: TestClient, tmp_path: Path, path: str, name: str
) -> None:
    (tmp_path / "secret.txt").write_text(SECRET)
    url = path.format(quote(name, safe="", errors="replace"))
    response = OPENED.during(lambda: viewer.get(url, headers=HTML))
    assert is_safe(response), response.text
    outside = {file for file in OPENED.paths if file.startswith(str(tmp_path)) and not file.startswith(store.url)}
    assert outside == set()
    assert "/etc/passwd" not in OPENED.paths


def test_a_stored_page_gets_no_scripts_network_or_origin(store: Store, viewer: TestClient) -> None:
    candidate = build_candidate(store, "good", config=load_config("demo", {"gate.threshold": 0.1}))
    decision, _ = candidate.promote(store)
    run = record_run(store, "good")
    run.record_result(Result("promote", decision.key, False, 1.0, decision.metrics, ""))
    page = viewer.get("/runs/good/files/promote/report.html")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    style = re.search(r"<style>(.*?)</style>", page.text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert page.headers["content-security-policy"] == (
        "sandbox; default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'; "
        f"style-src 'sha256-{digest}'")
    data = viewer.get("/runs/good/files/evaluate/evaluation.json")
    assert data.headers["content-disposition"] == 'attachment; filename="evaluation.json"'
    assert viewer.get("/runs/good/files/fine_tune/model.keras").status_code == 404


def test_pages_escape_text_from_the_store(store: Store, viewer: TestClient) -> None:
    evil = "<img src=x onerror=alert(1)>\"'</script>{{7*7}}"
    record_run(store, "a", range(9))
    record_run(store, "b")
    record = json.loads(store.read("runs/b.json").data)
    record["stages"]["evaluate"]["summary"] = record["stages"]["split"]["skip_reason"] = record["machine"] = evil
    record["attempts"] = {"score": {"stage": "score", "state": "failed", "since": record["created"], "text": evil}}
    store.write("runs/b.json", json.dumps(record | {"recipe": evil}).encode())
    pages = [viewer.get(path, headers=HTML).text for path in ("/runs/b", "/compare?a=a&b=b", "/runs/b/report.html")]
    for page in pages:
        assert "<img src=x" not in page
        assert "&lt;img src=x onerror=alert(1)&gt;" in page
        assert "{{7*7}}" in page
    assert viewer.get("/data/runs").headers["content-type"] == "application/json"


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_damaged_champion_is_reported_on_the_page(store: Store, viewer: TestClient) -> None:
    store.write("champion.json", b"{")
    page = viewer.get("/", headers=HTML)
    assert page.status_code == 500
    assert "champion.json" in page.text


@pytest.mark.parametrize("url", ["ftp://nowhere", "s3://", "FILE", "s3://no-credentials"])
def test_an_invalid_store_is_reported_with_its_setting(
    viewer: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    (tmp_path / "file").write_text("")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("CARCLF_STORE", str(tmp_path / "file") if url == "FILE" else url)
    page = viewer.get("/", headers=HTML)
    assert page.status_code == 503
    assert "The store cannot be used" in page.text
    expected = "AWS_ACCESS_KEY_ID" if url == "s3://no-credentials" else "CARCLF_STORE"
    assert expected in page.text


def test_data_routes_report_an_invalid_store_as_json(viewer: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARCLF_STORE", "ftp://nowhere")
    response = viewer.get("/data/runs")
    assert response.status_code == 503
    detail = response.json()["detail"]
    assert "ftp://nowhere" in detail
    assert "CARCLF_STORE" in detail


def test_a_store_that_does_not_respond_is_reported(viewer: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{unused_port()}", "AWS_MAX_ATTEMPTS": "1",
                "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "CARCLF_STORE": "s3://away/store"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    page = viewer.get("/", headers=HTML)
    assert page.status_code == 503
    assert "AWS_ENDPOINT_URL" in page.text


def test_a_process_opens_its_store_once(app: FastAPI, store: Store) -> None:
    from carclf_airflow import routes

    first = routes.open_pages_store()
    assert first is routes.open_pages_store()
    assert first.url == store.url


def test_pages_report_a_store_that_has_vanished(store: Store, viewer: TestClient) -> None:
    assert viewer.get("/data/runs").status_code == 200
    shutil.rmtree(store.url)
    response = viewer.get("/data/runs")
    assert response.status_code == 503
    assert store.url in response.json()["detail"]


def test_a_dag_run_shows_its_report_as_soon_as_the_run_starts(store: Store, viewer: TestClient) -> None:
    path = "/dag-run?dag_id=car_retrain&run_id=manual__2026-11-25T06%3A54%3A51.612361%2B00%3A00"
    run_id = run_id_from_dag_run("manual__2026-11-25T06:54:51.612361+00:00")
    page = viewer.get(path, headers=HTML)
    assert page.status_code == 200
    assert "has not started yet" in page.text
    assert f'data-run="{run_id}"' in page.text
    assert viewer.get(f"/data/runs/{run_id}/live").json()["version"] == "none"
    Run.start_or_resume(run_id, store, "demo", load_config("demo"))
    page = viewer.get(path, headers=HTML)
    version = viewer.get(f"/data/runs/{run_id}/live").json()["version"]
    assert f'data-run="{run_id}" data-version="{version}" data-state="not started"' in page.text


def test_a_run_of_another_dag_has_no_report(viewer: TestClient) -> None:
    assert "No report" in viewer.get("/dag-run?dag_id=other&run_id=x", headers=HTML).text
    assert "Car classifier</h1>" in viewer.get("/dag-run?dag_id=car_promote&run_id=x", headers=HTML).text


def test_an_experiments_run_shows_its_comparison_and_its_report(store: Store, viewer: TestClient) -> None:
    path = "/dag-run?dag_id=car_experiments&run_id=manual__2026-11-25T06%3A54%3A51%2B00%3A00"
    name = run_id_from_dag_run("manual__2026-11-25T06:54:51+00:00")
    waiting = viewer.get(path, headers=HTML).text
    assert "Not compared yet" in waiting
    assert "No training runs are planned yet" in waiting
    assert f'<a href="/carclf/?text={name}">' in waiting
    record_rejection(name, store, ConfigError("The recipe x does not exist."))
    assert "The recipe x does not exist." in viewer.get(path, headers=HTML).text
    write_plan(make_plan(name, "demo", ["frozen"], seeds=[0]), store)
    waiting = viewer.get(path, headers=HTML).text
    assert "Training runs: 0 of 2 started" in waiting
    assert waiting.count("not started") == 2
    assert viewer.get(f"/experiments/{name}/report.html").status_code == 404
    store.write(f"experiments/{name}/report.html", b"<h1>Recipes</h1><script>alert(1)</script>")
    row = {"recipe": "baseline", "accuracy": 0.9, "value": 0.9, "value_std": None, "num_seeds": 1,
           "conclusion": "", "summary": "",
           "on_pareto_front": False, "command": "", "runs": [], "changes": {}, "relative_cost": None}
    outcome = {"experiment": name, "metric": "accuracy", "recipe": "demo", "seeds": [0], "num_images": 9,
               "num_folds": 0,
               "num_comparisons": 0, "significance_level": 0.05, "seed_std": None, "selection_optimism": 0.0,
               "settings": {}, "winner": "",
               "rows": [row], "stopped_early": [], "failed": [], "not_trained": []}
    store.write(f"experiments/{name}/outcome.json", json.dumps(outcome).encode())
    page = viewer.get(path, headers=HTML)
    assert page.status_code == 200
    assert f"Experiment <bdi>{name}</bdi>" in page.text
    assert page.headers["content-security-policy"] == POLICY
    report = viewer.get(f"/experiments/{name}/report.html")
    assert report.text.startswith("<h1>Recipes</h1>")
    assert report.headers["content-security-policy"].startswith("sandbox; default-src 'none'; img-src data:;")
    store.write(f"experiments/{name}/outcome.json", b"{}")
    page = viewer.get(path, headers=HTML)
    assert page.status_code == 500
    assert "carclf experiment compare" in page.text
    assert "Not compared yet" in viewer.get("/dag-run?dag_id=car_experiments&run_id=../../secret", headers=HTML).text


def test_an_experiments_pages_require_the_permission_to_read_its_dag(
    store: Store, viewer: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.api_fastapi.app import get_auth_manager

    store.write("experiments/e/report.html", b"<h1>Recipes</h1>")
    paths = "/experiments/e/report.html", "/dag-run?dag_id=car_experiments&run_id=e"
    assert [viewer.get(path).status_code for path in paths] == [200, 200]
    is_authorized_dag = type(get_auth_manager()).is_authorized_dag

    def only_retrain(self: object, *, details: Any = None, **options: Any) -> bool:
        return details.id == "car_retrain" and is_authorized_dag(self, details=details, **options)

    monkeypatch.setattr(type(get_auth_manager()), "is_authorized_dag", only_retrain)
    assert [viewer.get(path).status_code for path in ("/", *paths)] == [200, 403, 403]


def test_live_points_have_the_version_of_the_page_that_shows_them(store: Store, viewer: TestClient) -> None:
    run = Run.start_or_resume("r", store, "demo", load_config("demo"))
    record_attempt(run, "fine_tune", "running")

    def write_progress(num: int) -> None:
        points = [{"done": 10 * n, "time": "2999-01-01T00:00:00+00:00", "epoch": 1.0, "loss": 2.0 / n,
                   "accuracy": 0.1 * n, "learning_rate": 1e-3, "images_per_second": 50.0, "data_wait_fraction": 0.1}
                  for n in range(1, num + 1)]
        metrics = {name: value for name, value in points[-1].items() if name != "time"} if points else {}
        live = {"stage": "fine_tune", "state": "running", "started": run.record["created"],
                "updated": "2999-01-01T00:00:00+00:00", "activity": "fine_tune", "done": 10 * num, "total": 100,
                "per_second": 1.0, "eta_seconds": 9.0, "metrics": metrics,
                "series": {"fine_tune": {"points": points, "epochs": []}} if points else {}}
        store.write("live/r/fine_tune.json", json.dumps(live).encode())

    updates = []
    for num in (0, 2, 3):
        write_progress(num)
        update = viewer.get("/data/runs/r/live").json()
        page = viewer.get("/runs/r", headers=HTML).text
        assert f'data-version="{update["version"]}"' in page
        assert all(f'id="chart-{chart["name"]}"' in page for chart in update["charts"])
        assert "aria-live" not in page  # a screen reader would never stop reading what changes every 3 s
        updates.append(update)
    assert [len(update["charts"]) for update in updates] == [0, 5, 5]
    assert updates[0]["version"] != updates[1]["version"] == updates[2]["version"]
    assert [len(update["charts"][0]["values"]) for update in updates[1:]] == [2, 3]
    assert updates[2]["progress"] == [{"stage": "fine_tune", "fraction": 0.3, "text":
        "fine_tune: 30 of 100, epoch 1, loss 0.667, accuracy 0.300, images per second 50, data wait fraction 10%, "
        "9 s remaining"}]


def test_two_different_runs_can_be_compared(store: Store, viewer: TestClient) -> None:
    record_run(store, "a", range(9))
    record_run(store, "bb", range(2))
    page = viewer.get("/compare?a=a&b=bb", headers=HTML).text
    assert "60 common validation images" in page
    assert "<bdi>seed</bdi>" in page
    assert "num_changed" not in page
    assert viewer.get("/compare?a=a&b=a", headers=HTML).status_code == 404


def test_up_to_ten_runs_can_be_compared_with_a_baseline(store: Store, viewer: TestClient) -> None:
    for name, num_wrong in (("a", 9), ("b2", 2), ("ccc", 4)):
        record_run(store, name, range(num_wrong))
    page = viewer.get("/compare?a=a&b=b2&b=ccc", headers=HTML).text
    assert "Comparison of 3 runs" in page and 'href="/carclf/compare?a=b2&amp;b=a&amp;b=ccc"' in page
    table = viewer.get("/data/compare.csv?a=a&b=b2&b=ccc")
    assert table.headers["content-disposition"].startswith("attachment")
    assert [line.split(",")[0] for line in table.text.splitlines()] == ["run", "a", "b2", "ccc"]
    eleven = "&".join(f"b={n}" for n in range(11))
    for path in (f"/compare?a=a&{eleven}", "/compare?a=a&b=none&b=b2", f"/data/compare.csv?a=a&{eleven}"):
        assert viewer.get(path, headers=HTML).status_code == 404
    assert viewer.get("/compare?a=a", headers=HTML).status_code == 422
