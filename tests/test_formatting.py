"""Text and numbers for people."""

import pytest

from carclf.formatting import format_count


@pytest.mark.parametrize(("number", "text"), [(0, "0 classes"), (1, "1 class"), (2, "2 classes")])
def test_a_count_agrees_with_its_noun(number: int, text: str) -> None:
    assert format_count(number, "class", "classes") == text


def test_a_noun_without_a_plural_gets_an_s() -> None:
    assert [format_count(number, "image") for number in (1, 3)] == ["1 image", "3 images"]
