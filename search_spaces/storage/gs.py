"""Google Cloud Storage, `gs://bucket/path`."""

from __future__ import annotations

from search_spaces.storage.bucket import ObjectStore
from search_spaces.storage.object_storage import ObjectBackend

BACKEND = ObjectBackend(
    ObjectStore(
        scheme="gs",
        bucket="BUCKET",
        bucket_name="[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]",
        client="GCSStore",
        variables="GOOGLE_",
        endpoints=("GOOGLE_BASE_URL",),
    )
)
check_root, open_root, open_storage = BACKEND.check_root, BACKEND.open_root, BACKEND.open_storage
