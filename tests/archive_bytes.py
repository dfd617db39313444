"""Archives as bytes, for tests."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from typing import Any


def zip_bytes(members: Mapping[str, bytes]) -> bytes:
    """Return a zip archive with the members; names that end in a slash are folders."""
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tar_bytes(members: Mapping[str, bytes], compression: str = "", **attributes: Any) -> bytes:
    """Return a tar archive with the members; ``attributes`` are set on each of them."""
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode=f"w:{compression}", format=tarfile.GNU_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            for attribute, value in attributes.items():
                setattr(info, attribute, value)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
