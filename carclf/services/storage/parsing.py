"""JSON objects of the store as typed values."""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from carclf.errors import DataError

T = TypeVar("T")
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def parse_object(kind: type[T], data: bytes, path: str, fix: str) -> T:
    """Return a JSON object as a pydantic model or a TypedDict; types are not converted.

    Raise DataError with the path of the object, the first problem and the fix.
    """
    try:
        parsed: T = _adapter(kind).validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise DataError(f"{path} is damaged: {field}{field and ': '}{first['msg']}. {fix}") from error
    return parsed
