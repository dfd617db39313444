"""The pages "Car runs" in the cluster."""

import pytest
import requests
from cluster import Cluster

from carclf.runs.record import run_id_from_dag_run

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]


def test_the_pages_require_a_login(cluster: Cluster, finished_run: str) -> None:
    run_id = run_id_from_dag_run(finished_run)
    paths = ["", f"runs/{run_id}", f"runs/{run_id}/report.html", "data/runs", "static/icon.svg", "nothing"]
    urls = [f"{cluster.url}/carclf/{path}" for path in paths]
    for headers, status in (({}, 401), ({"Cookie": "_token=nonsense"}, 403)):
        assert [requests.get(url, headers=headers, timeout=60).status_code for url in urls] == [status] * 6
    cookie = {"_token": cluster.session.headers["Authorization"].removeprefix("Bearer ")}
    responses = [requests.get(url, cookies=cookie, timeout=60) for url in urls]
    assert [response.status_code for response in responses] == [200] * 5 + [404]
    assert "Car classifier" in responses[0].text
    assert run_id in responses[1].text
    (row,) = [row for row in responses[3].json()["rows"] if row["run"] == run_id]
    assert (row["state"], row["decision"], row["recipe"]) == ("done", "promoted", "demo")


def test_the_images_contain_the_plugin_as_an_entry_point(cluster: Cluster) -> None:
    plugins = {plugin["name"]: plugin for plugin in cluster.call("GET", "plugins")["plugins"]}  # also a provider's
    assert [view["name"] for view in plugins["carclf"]["external_views"]] == ["Car runs", "Report"]
