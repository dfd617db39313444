"""Tests of the style sheet: contrast in both themes."""

import re

import pytest

from carclf.dashboard.templates import style_sheet

Rgb = list[float]


def channels(color: str) -> Rgb:
    digits = color.removeprefix("#")
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    return [int(digits[start : start + 2], 16) for start in (0, 2, 4)]


def luminance(rgb: Rgb) -> float:
    """The relative luminance of WCAG 2."""
    fractions = [value / 255 for value in rgb]
    linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in fractions]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_of_the_confusion_matrix_is_readable_on_every_shade(theme: str) -> None:
    style = style_sheet()
    rule = re.search(rf'\[data-theme="{theme}"\] {{(.*?)}}', style, re.DOTALL)
    assert rule is not None
    colors = {name: channels(color) for name, color in re.findall(r"--(\w+): (#\w+)", rule[1])}
    percents = [int(percent) for percent in re.findall(r"\.shade\d {[^}]*--shade: (\d+)%", style)]
    backgrounds = re.findall(r"\.matrix \.\w+ {[^}]*var\(--(\w+)\) var\(--shade, 0%\), var\(--card\)", style)
    assert (len(percents), sorted(backgrounds)) == (9, ["bad", "good"])
    for name in backgrounds:
        for percent in percents:
            mixed = [(percent * color + (100 - percent) * card) / 100
                     for color, card in zip(colors[name], colors["card"], strict=True)]
            dark, light = sorted([luminance(mixed), luminance(colors["text"])])
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, percent)
