"""A source that is one archive file, or the volumes of one."""

import hashlib
import os
import shutil
import zipfile
from pathlib import Path

from carclf.artifacts import file_sha256
from carclf.dataset.archive_members import ZIP, archive_suffix, require_all_volumes, split_volume
from carclf.errors import DataError, ServiceError
from carclf.os_errors import expand_home, raise_if_disk_full

BLOCK_BYTES = 1 << 20


class ArchiveFile:
    """A local archive. The first volume (``.zip.001``) names all volumes, which are joined.

    Raises DataError that names data.source if a file is missing, or a zip file has no directory, as after an
    interrupted copy.
    """

    def __init__(self, path: str) -> None:
        self.name = path
        self.paths = _volumes(expand_home(path, "data.source"))
        self.suffix = archive_suffix(path) or archive_suffix(path.rpartition(".")[0])
        is_zip = self.suffix == ZIP and len(self.paths) == 1
        if is_zip and os.access(self.paths[0], os.R_OK) and not zipfile.is_zipfile(self.paths[0]):
            raise DataError(f"data.source: {self.paths[0]} is not a complete zip file. Replace it by a complete copy.")

    def sha256(self) -> str:
        """Return the SHA-256 of the joined volumes. Raises DataError that names data.source if it cannot be read."""
        digest = hashlib.sha256()
        try:
            for path in self.paths:
                with path.open("rb") as file:
                    while block := file.read(BLOCK_BYTES):
                        digest.update(block)
        except OSError as error:
            raise DataError(f"data.source: cannot read {error.filename}: {error.strerror}. Set an archive that this "
                            "user can read.") from error
        return digest.hexdigest()

    def copy(self, target: Path, sha256: str) -> None:
        """Join the volumes into a file. Raises ServiceError if they have changed since the SHA-256 was computed."""
        with raise_if_disk_full(target), target.open("wb") as joined:
            for path in self.paths:
                with path.open("rb") as volume:
                    shutil.copyfileobj(volume, joined, BLOCK_BYTES)
        if file_sha256(target) != sha256:
            raise ServiceError(f"data.source: {self.name} was changed while it was read. Run download again while "
                               "nobody writes to it.")


def _volumes(path: Path) -> list[Path]:
    if not path.is_file():
        raise DataError(f"data.source: the file {path} is missing. Set an archive that this machine can read.")
    if (volume := split_volume(path.name)) is None:
        return [path]
    parts = ((split_volume(other.name), other) for other in path.parent.iterdir())
    volumes = {part[1]: other for part, other in parts if part and part[0] == volume[0]}
    try:
        require_all_volumes(volume[0], volumes)
    except DataError as error:
        raise DataError(f"data.source: {error}") from error
    return [volumes[number] for number in sorted(volumes)]
