"""Storage of artifacts: a folder or an S3 bucket behind the protocol ``Store``."""

from carclf.services.storage.copy import CopyResult, copy_store
from carclf.services.storage.folder import FolderStore
from carclf.services.storage.marker import init_store, require_marker, require_store
from carclf.services.storage.open import format_command, open_store
from carclf.services.storage.parsing import parse_object
from carclf.services.storage.protocol import Store, VersionedObject, validate_key
from carclf.services.storage.s3 import S3Store
from carclf.services.storage.update import update_object

__all__ = [
    "CopyResult", "FolderStore", "S3Store", "Store", "VersionedObject", "copy_store", "format_command", "init_store",
    "open_store", "parse_object", "require_marker", "require_store", "update_object", "validate_key",
]
