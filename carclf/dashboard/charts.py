"""Charts as Vega-Lite specifications: the pages draw them by a script, the self-contained report as SVG.

Colours are the page's CSS variables, so that one chart serves light and dark. Each chart has a sentence that says what
it shows and a table of its values, for whoever does not see it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"  # a name; nothing is fetched
WIDTH = 560  # of a chart that is no page's, in pixels
DATA = "shown"  # the name under which a page changes a chart's values
BLUE, ORANGE, RED, GREEN, MUTED, LINE = (f"var(--{name})" for name in ("train", "test", "bad", "good", "muted", "line"))
CLIP = re.compile(r"(?<=#)clip\d+|(?<=id=\")clip\d+")
Spec = dict[str, Any]
Values = list[dict[str, Any]]
CONFIG: Spec = {
    "background": "transparent", "font": "system-ui, sans-serif", "view": {"stroke": None},
    "axis": {"labelColor": MUTED, "titleColor": MUTED, "gridColor": LINE, "gridOpacity": 0.6, "domainColor": LINE,
             "tickColor": LINE, "titleFontWeight": "normal", "labelFontSize": 12, "titleFontSize": 12,
             "labelOverlap": True},
    "legend": {"labelColor": "var(--text)", "orient": "top", "title": None, "labelFontSize": 12,
               "symbolStrokeWidth": 3},
}


@dataclass(frozen=True)
class Chart:
    """What is drawn, and the same in words: a sentence and a table, of which the first column names the rows."""

    name: str
    title: str
    spec: Spec
    summary: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def values(self) -> Values:
        """What of the chart changes while a training runs."""
        return list(self.spec["data"]["values"])


def render_svg(chart: Chart) -> str:
    """The chart as SVG that needs no script; its colours are the page's."""
    import vl_convert

    drawn = str(vl_convert.vegalite_to_svg(chart.spec | {"width": WIDTH}, allowed_base_urls=[]))
    # The library counts its clipping paths on from drawing to drawing; the same chart shall be the same text.
    known = {name: f"{chart.name}-{number}" for number, name in enumerate(dict.fromkeys(CLIP.findall(drawn)))}
    return CLIP.sub(lambda found: known[found[0]], drawn)


def spec(title: str, values: Values, layers: Sequence[Spec], height: int | Spec) -> Spec:
    """A specification as wide as its place."""
    return {
        "$schema": SCHEMA, "description": title, "width": "container", "height": height, "config": CONFIG,
        "data": {"name": DATA, "values": values}, "layer": list(layers),
        "autosize": {"type": "fit-x" if isinstance(height, dict) else "fit", "contains": "padding"},
    }


def axis(field: str, title: str | None = None, **options: Any) -> Spec:
    """An axis of numbers that need not begin at 0."""
    return {"field": field, "type": "quantitative", "title": title, "scale": {"zero": False}} | options


def color_scale(field: str, kinds: Mapping[str, str]) -> Spec:
    """Which color each kind has; the legend only where there are several."""
    scale = {"domain": list(kinds), "range": list(kinds.values())}
    return {"field": field, "type": "nominal", "scale": scale} | ({} if len(kinds) > 1 else {"legend": None})


def format_number(value: float | None, form: str = ".4g") -> str:
    """A number as a table has it; "" where it is not known."""
    return "" if value is None else format(value, form)
