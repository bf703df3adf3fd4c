"""A latent cache comes out the same whoever builds it and wherever that was interrupted; damage is found."""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState

from tests.components import tiny_vae
from tests.training.configurations import some_digits
from tests.training.data.image_folders import cut, write_folder
from training.data import latent_identity
from training.data.captioned_images import CaptionedImages
from training.data.errors import DataError
from training.data.image_folder import ImageFolderSource
from training.data.latent_building import build_cache
from training.data.latent_shards import open_shard, shard_damage, shard_file
from training.engine.interruption import RunStopped, StopSignal

IMAGES, SHARD, SHARDS = 300, 64, 5


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_identity, "IMAGES_PER_SHARD", SHARD)


def build(folder: Path, images: int = IMAGES, num_workers: int = 0) -> latent_identity.CacheIdentity:
    return build_cache(folder, some_digits(images), tiny_vae(), num_workers=num_workers)


class Stopping(CaptionedImages):
    """Pictures of which one comes with a signal to stop."""

    stop_at = 0

    def __getitem__(self, key: Any) -> Any:
        if key == self.stop_at:
            signal.raise_signal(signal.SIGTERM)
        return super().__getitem__(key)


def build_until(folder: Path, stop_at: int) -> None:
    """Build, and be stopped when an image is read."""
    dataset = Stopping(some_digits(IMAGES).source, 32)
    dataset.stop_at = stop_at
    with StopSignal():
        build_cache(folder, dataset, tiny_vae())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a cache that was built at one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_identity, "IMAGES_PER_SHARD", SHARD)
        folder = tmp_path_factory.mktemp("whole")
        build(folder)
    return contents(folder)


def start(target: Callable[..., None], *arguments: object) -> BaseProcess:
    """Start a process of its own; being forked, it need not import anything."""

    def run() -> None:
        torch.set_num_threads(1)
        target(*arguments)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_whole_cache_is_left_alone(tmp_path: Path, whole: dict[str, bytes]) -> None:
    assert len(whole) == SHARDS + 1
    build(tmp_path)
    before = times(tmp_path)
    build(tmp_path)
    assert times(tmp_path) == before
    assert contents(tmp_path) == whole


def test_workers_read_the_images(tmp_path: Path, whole: dict[str, bytes]) -> None:
    build(tmp_path, num_workers=2)
    assert contents(tmp_path) == whole


def _flip(file: Path, place: float) -> None:
    data = bytearray(file.read_bytes())
    data[int(place * (len(data) - 1))] ^= 4
    file.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "cut": cut,
    "empty": lambda file: file.write_bytes(b""),
    "flipped in the length of the header": lambda file: _flip(file, 0),
    "flipped in the header": lambda file: _flip(file, 0.001),
    "flipped in the log-variances": lambda file: _flip(file, 0.3),
    "flipped in the means": lambda file: _flip(file, 0.7),
    "flipped in the last byte": lambda file: _flip(file, 1),
    "something else": lambda file: file.write_text("no safetensors"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_named_and_built_again(
    tmp_path: Path, whole: dict[str, bytes], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    build(tmp_path)
    before = times(tmp_path)
    file = tmp_path / "shard-00003.safetensors"
    DAMAGE[damage](file)
    with caplog.at_level(logging.WARNING):
        build(tmp_path)
    messages = [record.getMessage() for record in caplog.records if "built again" in record.getMessage()]
    assert len(messages) == (0 if damage == "missing" else 1)
    assert all(str(file) in message and "\n" not in message for message in messages)
    assert contents(tmp_path) == whole
    assert {name for name, moment in times(tmp_path).items() if before[name] != moment} == {file.name}


def test_every_byte_of_a_header_counts(tmp_path: Path) -> None:
    identity = build(tmp_path, 8)
    file = shard_file(tmp_path, 0)
    intact = file.read_bytes()
    end = 8 + int.from_bytes(intact[:8], "little")
    for place in range(8 + len(intact[8:end].rstrip(b" "))):
        spoiled = bytearray(intact)
        spoiled[place] ^= 1
        file.write_bytes(spoiled)
        assert str(file) in (shard_damage(tmp_path, identity, 0) or ""), spoiled[8:end]


def test_a_shard_in_the_place_of_another_is_refused(tmp_path: Path) -> None:
    build(tmp_path)
    shard_file(tmp_path, 1).write_bytes(shard_file(tmp_path, 2).read_bytes())
    with pytest.raises(DataError, match=r"shard-00001.*belongs to another latent cache or place"):
        build(tmp_path)


def test_a_stop_keeps_what_is_finished(tmp_path: Path, whole: dict[str, bytes]) -> None:
    for stop_at, shards in ((0, 0), (2 * SHARD + 40, 2), (2 * SHARD + 20, 2)):
        with pytest.raises(RunStopped, match="run the same command again to resume"):
            build_until(tmp_path, stop_at)
        assert len(list(tmp_path.iterdir())) == 1 + shards
    finished = times(tmp_path)
    build(tmp_path)
    assert contents(tmp_path) == whole
    assert {name: times(tmp_path)[name] for name in finished} == finished


def test_killed_again_and_again_it_still_comes_out_the_same(tmp_path: Path, whole: dict[str, bytes]) -> None:
    for shards in range(1, SHARDS):
        process = start(build, tmp_path)
        while process.is_alive() and len(list(tmp_path.glob("shard-*"))) < shards:
            time.sleep(0.002)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        finished = {name: data for name, data in contents(tmp_path).items() if not name.startswith(".")}
        assert len(finished) > shards
        assert all(data == whole[name] for name, data in finished.items())
    build(tmp_path)
    assert {name: data for name, data in contents(tmp_path).items() if not name.startswith(".")} == whole


def test_what_a_killed_process_left_is_removed_later(tmp_path: Path) -> None:
    build(tmp_path, 3)
    names = (".shard-00000.safetensors.aa", ".cache.json.bb", ".of-somebody-else", "notes.txt")
    for name in names:
        (tmp_path / name).write_text("half")
    build(tmp_path, 3)
    assert set(names) <= contents(tmp_path).keys()
    for name in names:
        os.utime(tmp_path / name, (0, 0))
    build(tmp_path, 3)
    assert set(names) & contents(tmp_path).keys() == set(names[2:])


def limited(folder: Path, limit: int) -> None:
    """Build where no file may be larger than `limit` bytes, and leave word of the error."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        build(folder)
    except OSError as error:
        (folder / ".told").write_text(str(error))


def test_a_write_that_the_disk_refuses_leaves_no_half_shard(tmp_path: Path, whole: dict[str, bytes]) -> None:
    with pytest.raises(RunStopped):
        build_until(tmp_path, 2 * SHARD + 40)
    before = contents(tmp_path)
    start(limited, tmp_path, len(whole["shard-00002.safetensors"]) // 2).join()
    told = (tmp_path / ".told").read_text()
    (tmp_path / ".told").unlink()
    for fragment in ("shard-00002.safetensors", "File too large", "no shard is lost", "run the same command again"):
        assert fragment in told
    assert contents(tmp_path) == before
    build(tmp_path)
    assert contents(tmp_path) == whole


def test_two_runs_at_a_time_do_not_spoil_each_other(tmp_path: Path, whole: dict[str, bytes]) -> None:
    processes = [start(build, tmp_path) for _ in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert contents(tmp_path) == whole


def build_other(folder: Path, seed: int) -> None:
    try:
        build_cache(folder, some_digits(IMAGES), tiny_vae(seed=seed))
    except DataError as error:
        raise SystemExit(2 if "differing: autoencoder" in str(error) else 3) from error


def test_of_two_different_runs_at_a_time_one_is_refused(tmp_path: Path) -> None:
    processes = [start(build_other, tmp_path, seed) for seed in (1, 9)]
    for process in processes:
        process.join()
    assert sorted(process.exitcode or 0 for process in processes) == [0, 2]


def as_rank(rank: int, num_processes: int, port: int, target: Callable[..., None], *arguments: object) -> None:
    """Join a group of processes that talk over gloo."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(num_processes))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    PartialState._reset_state()
    assert PartialState(cpu=True).num_processes == num_processes
    target(*arguments)
    PartialState().destroy_process_group()


def in_processes(num_processes: int, target: Callable[..., None], *arguments: object) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [start(as_rank, rank, num_processes, port, target, *arguments) for rank in range(num_processes)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * num_processes


@pytest.mark.parametrize("num_processes", [2, 3])
def test_the_number_of_processes_changes_no_bit(tmp_path: Path, whole: dict[str, bytes], num_processes: int) -> None:
    folder = tmp_path / "latents"
    in_processes(num_processes, build, folder)
    assert contents(folder) == whole
    shard_file(folder, 1).unlink()
    cut(shard_file(folder, 2))
    in_processes(num_processes, build, folder)
    assert contents(folder) == whole


def tell(folder: Path, target: Callable[..., object], *arguments: object) -> None:
    """Leave word of the error in a file of this process."""
    try:
        target(*arguments)
    except (DataError, RunStopped) as error:
        name = f"{type(error).__name__} {PartialState().process_index}"
        (folder / name).write_text(str(error))


def build_until_one_stops(folder: Path) -> None:
    build_until(folder, SHARD + 3 if PartialState().process_index == 1 else -1)


def test_a_stop_of_one_process_stops_all(tmp_path: Path) -> None:
    in_processes(2, tell, tmp_path, build_until_one_stops, tmp_path / "latents")
    assert {path.name for path in tmp_path.iterdir()} == {"latents", "RunStopped 0", "RunStopped 1"}


def build_from(images: Path, folder: Path) -> None:
    build_cache(folder, CaptionedImages(ImageFolderSource(images), 32), tiny_vae(), num_workers=1)


def test_a_bad_image_of_one_process_is_named_by_all(tmp_path: Path) -> None:
    images = write_folder(tmp_path / "images", SHARD + 3)
    cut(images / f"{SHARD + 1}.png")
    in_processes(2, tell, tmp_path, build_from, images, tmp_path / "latents")
    for rank in range(2):
        told = (tmp_path / f"DataError {rank}").read_text()
        assert told.startswith(f"{images}/{SHARD + 1}.png: ")
        assert "\n" not in told


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    identity = build(tmp_path)
    for shard in range(SHARDS):
        tensors = open_shard(tmp_path, identity, shard)
        assert tensors.keys() == {"mean", "logvar"}
        assert tensors["mean"].shape == (len(identity.rows(shard)), 4, 8, 8)
        assert not torch.equal(tensors["mean"], tensors["logvar"])
