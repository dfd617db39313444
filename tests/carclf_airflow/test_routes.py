"""The pages' routes: who may ask, with which headers it is answered, and that no request leads out of the store."""

import base64
import hashlib
import json
import re
import socket
import sys
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
from carclf.experiments.plan import make_plan, write_plan
from carclf.runs.run import Result, Run
from carclf.services.storage import Store

HTML = {"Accept": "text/html"}
SECRET = "what lies beside the store"
HOSTILE = ["..", "../secret.txt", "..%2f..%2fsecret.txt", "....//secret.txt", "%00", "a%00.html", "/etc/passwd",
           "%2e%2e%2fsecret.txt", "..\\secret.txt", "s3://bucket/x", "champion.json", "a" * 5000, "😀", "%ff%fe", "r;x",
           "manifest.json", "<script>alert(1)</script>", "' OR 1=1", "file:///etc/passwd", "."]
# What is rightly answered with 200: a run that has not begun, and "." and "..", which lead to other pages.
HARMLESS = ("has not begun yet", "Not compared yet", '"version":"none"', "Car classifier</h1>")
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
          "base-uri 'none'; form-action 'none'; frame-ancestors 'self'")


def noted(store: Store, name: str, wrong: range = range(0)) -> Run:
    one = build_candidate(store, name, wrong)
    run = Run.start_or_resume(name, store, "demo", load_config("demo", {"seed": len(name)}))
    for stage, artifact in (("download", one.archive), ("split", one.split), ("fine_tune", one.model),
                            ("evaluate", one.evaluation)):
        run.record_result(Result(stage, artifact.key, False, 1.0, artifact.metrics, ""))
    return run


def asked(site: FastAPI) -> list[tuple[str, str]]:
    """A request for each route and each of its methods."""
    return [(method, re.sub(r"\{[^}]*\}", "x", route.path)) for route in site.routes for method in route.methods]


def test_without_login_every_route_answers_401(site: FastAPI, anonymous_client: TestClient) -> None:
    requests = asked(site)
    assert len(requests) >= 16
    assert {request: anonymous_client.request(*request).status_code for request in requests} == dict.fromkeys(requests, 401)
    assert anonymous_client.get("/nothing/here").status_code == 401
    page = anonymous_client.get("/", headers=HTML)
    assert page.status_code == 401 and "for those who are logged in to Airflow" in page.text


def test_a_forged_or_altered_login_is_refused(anonymous_client: TestClient, viewer: TestClient) -> None:
    token = viewer.cookies["_token"]
    head, _, signature = token.split(".")
    admin = base64.urlsafe_b64encode(json.dumps({"sub": "admin", "role": "admin"}).encode()).decode().rstrip("=")
    for forged in ("x", f"{head}.{admin}.{signature}", f"{token[:-2]}AA", ""):
        viewer.cookies.clear()
        viewer.cookies.set("_token", forged)
        assert viewer.get("/data/runs").status_code in (401, 403), forged


def test_a_login_without_rights_gets_403_from_every_route(site: FastAPI, nobody: TestClient) -> None:
    requests = asked(site)
    assert {request: nobody.request(*request).status_code for request in requests} == dict.fromkeys(requests, 403)


def test_no_route_changes_anything(site: FastAPI) -> None:
    *routes, last = site.routes
    assert {method for route in routes for method in route.methods} == {"GET"}
    assert last.path == "/{path:path}"


def changing(site: FastAPI) -> list[tuple[str, str]]:
    """A request to each route by each method that would change something."""
    paths = dict.fromkeys(path for _, path in asked(site))
    return [(method, path) for path in paths for method in ("POST", "PUT", "PATCH", "DELETE")]


def test_what_would_change_something_asks_for_the_right_to_edit_the_dag(site: FastAPI, viewer: TestClient) -> None:
    requests = changing(site)
    assert {request: viewer.request(*request).status_code for request in requests} == dict.fromkeys(requests, 403)
    assert "You may not edit this DAG" in viewer.post("/", headers=HTML).text


def test_whoever_may_edit_the_dag_finds_nothing_that_can_be_changed(site: FastAPI, editor: TestClient) -> None:
    requests = changing(site)
    assert {request: editor.request(*request).status_code for request in requests} == dict.fromkeys(requests, 404)
    assert editor.get("/", headers=HTML).status_code == 200


def test_every_answer_has_the_strict_policy(store: Store, viewer: TestClient) -> None:
    noted(store, "good")
    store.write("runs/damaged.json", b"{")
    expected = {"/": 200, "/runs/good": 200, "/data/runs": 200, "/static/site.js": 200, "/runs/none": 404,
                "/no/such": 404, "/data/runs?limit=x": 422, "/dag-run": 422, "/runs/damaged": 500}
    answers = {path: viewer.get(path, headers=HTML) for path in expected}
    answers["/", "401"] = TestClient(viewer.app, base_url=viewer.base_url).get("/")
    assert {path: one.status_code for path, one in answers.items()} == expected | {("/", "401"): 401}
    for path, one in answers.items():
        assert one.headers["content-security-policy"] == POLICY, path
        assert one.headers["x-content-type-options"] == "nosniff", path
        assert one.headers["cache-control"] == ("private, max-age=86400" if "static" in path else "no-store"), path


def test_pages_hold_no_script_style_or_handler_that_the_policy_would_forbid(store: Store, viewer: TestClient) -> None:
    noted(store, "a", range(9))
    noted(store, "b", range(2))
    for path in ("/", "/runs/a", "/compare?a=a&b=b", "/runs/none"):
        page = viewer.get(path, headers=HTML).text
        assert re.findall(r"<script(?![^>]* src=\"/carclf/static/)[^>]*>", page) == [], path
        assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:|https?://(?!vega\.github\.io)", page) == [], path


def test_script_style_and_chart_library_come_from_the_package(viewer: TestClient) -> None:
    found = {name: viewer.get(f"/static/{name}") for name in ("site.js", "site.css", "vega.js", "icon.svg")}
    assert {name: one.headers["content-type"].split(";")[0] for name, one in found.items()} == {
        "site.js": "text/javascript", "site.css": "text/css", "vega.js": "text/javascript", "icon.svg": "image/svg+xml"}
    assert "window.vegaEmbed" in found["vega.js"].text and len(found["vega.js"].content) > 500_000


NAMED = ["/runs/{}", "/data/runs/{}/live", "/runs/{}/report.html", "/runs/{}/files/evaluate/evaluation.json",
         "/runs/good/files/{}/evaluation.json", "/runs/good/files/evaluate/{}", "/static/{}",
         "/experiments/{}/report.html", "/dag-run?dag_id=car_retrain&run_id={}",
         "/dag-run?dag_id=car_experiments&run_id={}", "/compare?a=good&b={}", "/compare?a={}&b=good"]


def test_every_route_that_takes_a_name_is_asked_with_hostile_ones(site: FastAPI) -> None:
    taken = {route.path for route in site.routes if "{" in route.path} - {"/{path:path}"}
    known = {re.sub(r"good|evaluate|evaluation\.json|\{\}", "{}", path.split("?")[0]) for path in NAMED}
    assert {re.sub(r"\{\w+\}", "{}", path) for path in taken} - known == set()


def refused(answer: Response) -> bool:
    """Whether an answer to a hostile name tells nothing of what lies beside the store."""
    known = answer.status_code == 200 and any(text in answer.text for text in HARMLESS)
    raw = "<script>alert" in answer.text and answer.headers["content-type"] != "application/json"
    hidden = all(text not in answer.text for text in (SECRET, "root:", "Traceback"))
    return (answer.status_code in (404, 422) or known) and hidden and not raw


@pytest.mark.parametrize("path", NAMED)
def test_hostile_names_are_refused_and_never_leave_the_store(
    store: Store, viewer: TestClient, tmp_path: Path, path: str
) -> None:
    noted(store, "good")
    (tmp_path / "secret.txt").write_text(SECRET)
    wrong = {name: answer.text for name in HOSTILE
             if not refused(answer := viewer.get(path.format(name), headers=HTML))}
    assert wrong == {}


class Watch:
    """The files that this process opens while it is held."""

    def __init__(self) -> None:
        self.held, self.opened = False, set[str]()
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.held and event == "open":
            self.opened.add(str(arguments[0]))


WATCH = Watch()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(NAMED), st.text(min_size=1, max_size=40) | st.text("./%\\0ab:", min_size=1, max_size=20))
def test_whatever_the_name_no_file_beside_the_store_is_opened(
    store: Store, viewer: TestClient, tmp_path: Path, path: str, name: str
) -> None:
    (tmp_path / "secret.txt").write_text(SECRET)
    WATCH.opened, WATCH.held = set(), True
    answer = viewer.get(path.format(quote(name, safe="", errors="replace")), headers=HTML)
    WATCH.held = False
    assert refused(answer), answer.text
    beside = {file for file in WATCH.opened if file.startswith(str(tmp_path)) and not file.startswith(store.url)}
    assert beside == set() and "/etc/passwd" not in WATCH.opened


def test_a_files_page_is_shown_without_scripts_network_or_this_sites_origin(store: Store, viewer: TestClient) -> None:
    one = build_candidate(store, "good", config=load_config("demo", {"gate.threshold": 0.1}))
    decision, _ = one.promote(store)
    run = noted(store, "good")
    run.record_result(Result("promote", decision.key, False, 1.0, decision.metrics, ""))
    page = viewer.get("/runs/good/files/promote/report.html")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    style = re.search(r"<style>(.*?)</style>", page.text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert page.headers["content-security-policy"] == (
        "sandbox; default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'; "
        f"style-src 'sha256-{digest}'")
    data = viewer.get("/runs/good/files/evaluate/evaluation.json")
    assert data.headers["content-disposition"] == 'attachment; filename="evaluation.json"'
    assert viewer.get("/runs/good/files/fine_tune/model.keras").status_code == 404


def test_what_a_store_holds_is_text_on_every_page(store: Store, viewer: TestClient) -> None:
    evil = "<img src=x onerror=alert(1)>\"'</script>{{7*7}}"
    noted(store, "a", range(9))
    noted(store, "b")
    record = json.loads(store.read("runs/b.json").data)
    record["stages"]["evaluate"]["summary"] = record["stages"]["split"]["skip_reason"] = record["machine"] = evil
    record["attempts"] = {"score": {"stage": "score", "state": "failed", "since": record["created"], "text": evil}}
    store.write("runs/b.json", json.dumps(record | {"recipe": evil}).encode())
    pages = [viewer.get(path, headers=HTML).text for path in ("/runs/b", "/compare?a=a&b=b", "/runs/b/report.html")]
    for page in pages:
        assert "<img src=x" not in page and "&lt;img src=x onerror=alert(1)&gt;" in page and "{{7*7}}" in page
    answer = viewer.get("/data/runs")
    assert answer.headers["content-type"] == "application/json"


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_store_that_is_damaged_away_or_wrongly_named_is_a_page_in_words(
    store: Store, viewer: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("champion.json", b"{")
    page = viewer.get("/", headers=HTML)
    assert page.status_code == 500 and "champion.json in" in page.text and "is damaged" in page.text
    (tmp_path / "file").write_text("")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for url, words in {
        "ftp://nowhere": "is neither a folder nor s3://bucket/prefix", "s3://": "names no bucket",
        str(tmp_path / "file"): "Give a folder that this user may write to",
        "s3://no-credentials": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    }.items():
        monkeypatch.setenv("CARCLF_STORE", url)
        page = viewer.get("/", headers=HTML)
        assert page.status_code == 503 and "The store cannot be used" in page.text and words in page.text, url
    monkeypatch.setenv("CARCLF_STORE", "ftp://nowhere")
    assert viewer.get("/data/runs").json() == {"detail": "The store 'ftp://nowhere' is neither a folder nor "
                                               "s3://bucket/prefix. Mend CARCLF_STORE of the api-server."}


def test_a_store_that_does_not_answer_is_a_page_in_words(viewer: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{closed_port()}", "AWS_MAX_ATTEMPTS": "1",
             "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "CARCLF_STORE": "s3://away/store"}
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    page = viewer.get("/", headers=HTML)
    assert page.status_code == 503
    assert "The store does not respond" in page.text and "check the network and AWS_ENDPOINT_URL" in page.text


def test_a_process_opens_its_store_once(site: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    from carclf_airflow import routes

    monkeypatch.setenv("CARCLF_STORE", "s3://bucket/one")
    first = routes._store()
    assert first is routes._store() and first.url == "s3://bucket/one"


def test_a_dag_run_that_has_not_begun_says_so_and_shows_its_report_once_it_has(
    store: Store, viewer: TestClient
) -> None:
    path = "/dag-run?dag_id=car_retrain&run_id=manual__2026-11-25T06%3A54%3A51.612361%2B00%3A00"
    own = "manual__2026-11-25T06-54-51.612361-00-00"
    page = viewer.get(path, headers=HTML)
    assert page.status_code == 200 and "has not begun yet" in page.text and f'data-run="{own}"' in page.text
    assert viewer.get(f"/data/runs/{own}/live").json()["version"] == "none"
    Run.start_or_resume(own, store, "demo", load_config("demo"))
    page = viewer.get(path, headers=HTML)
    version = viewer.get(f"/data/runs/{own}/live").json()["version"]
    assert f'data-run="{own}" data-version="{version}" data-state="pending"' in page.text
    assert "train no car classifier" in viewer.get("/dag-run?dag_id=other&run_id=x", headers=HTML).text


def test_an_experiments_run_shows_its_comparison_and_the_report_that_was_kept_of_it(
    store: Store, viewer: TestClient
) -> None:
    path = "/dag-run?dag_id=car_experiments&run_id=manual__2026-11-25T06%3A54%3A51%2B00%3A00"
    own = "manual__2026-11-25T06-54-51-00-00"
    waiting = viewer.get(path, headers=HTML).text
    assert "Not compared yet" in waiting and "No training runs are planned yet" in waiting
    assert f'<a href="/carclf/?text={own}">' in waiting
    write_plan(make_plan(own, "demo", ["frozen"], seeds=[0]), store)
    waiting = viewer.get(path, headers=HTML).text
    assert "Training runs: 0 of 2 started" in waiting and waiting.count("not started") == 2
    assert viewer.get(f"/experiments/{own}/report.html").status_code == 404
    store.write(f"experiments/{own}/report.html", b"<h1>Recipes</h1><script>alert(1)</script>")
    row = {"recipe": "baseline", "accuracy": 0.9, "accuracy_std": None, "num_seeds": 1, "conclusion": "", "summary": "",
           "on_pareto_front": False, "command": "", "runs": []}
    found = {"experiment": own, "recipe": "demo", "seeds": [0], "num_images": 9, "num_folds": 0, "num_comparisons": 0,
             "significance_level": 0.05, "seed_std": None, "rows": [row], "stopped_early": [], "failed": [], "not_trained": []}
    store.write(f"experiments/{own}/outcome.json", json.dumps(found).encode())
    page = viewer.get(path, headers=HTML)
    assert page.status_code == 200 and f"Experiment <bdi>{own}</bdi>" in page.text
    assert page.headers["content-security-policy"] == POLICY
    report = viewer.get(f"/experiments/{own}/report.html")
    assert report.text.startswith("<h1>Recipes</h1>")
    assert report.headers["content-security-policy"].startswith("sandbox; default-src 'none'; img-src data:;")
    store.write(f"experiments/{own}/outcome.json", b"{}")
    page = viewer.get(path, headers=HTML)
    assert page.status_code == 500 and "carclf experiment compare" in page.text
    assert "Not compared yet" in viewer.get("/dag-run?dag_id=car_experiments&run_id=../../secret", headers=HTML).text


def test_an_experiments_pages_ask_for_the_right_to_read_the_dag_of_experiments(
    store: Store, viewer: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.api_fastapi.app import get_auth_manager

    store.write("experiments/e/report.html", b"<h1>Recipes</h1>")
    paths = "/experiments/e/report.html", "/dag-run?dag_id=car_experiments&run_id=e"
    assert [viewer.get(path).status_code for path in paths] == [200, 200]
    real = type(get_auth_manager()).is_authorized_dag

    def only_retrain(self: object, *, details: Any = None, **given: Any) -> bool:
        return details.id == "car_retrain" and real(self, details=details, **given)

    monkeypatch.setattr(type(get_auth_manager()), "is_authorized_dag", only_retrain)
    assert [viewer.get(path).status_code for path in ("/", *paths)] == [200, 403, 403]


def test_live_points_come_with_the_version_of_the_page_that_shows_them(store: Store, viewer: TestClient) -> None:
    run = Run.start_or_resume("r", store, "demo", load_config("demo"))
    record_attempt(run, "fine_tune", "running")

    def tell(num: int) -> None:
        points = [{"done": 10 * n, "time": "", "epoch": 1.0, "loss": 2.0 / n, "accuracy": 0.1 * n,
                   "learning_rate": 1e-3, "images_per_second": 50.0, "data_wait_fraction": 0.1}
                  for n in range(1, num + 1)]
        live = {"stage": "fine_tune", "state": "running", "started": run.record["created"],
                "updated": "2999-01-01T00:00:00+00:00", "activity": "fine_tune", "done": 10 * num, "total": 100,
                "per_second": 1.0, "eta_seconds": 9.0, "metrics": points[-1] if points else {},
                "series": {"fine_tune": {"points": points, "epochs": []}} if points else {}}
        store.write("live/r/fine_tune.json", json.dumps(live).encode())

    seen = []
    for num in (0, 2, 3):
        tell(num)
        found, page = viewer.get("/data/runs/r/live").json(), viewer.get("/runs/r", headers=HTML).text
        assert f'data-version="{found["version"]}"' in page
        assert all(f'id="chart-{chart["name"]}"' in page for chart in found["charts"])
        assert "aria-live" not in page  # what changes every three seconds would be read out without an end
        seen.append(found)
    assert [len(found["charts"]) for found in seen] == [0, 5, 5]
    assert seen[0]["version"] != seen[1]["version"] == seen[2]["version"]
    assert [len(found["charts"][0]["values"]) for found in seen[1:]] == [2, 3]
    assert seen[2]["progress"] == [{"stage": "fine_tune", "fraction": 0.3, "text":
        "fine_tune: 30 of 100, epoch 1, loss 0.667, accuracy 0.300, images per second 50, data wait fraction 10%, "
        "9 s remaining"}]


def test_two_runs_are_compared_and_one_with_itself_is_not(store: Store, viewer: TestClient) -> None:
    noted(store, "a", range(9))
    noted(store, "bb", range(2))
    page = viewer.get("/compare?a=a&b=bb", headers=HTML).text
    assert "evaluated on 60 common validation images" in page and "<bdi>seed</bdi>" in page and "num_changed" not in page
    assert viewer.get("/compare?a=a&b=a", headers=HTML).status_code == 404
