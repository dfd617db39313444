"""Charts as Vega-Lite specifications. The pages draw them in the browser, the self-contained report as SVG.

Colors are CSS variables of the page, so that a chart follows the light and the dark theme. Each chart comes with a
sentence that summarizes it and a table of its values, for people who cannot see it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"  # an identifier; it is never fetched
SVG_WIDTH = 560  # pixels
DATASET = "points"  # site.js updates the dataset of this name
CLIP_PATH_ID = re.compile(r"(?<=#)clip\d+|(?<=id=\")clip\d+")
Spec = dict[str, Any]
Values = list[dict[str, Any]]


class Color:
    """The CSS variables that charts use."""

    BLUE = "var(--train)"
    ORANGE = "var(--test)"
    RED = "var(--bad)"
    GREEN = "var(--good)"
    MUTED = "var(--muted)"
    LINE = "var(--line)"
    TEXT = "var(--text)"


CONFIG: Spec = {
    "background": "transparent", "font": "system-ui, sans-serif", "view": {"stroke": None},
    "axis": {"labelColor": Color.MUTED, "titleColor": Color.MUTED, "gridColor": Color.LINE, "gridOpacity": 0.6,
             "domainColor": Color.LINE, "tickColor": Color.LINE, "titleFontWeight": "normal", "labelFontSize": 12,
             "titleFontSize": 12, "labelOverlap": True},
    "legend": {"labelColor": Color.TEXT, "orient": "top", "title": None, "labelFontSize": 12, "symbolStrokeWidth": 3},
}


@dataclass(frozen=True)
class Chart:
    """A drawing, a summary of it, and its values as a table whose first column holds the row headers."""

    name: str
    title: str
    spec: Spec
    summary: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def values(self) -> Values:
        """The points that the chart draws."""
        return list(self.spec["data"]["values"])


def render_svg(chart: Chart) -> str:
    """Return the chart as SVG without scripts, in the colors of the surrounding page."""
    import vl_convert

    svg = str(vl_convert.vegalite_to_svg(chart.spec | {"width": SVG_WIDTH}, allowed_base_urls=[]))
    # vl_convert numbers clip paths across calls. Renumber them, so that equal charts give equal text.
    ids = {name: f"{chart.name}-{index}" for index, name in enumerate(dict.fromkeys(CLIP_PATH_ID.findall(svg)))}
    return CLIP_PATH_ID.sub(lambda match: ids[match[0]], svg)


def layered_spec(title: str, values: Values, layers: Sequence[Spec], height: int | Spec) -> Spec:
    """Return a specification that is as wide as its container; ``height`` is in pixels or per step of a scale."""
    return {
        "$schema": SCHEMA, "description": title, "width": "container", "height": height, "config": CONFIG,
        "data": {"name": DATASET, "values": values}, "layer": list(layers),
        "autosize": {"type": "fit-x" if isinstance(height, dict) else "fit", "contains": "padding"},
    }


def axis(field: str, title: str | None = None, **options: Any) -> Spec:
    """Return a quantitative axis that does not have to include 0."""
    return {"field": field, "type": "quantitative", "title": title, "scale": {"zero": False}} | options


def color_scale(field: str, colors: Mapping[str, str]) -> Spec:
    """Return the color of each value of the field. There is no legend for a single value."""
    scale = {"domain": list(colors), "range": list(colors.values())}
    return {"field": field, "type": "nominal", "scale": scale} | ({} if len(colors) > 1 else {"legend": None})


def tooltip(form: str, *fields: str) -> list[Spec]:
    """Return the tooltip lines of fields that are shown with the same number format."""
    return [{"field": field, "format": form} for field in fields]


def format_cell(value: float | None, form: str) -> str:
    """Format a number for a table; "" for None."""
    return "" if value is None else format(value, form)
