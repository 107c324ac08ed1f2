"""Brings one file into its model folder, verified, whatever the connection and other processes do meanwhile."""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Callable
from typing import BinaryIO

from zoo.blobs import Blobs, BlobStream
from zoo.cache import Cache
from zoo.disk import CHUNK_BYTES
from zoo.errors import IntegrityError
from zoo.manifest import FileEntry, Manifest
from zoo.partial import Partial
from zoo.problems import RangeRefusedError
from zoo.progress import ZooWarning
from zoo.retry import TransientError, wait_before
from zoo.settings import Patience

PROGRESS_BYTES = 1 << 20
_POLL_S = 0.1

Report = Callable[[int], None]


class WrongBytesError(IntegrityError):
    """The bytes that came aren't those of the digest."""


def fetch_file(
    connect: Callable[[], Blobs],
    cache: Cache,
    manifest: Manifest,
    entry: FileEntry,
    patience: Patience,
    report: Report,
) -> None:
    """Puts a file into its version's folder: copied where the cache has its bytes, downloaded otherwise.

    While another process fetches the same bytes, it waits for that one. Wrong bytes are set aside and fetched once
    more. `connect` is called when the registry is needed. Raises `IntegrityError`, `UnavailableError`, `CacheError`,
    `NotFoundError`, `AccessError`. `report` gets the number of bytes that are there.
    """
    partial = Partial(cache, entry.sha256)
    try:
        while not partial.acquire():
            time.sleep(_POLL_S)
            if not cache.not_in_place(manifest, [entry]):
                return
        if cache.is_in_place(manifest, entry):
            return
        known = cache.copies([entry]).get(entry.sha256)
        if known is not None:
            partial.copy_from(known)
        _fetch_twice(_Download(connect, cache, entry, partial, patience, report))
        cache.place(partial.path, manifest, entry)
    finally:
        partial.release()


def _fetch_twice(download: _Download) -> None:
    try:
        download.run()
    except WrongBytesError as error:
        download.set_aside()
        warnings.warn(f"{error}; fetching it once more", ZooWarning, stacklevel=2)
        try:
            download.run()
        except WrongBytesError:
            download.set_aside()
            raise


class _Download:
    """Fills a partial file over as many connections as it takes; after `run` it holds the digest's bytes."""

    def __init__(
        self,
        connect: Callable[[], Blobs],
        cache: Cache,
        entry: FileEntry,
        partial: Partial,
        patience: Patience,
        report: Report,
    ) -> None:
        self._connect, self._cache, self._entry, self._partial = connect, cache, entry, partial
        self._patience, self._report = patience, report
        self._hash = hashlib.sha256()
        self._done = 0
        self._etag: str | None = None

    def run(self) -> None:
        """Downloads what is missing and compares; raises `WrongBytesError` if it is something else."""
        path = self._partial.path
        with self._cache.guarded("write", path):
            path.touch()
            with path.open("r+b") as stream:
                self._continue(stream)
                self._fill(stream)
                stream.flush()
                os.fsync(stream.fileno())
        actual = f"sha256:{self._hash.hexdigest()}"
        if actual != self._entry.sha256:
            raise WrongBytesError(f"{self._entry.path} has the digest {actual}, expected {self._entry.sha256}")

    def set_aside(self) -> None:
        """Moves wrong bytes into quarantine."""
        self._cache.quarantine(self._partial.path, self._entry.sha256)

    def _continue(self, stream: BinaryIO) -> None:
        """Hashes what is there already, so that the digest covers every byte whoever fetched it."""
        self._hash, self._done = hashlib.sha256(), 0
        while chunk := stream.read(CHUNK_BYTES):
            self._hash.update(chunk)
            self._done += len(chunk)
            self._partial.beat()
            self._report(self._done)
        if self._done > self._entry.size_bytes:
            self._restart(stream)

    def _restart(self, stream: BinaryIO) -> None:
        stream.seek(0)
        stream.truncate()
        self._hash, self._done, self._etag = hashlib.sha256(), 0, None

    def _fill(self, stream: BinaryIO) -> None:
        failures = 0
        while self._done < self._entry.size_bytes:
            before = self._done
            try:
                self._receive(stream)
            except RangeRefusedError as error:
                self._restart(stream)
                fault = TransientError(f"{self._entry.path} can't be continued: {error}")
            except TransientError as error:
                fault = error
            else:
                continue
            if self._done - before >= PROGRESS_BYTES:
                failures = 0
            if fault.is_last(failures, self._patience):
                raise fault
            self._partial.beat()
            time.sleep(wait_before(failures, fault, self._patience))
            failures += 1

    def _receive(self, stream: BinaryIO) -> None:
        with self._connect().open(self._entry.sha256, self._done, self._etag) as blob:
            self._check_size(blob)
            if blob.start == 0:
                self._restart(stream)
                self._etag = blob.etag if blob.etag and not blob.etag.startswith("W/") else None
            elif blob.etag not in (None, self._etag, f'"{self._entry.sha256}"'):
                raise RangeRefusedError("the file changed in between (its ETag is another one)")
            for chunk in blob.chunks:
                self._append(stream, chunk)
        if self._done < self._entry.size_bytes:
            raise TransientError(f"{self._entry.path} ended after {self._done} of {self._entry.size_bytes} bytes")

    def _check_size(self, blob: BlobStream) -> None:
        declared, expected = blob.declared_bytes, self._entry.size_bytes
        if declared is not None and declared != expected:
            raise WrongBytesError(f"{self._entry.path} comes with {declared} bytes, expected {expected}")

    def _append(self, stream: BinaryIO, chunk: bytes) -> None:
        if self._done + len(chunk) > self._entry.size_bytes:
            raise WrongBytesError(f"{self._entry.path} is longer than the expected {self._entry.size_bytes} bytes")
        stream.write(chunk)
        self._hash.update(chunk)
        self._done += len(chunk)
        self._partial.beat()
        self._report(self._done)
