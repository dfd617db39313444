"""Templates of the pages and of the self-contained report: what is not Markup is escaped."""

import base64
import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from carclf import reports
from carclf.dashboard.charts import Chart, render_svg
from carclf.formatting import format_value
from carclf.reports.evaluation_report import MAX_CONFUSION_CLASSES
from carclf.reports.render import MAX_ROWS

HERE = Path(__file__).parent
SHARED = Path(reports.__file__).parent  # page.html and page.css, of which all pages of carclf are


def render_page(template: str, root: str, **values: object) -> str:
    """A page inside Airflow's UI, which loads script and style from ``root``."""
    return _environment().get_template(template).render(
        layout="site.html", root=root, draw=None, release=release(), **_common(), **values
    )


def render_self_contained(template: str, **values: object) -> str:
    """A page that is one file: its charts are SVG, and it needs no script and no network."""
    style = style_sheet()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return _environment().get_template(template).render(
        layout="page.html", root=None, draw=_drawn, style=Markup(style), style_hash=digest, **_common(), **values
    )


def style_sheet() -> str:
    """The style of all pages."""
    return (SHARED / "page.css").read_text() + (HERE / "site.css").read_text()


@cache
def script() -> str:
    """The pages' own script."""
    return (HERE / "site.js").read_text()


@cache
def vega() -> str:
    """Vega-Lite with what embeds it, from the package: no network is needed."""
    import vl_convert

    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


@cache
def release() -> str:
    """What changes where script or style do: a browser may keep them as long as it is the same."""
    text = script() + style_sheet() + version("vl-convert-python")
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _common() -> dict[str, Any]:
    return {"max_rows": MAX_ROWS, "max_confusion": MAX_CONFUSION_CLASSES}


def _drawn(chart: Chart) -> Markup:
    return Markup(render_svg(chart))


def _moment(text: str | None) -> str:
    """A time in ISO format as a person reads it."""
    return str(text or "").replace("T", " ").split("+")[0].split(".")[0]


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True, loader=jinja2.FileSystemLoader([HERE, SHARED]), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )
    environment.filters |= {"short": format_value, "moment": _moment}
    return environment
