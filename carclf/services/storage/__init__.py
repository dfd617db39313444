"""Storage of artifacts: a folder or an S3 bucket behind the protocol ``Store``."""

from carclf.services.storage.copy import CopyResult, copy_store
from carclf.services.storage.folder import FolderStore
from carclf.services.storage.open import format_command, open_store
from carclf.services.storage.protocol import Store, VersionedObject
from carclf.services.storage.s3 import S3Store
from carclf.services.storage.update import MAX_UPDATE_ATTEMPTS, update_object

__all__ = [
    "MAX_UPDATE_ATTEMPTS", "CopyResult", "FolderStore", "S3Store", "Store", "VersionedObject", "copy_store",
    "format_command", "open_store", "update_object",
]
