"""The pages "Car classifier": served by the api-server alone, from the store, to those who are logged in."""

import pytest
import requests
from cluster import Cluster, inspect, service_of

from carclf.runs.record import run_id_from_dag_run

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]


def test_the_pages_answer_those_who_are_logged_in_and_nobody_else(cluster: Cluster, finished_run: str) -> None:
    run = run_id_from_dag_run(finished_run)
    paths = ["", f"runs/{run}", f"runs/{run}/report.html", "data/runs", "static/icon.svg", "nothing"]
    addresses = [f"{cluster.url}/carclf/{path}" for path in paths]
    strangers = ({}, {"Cookie": "_token=nonsense"})
    assert [[requests.get(one, headers=headers, timeout=60).status_code for one in addresses] for headers in strangers
            ] == [[401] * 6, [403] * 6]
    cookie = {"_token": cluster.session.headers["Authorization"].removeprefix("Bearer ")}
    answers = [requests.get(one, cookies=cookie, timeout=60) for one in addresses]
    assert [answer.status_code for answer in answers] == [200] * 5 + [404]
    assert "Car classifier" in answers[0].text and run in answers[1].text
    (row,) = [row for row in answers[3].json()["rows"] if row["run"] == run]
    assert (row["state"], row["decision"], row["recipe"]) == ("done", "promoted", "demo")


def test_only_the_api_server_has_the_pages(cluster: Cluster) -> None:
    has = {service_of(found) for found in cluster.containers()
           if "AIRFLOW__CORE__PLUGINS_FOLDER=/opt/carclf/plugins" in inspect(found)["Config"]["Env"]}
    assert has == {"api-server"}
    (plugin,) = cluster.call("GET", "plugins")["plugins"]
    assert (plugin["name"], [view["name"] for view in plugin["external_views"]]) == (
        "carclf", ["Car classifier", "Report"])
