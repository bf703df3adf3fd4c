"""Reading pieces of files: attempts, versions, and processes of their own."""

from __future__ import annotations

import os

import pytest

from training.data import shard_storage
from training.data.shard_storage import Shard, ShardError, ShardReader, file_system_of, retried, version_of


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(shard_storage, "RETRY_DELAYS", (0.0, 0.0, 0.0))


def shard_of(url: str) -> Shard:
    file_system, path = file_system_of(url)
    return Shard(url, version_of(file_system.info(path)))


def failing(times: int, error: Exception):
    attempts = []

    def read() -> int:
        attempts.append(1)
        if len(attempts) <= times:
            raise error
        return len(attempts)

    return read


def test_what_fails_for_a_while_is_tried_again(caplog):
    assert retried(failing(3, OSError("no route")), "a.tar") == 4
    assert [record.message for record in caplog.records] == ["a.tar: no route; next attempt in 0 s"] * 3
    with pytest.raises(ShardError, match=r"^a\.tar: cannot be read in 4 attempts \(no route\)$"):
        retried(failing(4, OSError("no route")), "a.tar")


@pytest.mark.parametrize("error", [FileNotFoundError("x"), PermissionError("x"), ShardError("a.tar: x")])
def test_what_will_not_pass_is_not_tried_again(error):
    with pytest.raises(ShardError, match=r"^a\.tar: "):
        retried(failing(1, error), "a.tar")


def test_pieces(tmp_path):
    (tmp_path / "a.tar").write_bytes(bytes(range(100)))
    reader, shard = ShardReader(), shard_of(str(tmp_path / "a.tar"))
    assert reader.read(shard, 10, 3) == bytes([10, 11, 12])
    with pytest.raises(ShardError, match=r"a\.tar: it ends before byte 101"):
        reader.read(shard, 99, 2)


def test_more_files_than_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_storage, "MAX_OPEN_FILES", 2)
    reader, shards = ShardReader(), []
    for number in range(5):
        (tmp_path / f"{number}.tar").write_bytes(bytes([number]))
        shards.append(shard_of(str(tmp_path / f"{number}.tar")))
    for number in (0, 1, 2, 3, 4, 0, 4):
        assert reader.read(shards[number], 0, 1) == bytes([number])
        assert len(reader._files) <= 2


def test_a_child_opens_files_for_itself(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"abc")
    reader, shard = ShardReader(), shard_of(str(tmp_path / "a.tar"))
    reader.read(shard, 0, 1)
    mine = reader._files[shard.url][0]
    child = os.fork()
    if child == 0:
        right = reader.read(shard, 1, 1) == b"b" and reader._files[shard.url][0] is not mine
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert reader._files[shard.url][0] is mine


def test_a_missing_package_is_named(monkeypatch):
    with pytest.raises(ValueError, match=r"^data\.dataset: 'nothing://x' cannot be read \(Protocol not known"):
        file_system_of("nothing://x")
