"""The pages "Car classifier" inside Airflow's UI: in the navigation, as a tab of the DAG run, by a link of each task.

Plugins are imported by every process of Airflow: what serves the pages (``routes``) is imported by the first
request, and so only in the api-server.
"""

from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin
from airflow.sdk import BaseOperatorLink

NAME = "Car classifier"
ROUTE = "car-classifier"  # of the page in Airflow's UI: /plugin/car-classifier
PREFIX = "/carclf"  # of what is served here
DAGS = ("car_retrain", "car_experiments")
PARTS = {"validate": "data", "split": "data", "train_head": "training", "fine_tune": "training",
         "evaluate": "evaluation", "promote": "gate", "ask": "gate"}  # of the report; other tasks' part is the stages


def _base() -> str:
    """The path under which Airflow itself is served: "" at the top of its host."""
    return urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/")


class LazyApp:
    """An ASGI app that makes the real one when it is asked for the first time."""

    def __init__(self) -> None:
        self.app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on."""
        if self.app is None:
            from carclf_airflow.routes import create_app

            self.app = create_app()
        await self.app(scope, receive, send)


class ReportLink(BaseOperatorLink):
    """From a task to its part of the run's report; other DAGs' tasks have none."""

    name = "Report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The address inside Airflow's UI; "" where there is none."""
        if ti_key.dag_id not in DAGS:
            return ""
        page = f"{_base()}/plugin/{ROUTE}{PREFIX}/dag-run?dag_id={ti_key.dag_id}&run_id={quote(ti_key.run_id, safe='')}"
        if ti_key.dag_id != DAGS[0]:  # an experiment's page has no parts of its tasks
            return page
        return f"{page}#{PARTS.get(ti_key.task_id.rpartition('.')[2], 'stages')}"  # approval.promote is promote


ICONS = {"icon": f"{_base()}{PREFIX}/static/icon.svg", "icon_dark_mode": f"{_base()}{PREFIX}/static/icon-dark.svg"}


class CarclfPlugin(AirflowPlugin):
    """What Airflow finds here."""

    name = "carclf"
    fastapi_apps: ClassVar = [{"name": NAME, "app": LazyApp(), "url_prefix": PREFIX}]
    external_views: ClassVar = [
        {"name": NAME, "href": f"{_base()}{PREFIX}/", "destination": "nav", "url_route": ROUTE, "nav_top_level": True,
         **ICONS},
        {"name": "Report", "href": f"{_base()}{PREFIX}/dag-run?dag_id={{DAG_ID}}&run_id={{RUN_ID}}",
         "destination": "dag_run", "url_route": "car-classifier-report", **ICONS},
    ]
    global_operator_extra_links: ClassVar = [ReportLink()]
