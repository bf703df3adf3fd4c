"""Building a latent cache with all processes, so that it can be stopped and resumed anywhere, to the same bits."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from sd_pipeline import SDAutoencoderKL
from training.data.captioned_images import CaptionedImages
from training.data.errors import DataError
from training.data.latent_identity import CacheIdentity, check_identity, claim_cache_folder, identify
from training.data.latent_shards import remove_leftovers, shard_damage, shard_file, write_shard
from training.engine.interruption import RunStopped, outlive_signals

# Images encoded at a time. It is no setting, and divides a shard, so that the bits depend on nothing else.
BATCH_SIZE = 32
# Threads a process that read shards to check them.
_CHECKERS = 4

logger = logging.getLogger(__name__)


def build_cache(
    folder: Path,
    dataset: CaptionedImages,
    vae: SDAutoencoderKL,
    *,
    num_workers: int = 0,
) -> CacheIdentity:
    """Check the cache in a folder, and build what is missing or damaged. Every process calls it.

    Args:
        folder (`Path`): The cache's folder.
        dataset (`CaptionedImages`): The images.
        vae (`SDAutoencoderKL`): Encodes them, on its device.
        num_workers (`int`, defaults to 0): Processes that read images for each process that encodes them.

    Returns:
        `CacheIdentity`: the cache, whole.

    Raises:
        DataError: If the folder holds something else, an image cannot be read or the folder cannot be written.
        OSError: If the disk is full. Finished shards stay.
        RunStopped: If a signal came to a process. Finished shards stay.
    """
    processes = PartialState()
    identity = None
    with raised_in_all_processes():
        if processes.is_main_process:
            identity = identify(dataset, vae)
            claim_cache_folder(folder, identity)
            remove_leftovers(folder)
    # Files may have other times on another machine, so what the main process finds holds for all.
    identity = next(found for found in gather_object([identity]) if found is not None)
    with raised_in_all_processes():
        check_identity(folder, identity)
    pending = _pending_shards(folder, identity)
    if pending:
        _build_shards(folder, identity, pending, dataset, vae, num_workers)
    with raised_in_all_processes():
        absent = [file for shard in pending if not (file := shard_file(folder, shard)).is_file()]
        if absent:
            raise DataError(f"{absent[0]}: it was built, but not all processes see it; they must share the folder")
    return identity


@contextmanager
def raised_in_all_processes() -> Iterator[None]:
    """Wait for all processes at the end of the block; what one of them raised in it, all of them raise.

    Only errors that name their cause are shared: `DataError`, `OSError` and `RunStopped`.
    """
    error = None
    try:
        yield
    except (DataError, OSError, RunStopped) as caught:
        error = caught
    met = next((each for each in gather_object([error]) if each is not None), None)
    if met is not None:
        raise met


def _pending_shards(folder: Path, identity: CacheIdentity) -> list[int]:
    """Find the shards that are missing or damaged; the processes deal the checking out."""
    processes = PartialState()
    damage: list[tuple[int, str]] = []
    with raised_in_all_processes(), ThreadPoolExecutor(_CHECKERS) as pool:
        own = range(processes.process_index, identity.num_shards, processes.num_processes)
        problems = pool.map(lambda shard: shard_damage(folder, identity, shard), own)
        damage = [(shard, problem) for shard, problem in zip(own, problems, strict=True) if problem is not None]
    found = sorted(gather_object(damage))
    for shard, problem in found:
        if processes.is_main_process and shard_file(folder, shard).exists():
            logger.warning("%s; it is built again", problem)
    return [shard for shard, _ in found]


def _build_shards(
    folder: Path,
    identity: CacheIdentity,
    pending: Sequence[int],
    dataset: CaptionedImages,
    vae: SDAutoencoderKL,
    num_workers: int,
) -> None:
    """Encode shards in turns of one for each process, and agree after each turn whether to go on."""
    processes = PartialState()
    own = pending[processes.process_index :: processes.num_processes]
    batches = [list(batch) for shard in own for batch in _batches(identity.rows(shard))]
    loader = DataLoader(
        _Pictures(dataset),
        batch_sampler=batches,
        collate_fn=_stacked,
        num_workers=num_workers,
        pin_memory=vae.device.type == "cuda",
        worker_init_fn=outlive_signals,
    )
    pictures = iter(loader)
    total = sum(len(identity.rows(shard)) for shard in own)
    with tqdm(total=total, desc="encoding", unit="image", disable=not processes.is_main_process) as progress:
        for turn in range(-(-len(pending) // processes.num_processes)):
            with raised_in_all_processes():
                if turn < len(own):
                    moments = []
                    for _ in _batches(identity.rows(own[turn])):
                        moments.append(_encode(vae, next(pictures)))
                        progress.update(moments[-1].shape[1])
                    write_shard(folder, identity, own[turn], *torch.cat(moments, dim=1))


def _batches(rows: range) -> Iterator[range]:
    for start in range(0, len(rows), BATCH_SIZE):
        yield rows[start : start + BATCH_SIZE]


@torch.no_grad()
def _encode(vae: SDAutoencoderKL, pixel_values: torch.Tensor | DataError) -> torch.Tensor:
    """Return means and log-variances: shape `(2, batch_size, channels, height, width)`, float32, on the CPU."""
    if isinstance(pixel_values, DataError):
        raise pixel_values
    posterior = vae.encode(pixel_values.to(vae.device)).latent_dist
    return torch.stack([posterior.mean, posterior.logvar]).float().cpu()


class _Pictures(Dataset[torch.Tensor | DataError]):
    """The pictures alone. Bad ones are handed over as errors: raised in a worker, their one line would become many."""

    def __init__(self, dataset: CaptionedImages) -> None:
        # The latents of an image that takes another's place would have that one's caption.
        self.dataset = dataset.unreplaced()

    def __getitem__(self, index: int) -> torch.Tensor | DataError:
        try:
            return self.dataset[index]["pixel_values"]
        except DataError as error:
            return error


def _stacked(pictures: Sequence[torch.Tensor | DataError]) -> torch.Tensor | DataError:
    tensors = [picture for picture in pictures if isinstance(picture, torch.Tensor)]
    return next((picture for picture in pictures if isinstance(picture, DataError)), None) or torch.stack(tensors)
