"""Processes of their own that download a manifest's one file: CACHE ENDPOINT MANIFEST COUNT.

Waits for a line, then downloads: in this process, or in COUNT forks of it if that is more than 1.
"""

import os
import sys
from pathlib import Path

from zoo.cache import Cache
from zoo.client import RegistryClient
from zoo.download import fetch_file
from zoo.manifest import Manifest
from zoo.settings import Settings

folder, endpoint, manifest_text, count = sys.argv[1:]
settings = Settings(home=Path(folder), cache=Path(folder), endpoint=endpoint)
manifest = Manifest.parse(manifest_text.encode())


def download() -> None:
    cache = Cache.open(settings.cache)
    with RegistryClient(settings) as client:
        for entry in cache.not_in_place(manifest, manifest.files):
            fetch_file(lambda: client.blobs, cache, manifest, entry, settings.patience, lambda _: None)


sys.stdin.readline()
if count == "1":
    download()
    sys.exit()
children = []
for _ in range(int(count)):
    child = os.fork()
    if child == 0:
        download()
        os._exit(0)
    children.append(child)
statuses = [os.waitpid(child, 0)[1] for child in children]
sys.exit(max(os.waitstatus_to_exitcode(status) for status in statuses))
