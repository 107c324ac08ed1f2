"""Row 33: what a tar may hold, and what happens to the rest."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zoo.importing import archives
from zoo.importing.archives import ArchiveError, unpack


def _tar(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size, info.mode = len(member[1]), 0o6777
                tar.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def _special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def _try(tmp_path: Path, data: bytes) -> dict[str, bytes]:
    archive, folder = tmp_path / "deployment.tar.gz", tmp_path / "inside/out"
    archive.write_bytes(data)
    folder.mkdir(parents=True)
    return {path.name: path.read_bytes() for path in unpack(archive, folder)}


GOOD = _tar(("deployment/model.onnx", b"graph"), _special("deployment", tarfile.DIRTYPE), ("./config.json", b"{}"))


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["tar", "tar.gz"])
def test_files_land_under_their_bare_names(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    assert _try(tmp_path, pack(GOOD)) == {"model.onnx": b"graph", "config.json": b"{}"}
    assert [oct(path.stat().st_mode & 0o7000) for path in (tmp_path / "inside/out").iterdir()] == ["0o0", "0o0"]


@pytest.mark.parametrize(
    "data",
    [
        _tar(("../../escaped", b"x")),
        _tar(("/tmp/escaped", b"x")),
        _tar(("a/../../escaped", b"x")),
        _tar(("C:\\escaped", b"x")),
        _tar(("con.txt", b"x")),
        _tar(_special("link", tarfile.SYMTYPE, "/etc"), ("link/escaped", b"x")),
        _tar(("a", b"x"), _special("hard", tarfile.LNKTYPE, "a")),
        _tar(_special("hard", tarfile.LNKTYPE, "../../../escaped")),
        _tar(_special("zero", tarfile.CHRTYPE)),
        _tar(_special("disk", tarfile.BLKTYPE)),
        _tar(_special("pipe", tarfile.FIFOTYPE)),
        _tar(_special("sparse", tarfile.GNUTYPE_SPARSE)),
        _tar(("a/x", b"1"), ("b/x", b"2")),
        _tar(("x", b"1"), ("X", b"2")),
        _tar(),
        GOOD + GOOD,
        GOOD + b"PK\x05\x06" + b"\x00" * 18,
        GOOD[:512],
        GOOD[:1024],
        GOOD[: len(GOOD) - 10240],
        gzip.compress(GOOD)[:-20],
        gzip.compress(GOOD) + b"trailing",
        gzip.compress(GOOD) + gzip.compress(b"second"),
        b"",
        b"\x00" * 10240,
        b"no tar at all" * 100,
    ],
)
def test_row_33_hostile_archives_are_refused_and_write_nothing_outside(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ArchiveError, match=r"deployment\.tar\.gz"):
        _try(tmp_path, data)
    outside = [path for path in tmp_path.rglob("*") if (tmp_path / "inside/out") not in path.parents]
    names = sorted(path.relative_to(tmp_path).as_posix() for path in outside)
    assert names == ["deployment.tar.gz", "inside", "inside/out"]


def test_row_33_the_refusal_names_the_member(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="'link' of"):
        _try(tmp_path, _tar(("fine", b"1"), _special("link", tarfile.SYMTYPE, "/etc/passwd")))


def test_row_33_a_zip_is_no_tar_even_with_a_tar_inside(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("model.onnx", GOOD)
    with pytest.raises(ArchiveError, match="is a zip"):
        _try(tmp_path, buffer.getvalue())


def test_row_33_a_bomb_stops_at_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "FREE_BYTES", 1 << 16)
    with pytest.raises(ArchiveError, match="unpacks to more than"):
        _try(tmp_path, gzip.compress(_tar(("model.onnx", bytes(50 << 20)))))
    written = sum(path.stat().st_size for path in (tmp_path / "inside").rglob("*") if path.is_file())
    assert written < 20 << 20


def test_row_33_a_header_that_claims_much_is_not_believed(tmp_path: Path) -> None:
    huge = tarfile.TarInfo("a")
    huge.size = 10 << 30
    with pytest.raises(ArchiveError):
        _try(tmp_path, huge.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    long_name = tarfile.TarInfo("b")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    (tmp_path / "second").mkdir()
    with pytest.raises(ArchiveError):
        _try(tmp_path / "second", long_name.tobuf(tarfile.GNU_FORMAT) + bytes(2048))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_row_33_any_changed_byte_gives_files_or_a_refusal(tmp_path: Path, place: int, value: int) -> None:
    archive, folder = tmp_path / "x.tar.gz", tmp_path / f"{place}-{value}"
    archive.write_bytes(GOOD[:place] + bytes([value]) + GOOD[place + 1 :])
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    try:
        found = unpack(archive, folder)
    except ArchiveError:
        return
    assert all(path.parent == folder and path.is_file() for path in found)
