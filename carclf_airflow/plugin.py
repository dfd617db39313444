"""The pages "Car runs" inside Airflow's UI: in the navigation, as a tab of the DAG run, as a link of each task.

Airflow finds the plugin by the entry point ``airflow.plugins`` and imports it in each of its processes. So this module
imports nothing heavy; the first request imports ``routes``, and only the api-server gets requests.
"""

from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin
from airflow.sdk import BaseOperatorLink

from carclf_airflow.ids import EXPERIMENTS_DAG, RETRAIN_DAG

NAME = "Car runs"  # a longer label is cut off in the navigation
ROUTE = "car-classifier"  # of the page in Airflow's UI: /plugin/car-classifier
URL_PREFIX = "/carclf"  # of the app's routes
# The section of the report for each task; the other tasks link to the stages.
REPORT_SECTIONS = {"validate": "data", "split": "data", "train_head": "training", "fine_tune": "training",
                   "evaluate": "evaluation", "promote": "gate", "request_approval": "gate", "refit": "training"}


def _base_path() -> str:
    """Return the path under which Airflow is served; "" at the root of its host."""
    return urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/")


class LazyApp:
    """An ASGI app that creates the real app at the first request."""

    def __init__(self) -> None:
        self.app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request to the real app."""
        if self.app is None:
            from carclf_airflow.routes import create_app

            self.app = create_app()
        await self.app(scope, receive, send)


class ReportLink(BaseOperatorLink):  # type: ignore[misc]  # Airflow is not type-checked here
    """A link from a task to its section of the run's report."""

    name = "Report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the URL inside Airflow's UI; "" for a task of another DAG."""
        if ti_key.dag_id not in (RETRAIN_DAG, EXPERIMENTS_DAG):
            return ""
        run = f"dag_id={ti_key.dag_id}&run_id={quote(ti_key.run_id, safe='')}"
        page = f"{_base_path()}/plugin/{ROUTE}{URL_PREFIX}/dag-run?{run}"
        if ti_key.dag_id == EXPERIMENTS_DAG:  # an experiment's page has no sections
            return page
        return f"{page}#{REPORT_SECTIONS.get(ti_key.task_id, 'stages')}"


ICONS = {"icon": f"{_base_path()}{URL_PREFIX}/static/icon.svg",
         "icon_dark_mode": f"{_base_path()}{URL_PREFIX}/static/icon-dark.svg"}


class CarclfPlugin(AirflowPlugin):  # type: ignore[misc]  # Airflow is not type-checked here
    """The pages and links that carclf adds to Airflow's UI."""

    name = "carclf"
    fastapi_apps: ClassVar = [{"name": NAME, "app": LazyApp(), "url_prefix": URL_PREFIX}]
    external_views: ClassVar = [
        {"name": NAME, "href": f"{_base_path()}{URL_PREFIX}/", "destination": "nav", "url_route": ROUTE,
         "nav_top_level": True, **ICONS},
        {"name": "Report", "href": f"{_base_path()}{URL_PREFIX}/dag-run?dag_id={{DAG_ID}}&run_id={{RUN_ID}}",
         "destination": "dag_run", "url_route": "car-classifier-report", **ICONS},
    ]
    global_operator_extra_links: ClassVar = [ReportLink()]
