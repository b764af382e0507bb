"""Google Cloud Storage server: what obstore asks of the XML API, as Google documents it, in this process.

No emulator that can be installed has conditional writes and lists in that API. What is here follows the documentation:
generations, `x-goog-if-generation-match`, lists of the second version, copies, ranges, multipart uploads, and errors.
Who is allowed to do what, versions, and limits of the rate are not.
"""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

BUCKET = "rung_tests"  # `_` is allowed here only
TOKEN = "tests"
PAGE = 1000  # objects of a list
LEAST_PART_BYTES = 5 * 2**20  # but the last


@dataclass
class Stored:
    content: bytes
    generation: int
    etag: str
    changed: float = field(default_factory=time.time)


@dataclass
class Bucket:
    """The generations count all changes, so that none is used twice."""

    objects: dict[str, Stored] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    generation: int = 1_700_000_000_000_000
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, key: str, content: bytes, etag: str = "") -> Stored:
        self.generation += 1
        found = Stored(content, self.generation, etag or f'"{hashlib.md5(content).hexdigest()}"')
        self.objects[key] = found
        return found


class RefusedError(Exception):
    def __init__(self, status: int, code: str) -> None:
        self.status, self.code = status, code


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    bucket: Bucket

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 - the names of the base class

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        split = urlsplit(self.path)
        name, _, key = split.path.removeprefix("/").partition("/")
        query = dict(parse_qsl(split.query, keep_blank_values=True))
        try:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise RefusedError(401, "AuthenticationRequired")
            if unquote(name) != BUCKET:
                raise RefusedError(404, "NoSuchBucket")
            with self.bucket.lock:
                self._serve(unquote(key), query, body)
        except RefusedError as refused:
            self._send(refused.status, f"<Error><Code>{refused.code}</Code></Error>".encode())

    def _serve(self, key: str, query: Mapping[str, str], body: bytes) -> None:
        match self.command:
            case "GET" if not key:
                self._send(200, self._listed(query))
            case "GET" | "HEAD":
                self._get(key, query.get("generation"))
            case "PUT" if "uploadId" in query:
                self._upload(query)[int(query["partNumber"])] = body
                self._send(200, headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})
            case "PUT":
                self._put(key, body)
            case "POST" if "uploads" in query:
                upload = uuid.uuid4().hex
                self.bucket.uploads[upload] = {}
                self._send(200, _xml("InitiateMultipartUploadResult", UploadId=upload))
            case "POST":
                self._complete(key, query, body)
            case "DELETE" if "uploadId" in query:
                self._upload(query)
                del self.bucket.uploads[query["uploadId"]]
                self._send(204)
            case "DELETE":
                self._found(key)
                del self.bucket.objects[key]
                self._send(204)

    def _get(self, key: str, generation: str | None) -> None:
        found = self._found(key)
        if generation not in (None, str(found.generation)):
            raise RefusedError(404, "NoSuchKey")
        if self.headers.get("If-Match") not in (None, "*", found.etag):
            raise RefusedError(412, "PreconditionFailed")
        headers = {"Last-Modified": formatdate(found.changed, usegmt=True), **_identity(found)}
        content, size = found.content, len(found.content)
        if not (asked := self.headers.get("Range")):
            return self._send(200, content, headers)
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, size - int(last))
        end = min(size, int(last) + 1) if first and last else size
        if start >= size:
            raise RefusedError(416, "InvalidRange")
        return self._send(206, content[start:end], {**headers, "Content-Range": f"bytes {start}-{end - 1}/{size}"})

    def _put(self, key: str, body: bytes) -> None:
        self._check_generation(key)
        if not (source := self.headers.get("x-goog-copy-source")):
            return self._send(200, headers=_identity(self.bucket.put(key, body)))
        name, _, copied = unquote(source).removeprefix("/").partition("/")
        if name != BUCKET:
            raise RefusedError(404, "NoSuchBucket")
        found = self.bucket.put(key, self._found(copied).content)
        return self._send(200, _xml("CopyObjectResult", ETag=found.etag), _identity(found))

    def _complete(self, key: str, query: Mapping[str, str], body: bytes) -> None:
        parts = self._upload(query)
        named = [int(one.text or "") for one in ElementTree.fromstring(body).iter() if one.tag.endswith("PartNumber")]
        if named != sorted(named) or not parts.keys() >= set(named):
            raise RefusedError(400, "InvalidPart")
        if any(len(parts[number]) < LEAST_PART_BYTES for number in named[:-1]):
            raise RefusedError(400, "EntityTooSmall")
        del self.bucket.uploads[query["uploadId"]]
        content = b"".join(parts[number] for number in named)
        found = self.bucket.put(key, content, f'"{uuid.uuid4().hex}-{len(named)}"')
        self._send(200, _xml("CompleteMultipartUploadResult", ETag=found.etag), _identity(found))

    def _listed(self, query: Mapping[str, str]) -> bytes:
        after = query.get("continuation-token") or query.get("start-after", "")
        prefix, most = query.get("prefix", ""), int(query.get("max-keys", PAGE))
        keys = sorted(key for key in self.bucket.objects if key.startswith(prefix) and key > after)
        contents = "".join(
            _xml(
                "Contents",
                Key=key,
                Generation=found.generation,
                LastModified=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(found.changed)),
                ETag=found.etag,
                Size=len(found.content),
            ).decode()
            for key in keys[:most]
            for found in [self.bucket.objects[key]]
        )
        more = f"<NextContinuationToken>{escape(keys[most - 1])}</NextContinuationToken>" if len(keys) > most else ""
        truncated = f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>"
        return f"<ListBucketResult>{truncated}{contents}{more}</ListBucketResult>".encode()

    def _check_generation(self, key: str) -> None:
        """0: there must be no object; else it must have this generation."""
        wanted = self.headers.get("x-goog-if-generation-match")
        present = self.bucket.objects.get(key)
        if wanted is not None and int(wanted) != (present.generation if present else 0):
            raise RefusedError(412, "PreconditionFailed")

    def _found(self, key: str) -> Stored:
        if key not in self.bucket.objects:
            raise RefusedError(404, "NoSuchKey")
        return self.bucket.objects[key]

    def _upload(self, query: Mapping[str, str]) -> dict[int, bytes]:
        if query.get("uploadId") not in self.bucket.uploads:
            raise RefusedError(404, "NoSuchUpload")
        return self.bucket.uploads[query["uploadId"]]

    def _send(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _identity(found: Stored) -> dict[str, str]:
    return {"ETag": found.etag, "x-goog-generation": str(found.generation)}


def _xml(tag: str, **fields: object) -> bytes:
    content = "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in fields.items())
    return f"<{tag}>{content}</{tag}>".encode()


@contextmanager
def running_gcs() -> Iterator[Mapping[str, str]]:
    """A server with an empty bucket BUCKET. Yields the environment variables by which clients reach it."""
    handler = type("BucketHandler", (Handler,), {"bucket": Bucket()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield {
                "GOOGLE_BASE_URL": f"http://127.0.0.1:{server.server_address[1]}",
                "GOOGLE_BEARER_TOKEN": TOKEN,
            }
        finally:
            server.shutdown()
