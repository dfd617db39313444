"""Format text and numbers for logs, terminals and pages."""

import math
from collections.abc import Iterable, Mapping

ELLIPSIS = "…"
MAX_CLASS_NAME = 60  # characters


def printable(text: str) -> str:
    """Return the text with control characters, line ends and invalid characters escaped, so that it stays one line."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def is_visible(text: str) -> bool:
    """Return whether the text has a character that is neither a space nor invisible."""
    return any(character.isprintable() and not character.isspace() for character in text)


def truncate(text: str, max_length: int) -> str:
    """Return the text, or its beginning and an ellipsis, in at most ``max_length`` characters."""
    return text if len(text) <= max_length else text[: max_length - 1] + ELLIPSIS


def shorten(text: str, max_length: int = MAX_CLASS_NAME) -> str:
    """Return the text on one line, or its beginning and end around an ellipsis: long names often differ at the end."""
    text = printable(text)
    tail = max_length // 3
    return text if len(text) <= max_length else text[: max_length - 1 - tail] + ELLIPSIS + text[-tail:]


def format_value(value: object) -> str:
    """Format a metric for people: numbers with four digits, None as an empty string."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def format_count(number: int, singular: str, plural: str = "") -> str:
    """Return a number with its noun: 1 image, 2 images. ``plural`` is needed for other endings and with a verb."""
    return f"{number} {singular if number == 1 else plural or f'{singular}s'}"


def format_list(items: Iterable[str], max_items: int = 5) -> str:
    """Return the first items with commas, and the number of the others: a, b and 3 more."""
    names = list(items)
    more = f" and {len(names) - max_items} more" if len(names) > max_items else ""
    return ", ".join(names[:max_items]) + more


def format_pairs(values: Mapping[str, object]) -> str:
    """Return ``name=value`` pairs for a log line; text with spaces is quoted."""
    texts = {name: format_value(value) for name, value in values.items()}
    return " ".join(f'{name}="{text}"' if " " in text else f"{name}={text}" for name, text in texts.items())


def finite_number(value: object) -> float | None:
    """Return the value if it is a finite number, else None. Booleans are not numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
