"""Objects in a bucket of S3 or of what speaks like it."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import S3Store

from services.vault.resp import ValueTooLong

CONNECT_S = 5.0
RETRIES = 3
ASKED_AT_ONCE = 8
CHUNK_BYTES = 1 << 20


class Bucket:
    """Endpoint, region and keys are those of the environment. timeout_s: of a request, and of repeating it.

    Raises obstore's BaseError, and OSError for what is not there and should be, such as the bucket.
    """

    def __init__(self, bucket: str, prefix: str, timeout_s: float) -> None:
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
        limit = timedelta(seconds=timeout_s)
        self._store = S3Store(
            bucket,
            prefix=prefix or None,
            client_options={
                "timeout": limit,
                "connect_timeout": min(limit, timedelta(seconds=CONNECT_S)),
                "allow_http": endpoint.startswith("http://"),
            },
            retry_config={"max_retries": RETRIES, "retry_timeout": limit},
        )

    def put(self, key: str, pieces: Sequence[memoryview], replace: bool) -> bool:
        """In one request, so that it is there whole or not at all.

        Asks first: it saves the upload, and some servers (rclone's) do not know conditions and would write over it.
        """
        if not replace and self._there(key):
            return False
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        try:
            obstore.put(self._store, key, data, mode="overwrite" if replace else "create", use_multipart=False)
        except AlreadyExistsError:
            return False
        return True

    def get(self, key: str) -> bytes | None:
        try:
            return obstore.get(self._store, key).bytes().to_bytes()
        except FileNotFoundError as error:
            _check_bucket(error)
            return None

    def get_into(self, key: str, into: memoryview) -> int | None:
        try:
            response = obstore.get(self._store, key)
        except FileNotFoundError as error:
            _check_bucket(error)
            return None
        if (length := response.meta["size"]) > len(into):
            raise ValueTooLong(key, length, len(into))
        done = 0
        for chunk in response.stream(min_chunk_size=CHUNK_BYTES):
            into[done : done + len(chunk)] = memoryview(chunk)
            done += len(chunk)
        return done

    def delete(self, keys: Sequence[str]) -> None:
        obstore.delete(self._store, keys)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        for chunk in obstore.list(self._store, prefix or None):
            for found in chunk:
                yield found["path"], found["size"]

    def exists(self, keys: Sequence[str]) -> set[str]:
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            return {key for key, there in zip(keys, pool.map(self._there, keys), strict=True) if there}

    def _there(self, key: str) -> bool:
        try:
            obstore.head(self._store, key)
        except FileNotFoundError:
            return False
        return True


def _check_bucket(error: FileNotFoundError) -> None:
    """A bucket that is not there must not look like a tier that lost everything."""
    if "NoSuchBucket" in str(error):
        raise error
