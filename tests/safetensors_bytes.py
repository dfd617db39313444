"""Write safetensors files for tests, without the library."""

import json
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

DTYPES = {"float32": "F32", "float16": "F16", "int64": "I64"}


def pack_safetensors(tensors: Mapping[str, np.ndarray[Any, Any]], bfloat16: Collection[str] = ()) -> bytes:
    """Return the content of a file. The names in ``bfloat16`` are those of float32 arrays, stored as bfloat16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in tensors.items():
        content = (array.view(np.uint32) >> 16).astype("<u2") if name in bfloat16 else array
        dtype = "BF16" if name in bfloat16 else DTYPES[array.dtype.name]
        offsets = [len(data), len(data) + content.nbytes]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        data += content.tobytes()
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data
