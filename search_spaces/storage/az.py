"""Azure Blob Storage, `az://container/path`. The variables of the process name the storage account."""

from __future__ import annotations

from search_spaces.storage.bucket import ObjectStore
from search_spaces.storage.object_storage import ObjectBackend

BACKEND = ObjectBackend(
    ObjectStore(
        scheme="az",
        bucket="CONTAINER",
        bucket_name="(?=[a-z0-9-]{3,63}(?:/|$))[a-z0-9]+(?:-[a-z0-9]+)*",
        client="AzureStore",
        variables="AZURE_",
        endpoints=("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
    )
)
check_root, open_root, open_storage = BACKEND.check_root, BACKEND.open_root, BACKEND.open_storage
