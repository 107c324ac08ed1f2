"""Models from elsewhere: from a Hugging Face hub, or from a folder in the originals' layout."""

from __future__ import annotations

import tempfile
from pathlib import Path

from zoo.importing.folder import Imported, write_folder
from zoo.importing.hub import PREFIX, fetch
from zoo.importing.originals import read_folder
from zoo.importing.source import of_snapshot
from zoo.importing.weights import Counting

__all__ = ["Imported", "import_model"]


def import_model(
    origin: str,
    target: Path,
    *,
    revision: str | None = None,
    convert_pickles: bool = False,
    counting: Counting = lambda _done, _total: None,
) -> Imported:
    """Makes a publishable folder of `hf:OWNER/NAME`, or of a model folder in the originals' layout.

    Sparsity and pattern are measured, the licence is kept, a recipe that holds the zeros is written where there is
    none, and a stub is proposed. Raises `NotFoundError`, `AccessError`, `UnavailableError`, `IntegrityError`,
    `ManifestError` (`PickleError`, `ArchiveError`), and `ZooError` for a target that is there already.
    """
    if origin.startswith(PREFIX):
        snapshot = fetch(origin.removeprefix(PREFIX), revision, pickles=convert_pickles)
        return write_folder(of_snapshot(snapshot), target, convert_pickles=convert_pickles, counting=counting)
    with tempfile.TemporaryDirectory(prefix="zoo-import-") as scratch:
        source = read_folder(Path(origin), Path(scratch))
        return write_folder(source, target, convert_pickles=convert_pickles, counting=counting)
