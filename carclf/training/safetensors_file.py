"""Read tensors from a safetensors file. It contains only numbers, so reading it cannot execute code."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from carclf.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

LENGTH_BYTES = 8  # the length of the header, little-endian
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
BFLOAT16 = "BF16"  # NumPy has no such type
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", BFLOAT16: "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2",
          "I8": "i1", "U8": "u1", "BOOL": "?"}
EXPECTED = "Expected a safetensors file. Download it again, or convert the checkpoint with the safetensors library."


def read_tensors(path: Path) -> "dict[str, np.ndarray[Any, Any]]":
    """Return the tensors by name. Their data is read from the file when it is used; bfloat16 becomes float32.

    Raise ConfigError if the file is truncated or does not follow the format: each tensor has the size of its shape and
    type, and the tensors fill the file without gaps or overlaps (github.com/huggingface/safetensors, "Format").
    """
    try:
        return _read_tensors(path)
    except (ValueError, OverflowError, RecursionError) as error:
        raise ConfigError(f"{path} is not a valid safetensors file: {str(error)[:300]}. {EXPECTED}") from error


def _read_tensors(path: Path) -> "dict[str, np.ndarray[Any, Any]]":
    import numpy as np

    entries, start = _read_header(path)
    size = path.stat().st_size
    data: np.ndarray[Any, Any] = np.memmap(path, np.uint8, "r")
    tensors = {}
    position = start
    for name, entry in sorted(entries.items(), key=lambda item: _offsets(*item)):
        begin, end = _offsets(name, entry)
        dtype, shape = _type_and_shape(name, entry)
        expected = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        if start + begin != position or end - begin != expected:
            raise ValueError(f"the tensor {name!r} has the offsets {begin} to {end}, expected "
                             f"{position - start} to {position - start + expected}")
        position += expected
        if position > size:
            raise ValueError(f"it is truncated: the tensor {name!r} ends at byte {position} of {size}")
        array = data[start + begin:position].view(DTYPES[dtype]).reshape(shape)
        tensors[name] = (array.astype("<u4") << 16).view("<f4") if dtype == BFLOAT16 else array
    if position != size:
        raise ValueError(f"it has {size} bytes, but its tensors end at byte {position}")
    return tensors


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the entries of the tensors, and the offset of their data in bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if not 0 < length <= min(size - LENGTH_BYTES, MAX_HEADER_BYTES):
            raise ValueError(f"its header has {length} bytes, but the file has {size}")
        header = json.loads(file.read(length).decode(), object_pairs_hook=_unique_names)
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    header.pop("__metadata__", None)
    return header, LENGTH_BYTES + length


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError("a name occurs twice in its header")
    return dict(pairs)


def _offsets(name: str, entry: Any) -> tuple[int, int]:
    offsets = entry.get("data_offsets") if isinstance(entry, Mapping) else None
    match offsets:
        case [int(), int()] if _is_sizes(offsets):
            return offsets[0], offsets[1]
    raise ValueError(f"the tensor {name!r} has the offsets {offsets!r}")


def _type_and_shape(name: str, entry: Mapping[str, Any]) -> tuple[str, list[int]]:
    dtype, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(dtype, str) or dtype not in DTYPES or not _is_sizes(shape):
        raise ValueError(f"the tensor {name!r} has the type {dtype!r} and the shape {shape!r}")
    return dtype, shape


def _is_sizes(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
