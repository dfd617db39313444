"""The DAG: its shape, its form, its child processes, and one whole run of it."""

import itertools
import json
import os
import signal
import socketserver
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from carclf.config import iter_settings
from carclf.demo.competition import open_competition
from carclf.demo.rendering import render_competition
from carclf.demo.server import DemoServer

ROOT = Path(__file__).resolve().parents[2]
STAGES = ["download", "validate", "split", "train_head", "fine_tune", "evaluate", "promote", "submit", "score"]
APPROVAL = ["approval.ask", "approval.promote"]
TASKS = [*STAGES[:7], *APPROVAL, *STAGES[7:]]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    home = tmp_path_factory.mktemp("airflow")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "CARCLF", "KAGGLE"))}
    return kept | {
        "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"), "CARCLF_SCHEDULE": "none",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/a.db",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'dags'}", "CARCLF_STORE": str(home / "store"),
        "CARCLF_CACHE": str(home / "cache"), "CARCLF_POKE_INTERVAL_SECONDS": "1", "CARCLF_RETRY_DELAY_SECONDS": "1",
        "CARCLF_APPROVAL_TIMEOUT_HOURS": "1.5",
    }


class Inbox:
    """Where notifications are posted to."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        messages = self.messages

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(500 if self.path.startswith("/refuse") else 200)
                self.end_headers()

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def take(self) -> list[dict[str, Any]]:
        taken = self.messages[:]
        self.messages.clear()
        return taken


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    box = Inbox()
    threading.Thread(target=box.http.serve_forever, daemon=True).start()
    yield box
    box.http.shutdown()
    box.http.server_close()


class Mailbox:
    """A mail server: as much of SMTP as one mail needs."""

    def __init__(self) -> None:
        self.mails: list[Message] = []
        mails = self.mails

        class Talk(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(b"220 here\r\n")
                while line := self.rfile.readline().strip().upper():
                    if line == b"DATA":
                        self.wfile.write(b"354 go on\r\n")
                        mails.append(message_from_bytes(b"".join(iter(self.rfile.readline, b".\r\n"))))
                    self.wfile.write(b"250 yes\r\n")

        self.tcp = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Talk)
        self.port = self.tcp.server_address[1]


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    box = Mailbox()
    threading.Thread(target=box.tcp.serve_forever, daemon=True).start()
    yield box
    box.tcp.shutdown()
    box.tcp.server_close()


def python(code: str, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def described(environment: dict[str, str]) -> dict[str, object]:
    done = python(
        """
        import json, sys, time
        import airflow.sdk  # what every DAG file needs
        start = time.process_time()
        import car_retrain
        seconds = time.process_time() - start
        dag = car_retrain.car_retrain()
        print(json.dumps({
            "seconds": seconds, "heavy": [name for name in ("tensorflow", "keras") if name in sys.modules],
            "chain": {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks},
            "queues": sorted({task.queue for task in dag.tasks}),
            "timeouts": all(task.execution_timeout for task in dag.tasks),
            "params": {name: param.schema | {"description": param.description}
                       for name, param in dag.params._ParamsDict__dict.items()},
            "active": dag.max_active_runs, "catchup": dag.catchup,
            "sensors": {name: [dag.get_task(name).mode, dag.get_task(name).timeout, dag.get_task(name).trigger_rule]
                        for name in ("submit", "score")},
            "callbacks": [dag.on_success_callback, dag.on_failure_callback],
            "ask": [dag.get_task("approval.ask").defaults, dag.get_task("approval.ask").response_timeout.seconds],
        }))
        """,
        environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_chain_is_the_nine_stages_and_an_approval_on_the_gpu_queue(described) -> None:
    assert described["chain"] == {name: [after] for name, after in itertools.pairwise(TASKS)} | {"score": []}
    assert described["queues"] == ["gpu"] and described["timeouts"]
    assert (described["active"], described["catchup"]) == (1, False)


def test_what_waits_holds_no_slot_and_outlasts_a_night(described) -> None:
    assert described["sensors"] == {"submit": ["reschedule", 3 * 24 * 3600, "none_failed"],
                                    "score": ["reschedule", 6 * 3600, "all_success"]}
    assert described["ask"] == [["Reject"], 5400]  # CARCLF_APPROVAL_TIMEOUT_HOURS=1.5


def test_the_question_before_a_promotion_shows_the_figures_and_leads_to_the_runs_report(
    environment: dict[str, str]
) -> None:
    code = """
        import car_retrain, jinja2
        from types import SimpleNamespace as N
        results = {"promote": {"threshold": 0.9, "val_accuracy": 0.95, "decision": "awaiting approval", "champion": "",
                               "reason": "awaiting approval: all hold. To go on: carclf promote", "p_value": 0.0123456},
                   "evaluate": {"val_accuracy": 0.95, "val_accuracy_low": 0.93, "val_accuracy_high": 0.97, "num_images": 500, "weakest_class": 2,
                                "weakest_recall": 0.8, "calibration_error": 0.01}}
        ti = N(xcom_pull=lambda task_ids: {"metrics": results[task_ids]})
        body = car_retrain.car_retrain().get_task("approval.ask").body
        print(jinja2.Template(body).render(ti=ti, run_id="manual__2026-11-25T06:54:51+00:00"))
    """
    done = python(code, environment | {"AIRFLOW__API__BASE_URL": "https://host/airflow/", "CARCLF_STORE": "s3://b/p"})
    run = "manual__2026-11-25T06%3A54%3A51%2B00%3A00"
    assert f"[The run's report](/airflow/dags/car_retrain/runs/{run}/plugin/car-classifier-report)" in done.stdout
    assert "0.9500 (95%: 0.9300 to 0.9700, 500 images)" in done.stdout and "| p value | 0.01235 |" in done.stdout
    assert "In the store, s3://b/p:" in done.stdout and "var_" not in done.stdout and "To go on" not in done.stdout


def test_nobody_is_told_unless_the_deployment_says_whom(described, environment: dict[str, str]) -> None:
    assert described["callbacks"] == [None, None]
    wrong = python("import car_retrain", environment | {"CARCLF_NOTIFICATION_URL": "ftp://secret@host"})
    assert "CARCLF_NOTIFICATION_URL is neither an http:// or https:// URL nor mailto:address." in wrong.stderr
    assert "secret" not in wrong.stderr


def test_parsing_takes_less_than_a_second_and_imports_neither_tensorflow_nor_keras(described) -> None:
    assert described["heavy"] == []
    assert described["seconds"] < 1  # of the processor, not of the clock: other work does not count


def test_the_form_has_every_setting_with_its_type_limits_and_description(described) -> None:
    params = described["params"]
    assert list(params) == ["recipe", *(name for name, _ in iter_settings() if not name.startswith("score."))]
    epochs = params["fine_tune.epochs"]
    assert (epochs["type"], epochs["minimum"], epochs["maximum"]) == (["integer", "null"], 0, 500)
    assert epochs["description"].endswith("(gpu: 12)") and epochs["section"] == "Fine tune"
    assert params["fine_tune.schedule"]["enum"] == ["cosine", "plateau", None]
    assert params["submit.enabled"]["type"] == ["boolean", "null"]


def test_no_secret_of_airflow_reaches_a_child_and_kaggles_key_only_three_stages(environment: dict[str, str]) -> None:
    secrets = {"AIRFLOW__CORE__FERNET_KEY": "f", "KAGGLE_KEY": "k", "CARCLF_KAGGLE_ENDPOINT": "e", "SOME_TOKEN": "t",
               "OTEL_EXPORTER_OTLP_ENDPOINT": "http://metrics"}
    done = python(
        "import json, stage_process as t; print(json.dumps({s: sorted(t.child_environment(s)) for s in "
        f"{STAGES}}}))", environment | secrets,
    )
    seen = json.loads(done.stdout.splitlines()[-1])
    assert {stage for stage in STAGES if "KAGGLE_KEY" in seen[stage]} == {"download", "submit", "score"}
    assert {stage for stage in STAGES if "CARCLF_KAGGLE_ENDPOINT" in seen[stage]} == {"download", "submit", "score"}
    assert not [name for stage in STAGES for name in seen[stage] if name.startswith("AIRFLOW") or name == "SOME_TOKEN"]
    assert all({"CARCLF_STORE", "PATH", "OTEL_EXPORTER_OTLP_ENDPOINT"} <= set(seen[stage]) for stage in STAGES)


def test_a_child_is_told_of_mlflow_and_where_its_dag_run_is_seen(environment: dict[str, str]) -> None:
    told = {"MLFLOW_TRACKING_URI": "http://mlflow:5000", "MLFLOW_TRACKING_USERNAME": "ada",
            "MLFLOW_TRACKING_PASSWORD": "p", "AIRFLOW__API__BASE_URL": "http://127.0.0.1:8080/"}
    done = python(
        """
        import json, stage_process as t
        from types import SimpleNamespace
        run = SimpleNamespace(dag_id="car_retrain", run_id="manual__2026-11-25T05:00:00+00:00")
        print(json.dumps([t.child_environment("fine_tune"), t.airflow_address({"dag_run": run})]))
        """, environment | told,
    )
    seen, address = json.loads(done.stdout.splitlines()[-1])
    assert {name: value for name, value in seen.items() if name.startswith("MLFLOW")} == {
        name: value for name, value in told.items() if name.startswith("MLFLOW")}
    assert address == {"CARCLF_AIRFLOW_RUN_URL":
                       "http://127.0.0.1:8080/dags/car_retrain/runs/manual__2026-11-25T05%3A00%3A00%2B00%3A00"}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ending_the_task_ends_the_child_and_its_children(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    child = (
        "import subprocess, sys, time; p = subprocess.Popen(['sleep', '60']); "
        f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{p.pid}} done'); time.sleep(60)"
    )
    code = (  # a suite that a shell started in the background inherits an ignored SIGINT
        "import os, signal, sys, stage_process; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"stage_process.run_child([sys.executable, '-c', {child!r}], dict(os.environ))"
    )
    task = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while not (tmp_path / "pids").exists() or "done" not in (tmp_path / "pids").read_text():
        assert time.monotonic() < limit and task.poll() is None
        time.sleep(0.1)
    grandchild = int((tmp_path / "pids").read_text().split()[0])
    assert alive(grandchild)
    task.send_signal(number)
    task.wait(30)
    assert not alive(grandchild)


def test_the_tasks_log_has_the_childs_colours_and_its_error_as_one(environment: dict[str, str]) -> None:
    code = """
        import json, logging, os, sys, stage_process
        heard = []
        stage_process.log.addFilter(lambda record: heard.append([record.levelname, record.getMessage()]) or False)
        child = "import os; print(os.environ.get('FORCE_COLOR')); print('carclf: DataError: empty'); exit(65)"
        status, reason = stage_process.run_child([sys.executable, "-c", child], dict(os.environ))
        print(json.dumps([status, reason, heard[1:]]))
    """
    wanted = [65, "DataError: empty", [["INFO", "1"], ["ERROR", "carclf: DataError: empty"]]]
    environment = {name: value for name, value in environment.items() if name not in ("FORCE_COLOR", "NO_COLOR")}
    assert json.loads(python(code, environment).stdout.splitlines()[-1]) == wanted
    wanted[2][0][1] = "None"
    assert json.loads(python(code, environment | {"NO_COLOR": "1"}).stdout.splitlines()[-1]) == wanted


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoServer]:
    folder = tmp_path_factory.mktemp("cars")
    render_competition(folder, num_train=120, num_test=20)
    competition = open_competition(folder, slug="demo-cars", work=folder / "work", truth=folder / "truth.csv")
    with DemoServer(competition) as running:
        yield running


def test_a_whole_run_of_the_dag_promotes_and_submits_or_says_why_not(
    environment: dict[str, str], server: DemoServer
) -> None:
    kaggle = {"CARCLF_KAGGLE_ENDPOINT": server.url, "KAGGLE_USERNAME": "demo", "KAGGLE_KEY": "demo-key",
              "KAGGLE_CONFIG_DIR": environment["AIRFLOW_HOME"]}
    migrated = subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=environment | kaggle,
                              capture_output=True, text=True)
    assert migrated.returncode == 0, migrated.stderr[-2000:]
    code = """
        import json, sys
        import car_retrain
        run = car_retrain.car_retrain().test(run_conf=json.loads(sys.argv[1]))
        print(json.dumps({"state": run.state, "tasks": {ti.task_id: ti.state for ti in run.get_task_instances()}}))
    """
    conf = {"recipe": "demo", "competition": "demo-cars", "validation.min_images_per_class": 5,
            "validation.max_unusable_fraction": 0.2, "fine_tune.epochs": 1, "head.epochs": 2, "gate.threshold": 0.0,
            "gate.min_recall": 0.0, "gate.max_calibration_error": 1.0}
    done = python(code, environment | kaggle, json.dumps(conf))
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    expected = dict.fromkeys(STAGES, "success") | dict.fromkeys(APPROVAL, "skipped")
    assert json.loads(done.stdout.splitlines()[-1]) == {"state": "success", "tasks": expected}
    assert len(server.submissions) == 1


def test_a_setting_that_there_is_not_fails_the_first_task_in_words_and_is_not_tried_again(
    environment: dict[str, str]
) -> None:
    code = """
        from carclf_airflow import stage_process
        from types import SimpleNamespace as N
        from airflow.sdk.exceptions import AirflowFailException
        context = {"dag_run": N(dag_id="car_retrain", run_id="r"), "params": {"recipe": "demo", "fine_tune.epoch": 1},
                   "ti": N(xcom_push=lambda key, value: print(key, value))}
        try:
            stage_process.run_stage("download", context)
        except AirflowFailException as error:
            print(error)
    """
    told, failed = python(code, environment).stdout.splitlines()[-2:]
    assert told.startswith("error ConfigError: Unknown configuration key 'fine_tune.epoch'")
    assert failed.startswith("download ended with status 78") and failed.endswith("cannot help before that is mended")


def test_a_refused_model_skips_what_follows_and_says_why(environment: dict[str, str]) -> None:
    code = """
        from carclf_airflow import stage_process, sys
        from types import SimpleNamespace as N
        from airflow.sdk.exceptions import DownstreamTasksSkipped
        pushed = {}
        context = {"dag_run": N(run_id="manual__2026"), "params": {},
                   "ti": N(xcom_push=lambda key, value: pushed.update({key: value})),
                   "task": N(get_flat_relative_ids=lambda upstream: {"submit", "score", "approval.ask"})}
        def run_child(command, env):
            open(command[-1], "w").write('{"skip_reason": "rejected: weak"}')
            return 99, ""
        stage_process.run_child = run_child
        try:
            stage_process.run_stage("promote", context)
        except DownstreamTasksSkipped as skipped:
            print(skipped.tasks, pushed)
    """
    done = python(code, environment)
    expected = "['approval.ask', 'score', 'submit'] {'return_value': {'skip': 'refused: weak'}}"
    assert done.stdout.splitlines()[-1] == expected, done.stderr[-2000:]


def test_xcom_holds_a_result_that_is_small_and_readable_whatever_the_run(environment: dict[str, str]) -> None:
    code = """
        import json, sys
        from carclf_airflow import stage_process
        long = "x" * 100_000
        metrics = {f"figure {n} {long}": long for n in range(500)} | {"reason": long}
        huge = {"stage": "evaluate", "key": "k", "reused": False, "seconds": 1.5, "metrics": {"reason": long} | metrics,
                "summary": long, "skip_reason": long, "waiting": False, "until": ""}
        usual = huge | {"metrics": {"val_accuracy": 0.9, "class_names": "0 1 2", "reason": "r" * 600},
                        "summary": "val_accuracy 0.9", "skip_reason": ""}
        print(len(json.dumps(stage_process.readable(huge))), json.dumps(stage_process.readable(usual)))
    """
    done = python(code, environment)
    size, usual = done.stdout.splitlines()[-1].split(maxsplit=1)
    assert int(size) < 24_000
    assert json.loads(usual) == {
        "stage": "evaluate", "key": "k", "reused": False, "seconds": 1.5, "summary": "val_accuracy 0.9", "skip_reason": "",
        "metrics": {"val_accuracy": 0.9, "reason": "r" * 600}, "waiting": False, "until": ""}


def test_figures_come_to_xcom_rounded_as_a_person_reads_them(environment: dict[str, str]) -> None:
    code = """
        from carclf_airflow import experiment_steps, stage_process, json
        from types import SimpleNamespace as N
        context = {"dag_run": N(dag_id="car_retrain", run_id="r"), "params": {}}
        found = [{"metrics": {"val_accuracy": 0.2788461446762085, "reload_difference": 3.3306690738754696e-16,
                              "num_images": 12345678, "public_score": 0.88666}}, [{"run": "m", "val_accuracy": 1 / 3}]]
        left = iter(found)
        stage_process.run_child = lambda command, env: (open(command[-1], "w").write(json.dumps(next(left))) and 0, "")
        print(json.dumps([stage_process.run_stage("evaluate", context)["metrics"],
                          experiment_steps.run_experiment("train", context)]))
    """
    assert json.loads(python(code, environment).stdout.splitlines()[-1]) == [
        {"val_accuracy": 0.278846, "reload_difference": 3.33067e-16, "num_images": 12345678, "public_score": 0.88666},
        [{"run": "m", "val_accuracy": 0.333333}]]


def test_a_stage_that_waits_for_a_time_is_run_again_at_that_time(environment: dict[str, str]) -> None:
    code = """
        from carclf_airflow import stage_process, json
        from types import SimpleNamespace as N
        from airflow.sdk.exceptions import AirflowRescheduleException
        context = {"dag_run": N(run_id="r"), "params": {}}
        for until in ("2026-11-26T00:05:00+00:00", ""):
            result = {"waiting": True, "until": until}
            stage_process.run_child = lambda command, env: (open(command[-1], "w").write(json.dumps(result)) and 75, "")
            try:
                print(stage_process.poke_stage("submit", context).is_done)
            except AirflowRescheduleException as waiting:
                print(waiting.reschedule_date.isoformat())
    """
    assert python(code, environment).stdout.splitlines()[-2:] == ["2026-11-26T00:05:00+00:00", "False"]


def test_a_passing_fault_has_the_status_of_waiting_and_is_still_an_error(environment: dict[str, str]) -> None:
    code = """
        from carclf_airflow import stage_process
        from types import SimpleNamespace as N
        from airflow.sdk.exceptions import AirflowException
        context = {"dag_run": N(run_id="r"), "params": {}, "ti": N(xcom_push=lambda key, value: print(key, value))}
        stage_process.run_child = lambda command, env: (75, "ServiceError: away")
        try:
            stage_process.poke_stage("submit", context)
        except AirflowException as error:
            print(error)
    """
    assert python(code, environment).stdout.splitlines()[-2:] == [
        "error ServiceError: away", "submit ended with status 75; it is tried again"]


TOLD = """
    import json, os, sys
    from types import SimpleNamespace as N
    from carclf_airflow import notifications
    for target, state, xcoms in json.loads(sys.argv[1]):
        os.environ["CARCLF_NOTIFICATION_URL"] = target
        ti = N(xcom_pull=lambda task_ids, key="return_value": xcoms.get(f"{task_ids} {key}"))
        try:
            notifications.callbacks()[f"on_{state}_callback"](
                {"run_id": "manual__1", "ti": ti, "dag": None, "reason": "task_failure"})
            print("told")
        except Exception as error:
            print(error)
"""


def test_the_end_of_a_run_is_told_in_its_own_words_to_a_url_or_by_airflows_mail(
    environment: dict[str, str], inbox: Inbox, mailbox: Mailbox
) -> None:
    reason = "awaiting approval: promoted: {{ all }} <rules> hold"
    waited = {"decision": "awaiting approval", "threshold": 0.9, "p_value": 0.01234567,
              "reason": f"{reason}. To go on: carclf promote --run r --approved-by NAME"}
    rejected = {"promote return_value": {"waiting": True, "metrics": waited},
                "approval.ask answer": "rejected by admin: nothing is promoted or submitted"}
    refused = {"promote return_value": {"metrics": {"decision": "rejected", "reason": "rejected: weak"}}}
    scored = {"promote return_value": {"metrics": {"decision": "promoted", "reason": "promoted: all rules hold"}},
              "score return_value": {"metrics": {"ref": 7, "public_score": 0.9, "rank": 2, "warning": ""}}}
    connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": mailbox.port,
                  "extra": {"disable_ssl": True, "disable_tls": True, "from_email": "airflow@cars"}}
    cases = [
        (inbox.url, "success", scored), (inbox.url, "success", rejected), (inbox.url, "success", refused),
        (inbox.url, "failure", refused | {"submit error": "ServiceError: away"}),
        ("mailto:me@cars", "success", rejected),
        (f"{inbox.url}/refuse/secret", "success", refused), ("http://127.0.0.1:9/secret", "success", refused),
    ]
    base = "http://127.0.0.1:8080"
    airflow = {"AIRFLOW_CONN_SMTP_DEFAULT": json.dumps(connection), "AIRFLOW__API__BASE_URL": f"{base}/"}
    done = python(TOLD, environment | airflow, json.dumps(cases))
    # What is raised is logged by Airflow, without the address, and harms nothing.
    assert [line for line in done.stdout.splitlines() if line[:4] in ("told", "127.")] == [
        *["told"] * 5, "127.0.0.1 answered 500", "127.0.0.1: ConnectionError"
    ], done.stderr[-2000:]
    assert "secret" not in done.stdout + done.stderr
    first, *others = inbox.take()
    link = f"{base}/dags/car_retrain/runs/manual__1"
    assert first == {
        "text": f"car_retrain manual__1: promoted: all rules hold (public score 0.9, rank 2) {link}",
        "dag": "car_retrain", "run": "manual__1", "state": "success", "outcome": "promoted",
        "reason": "promoted: all rules hold", "metrics": {"public_score": 0.9, "rank": 2}, "link": link,
    }
    assert [(message["outcome"], message["reason"]) for message in others][:3] == [
        ("not approved", f"rejected by admin: nothing is promoted or submitted; {reason}"),
        ("rejected", "rejected: weak"), ("failed", "submit: ServiceError: away"),
    ]
    assert others[0]["text"].endswith(f"hold (threshold 0.9, p value 0.01235) {link}")
    (mail,) = mailbox.mails
    assert (mail["To"], mail["From"], mail["Subject"]) == ("me@cars", "airflow@cars", "carclf: manual__1 not approved")
    assert "{{ all }} &lt;rules&gt; hold" in mail.get_payload(0).get_payload(decode=True).decode()


def test_run_ids_of_airflow_become_keys_of_the_store(environment: dict[str, str]) -> None:
    done = python("from carclf_airflow import stage_process; print(stage_process.run_id_from_dag_run('manual__2026-11-23T18:00:00+00:00'))", environment)
    assert done.stdout.splitlines()[-1] == "manual__2026-11-23T18-00-00-00-00"


def test_executors_and_providers_in_use_import() -> None:
    code = """
        import airflow.providers.celery.executors.celery_executor
        import airflow.providers.amazon.aws.log.s3_task_handler
        import airflow.executors.local_executor
        import airflow.providers.standard.operators.hitl
        import airflow.providers.postgres.hooks.postgres
        import airflow.providers.smtp.notifications.smtp
    """
    done = python(code, dict(os.environ))
    assert done.returncode == 0, done.stderr[-2000:]


