"""Render the templates of the pages and of the self-contained report. All values except Markup are escaped."""

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

import jinja2
from markupsafe import Markup

from carclf.dashboard.charts import render_svg
from carclf.formatting import format_value
from carclf.reports.render import FOLDER as SHARED_FOLDER
from carclf.reports.render import MAX_CLASSES, MAX_ROWS, create_environment, embedded_style

FOLDER = Path(__file__).parent
LIMITS = {"max_rows": MAX_ROWS, "max_classes": MAX_CLASSES}


def render_page(template: str, root: str, **values: object) -> str:
    """Render a page of Airflow's UI. It loads its script and style sheet from URLs under ``root``."""
    return _environment().get_template(template).render(
        layout="site.html", root=root, draw=None, asset_version=asset_version(), **LIMITS, **values
    )


def render_self_contained(template: str, **values: object) -> str:
    """Render a page as a single file with charts as SVG. It needs neither scripts nor network access."""
    return _environment().get_template(template).render(
        layout="page.html", root=None, draw=lambda chart: Markup(render_svg(chart)), **embedded_style(style_sheet()),
        **LIMITS, **values,
    )


def style_sheet() -> str:
    """Return the style sheet of all pages."""
    return (SHARED_FOLDER / "page.css").read_text() + (FOLDER / "site.css").read_text()


@cache
def script() -> str:
    """Return the script of the pages."""
    return (FOLDER / "site.js").read_text()


@cache
def vega_bundle() -> str:
    """Return Vega-Lite and vega-embed as JavaScript, from the installed package."""
    import vl_convert

    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


@cache
def asset_version() -> str:
    """Return a hash of the scripts and the style sheet. As part of their URLs it lets browsers cache them."""
    text = script() + style_sheet() + version("vl-convert-python")
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _format_time(text: str | None) -> str:
    """Format an ISO 8601 time without fractions of seconds and time zone."""
    return str(text or "").replace("T", " ").split("+")[0].split(".")[0]


@cache
def _environment() -> jinja2.Environment:
    environment = create_environment(FOLDER, SHARED_FOLDER)
    environment.filters |= {"number": format_value, "time": _format_time}
    return environment
