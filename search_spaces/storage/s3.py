"""S3 storage, `s3://bucket/path`: Amazon's object store, or another one with its protocol."""

from __future__ import annotations

from search_spaces.storage.bucket import ObjectStore
from search_spaces.storage.object_storage import ObjectBackend

BACKEND = ObjectBackend(
    ObjectStore(
        scheme="s3",
        bucket="BUCKET",
        bucket_name="[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
        client="S3Store",
        variables="AWS_",
        endpoints=("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"),
    )
)
check_root, open_root, open_storage = BACKEND.check_root, BACKEND.open_root, BACKEND.open_storage
