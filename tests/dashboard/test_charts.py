"""Tests of charts: SVG without scripts and styles of its own."""

import re

from carclf.dashboard.charts import Chart, Color, axis, color_scale, layered_spec, render_svg


def bar_chart() -> Chart:
    values = [{"label": "<b>&\"", "num_images": 3}]
    layer = {"mark": "bar", "encoding": {"x": axis("num_images"), "y": {"field": "label"},
                                         "color": color_scale("label", {"<b>&\"": Color.BLUE})}}
    return Chart("bars", "Bars", layered_spec("Bars", values, [layer], 100), "one bar", ["label"], [["<b>"]])


def test_svg_uses_the_colors_of_the_page_and_escapes_text() -> None:
    svg = render_svg(bar_chart())
    assert svg.startswith("<svg ") and "var(--train)" in svg
    assert re.findall(r"<script|\sstyle=|\son\w+=|<b>|href=", svg) == []
    assert "&lt;b&gt;&amp;" in svg


def test_equal_charts_render_to_equal_svg() -> None:
    assert render_svg(bar_chart()) == render_svg(bar_chart())


def test_a_single_color_has_no_legend() -> None:
    assert color_scale("kind", {"a": Color.RED})["legend"] is None
    assert "legend" not in color_scale("kind", {"a": Color.RED, "b": Color.BLUE})
