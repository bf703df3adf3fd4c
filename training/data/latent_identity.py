"""What a latent cache was made of, in its `cache.json`. A folder that holds another cache, or none, is refused."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sd_pipeline import SDAutoencoderKL
from training.data.captioned_images import CaptionedImages
from training.data.errors import DataError
from training.data.fingerprints import autoencoder_fingerprint
from training.data.image_transforms import TRANSFORMS_VERSION
from training.engine.checkpointing import flush, write_json

FORMAT_VERSION = 1
IMAGES_PER_SHARD = 1024
CACHE_FILE = "cache.json"
PART_NAMES = {"autoencoder": "autoencoder", "dataset": "data set", "transforms": "transforms"}
_MEND = "remove the folder or take another diffusion.latent_cache_dir"


@dataclass(frozen=True)
class CacheIdentity:
    """What tells one latent cache from another, and how it is laid out.

    Args:
        fingerprint (`dict[str, str]`): Of the three parts `autoencoder`, `dataset` and `transforms`.
        num_images (`int`): Images in all.
        latent_shape (`tuple[int, int, int]`): Channels, height and width of an image's latents.
        images_per_shard (`int`): Images of each file but the last.
        format_version (`int`): Version of the files.
    """

    fingerprint: dict[str, str]
    num_images: int
    latent_shape: tuple[int, int, int]
    images_per_shard: int = IMAGES_PER_SHARD
    format_version: int = FORMAT_VERSION

    @property
    def num_shards(self) -> int:
        """Number of files."""
        return -(-self.num_images // self.images_per_shard)

    def rows(self, shard: int) -> range:
        """Tell which images a shard holds."""
        first = shard * self.images_per_shard
        return range(first, min(first + self.images_per_shard, self.num_images))


def fingerprint_of(dataset: CaptionedImages, vae: SDAutoencoderKL | None = None) -> dict[str, str]:
    """Take the fingerprints of what latents are made of.

    Args:
        dataset (`CaptionedImages`): The images.
        vae (`SDAutoencoderKL`, *optional*): What encodes them; without it, its part is left out.

    Returns:
        `dict[str, str]`: of `autoencoder`, `dataset` and `transforms`.
    """
    crop, flip = "centre" if dataset.center_crop else "random", "random" if dataset.random_flip else "none"
    transforms = f"resolution {dataset.resolution}, crop {crop}, flip {flip}, version {TRANSFORMS_VERSION}"
    of_images = {"dataset": f"{len(dataset)} images, {dataset.source.fingerprint()}", "transforms": transforms}
    return of_images if vae is None else {"autoencoder": autoencoder_fingerprint(vae), **of_images}


def identify(dataset: CaptionedImages, vae: SDAutoencoderKL) -> CacheIdentity:
    """Say which cache these images and this autoencoder need.

    Args:
        dataset (`CaptionedImages`): The images.
        vae (`SDAutoencoderKL`): What encodes them.
    """
    side = dataset.resolution // 2 ** (len(vae.config["block_out_channels"]) - 1)
    latent_shape = (int(vae.config["latent_channels"]), side, side)
    return CacheIdentity(fingerprint_of(dataset, vae), len(dataset), latent_shape, IMAGES_PER_SHARD)


def check_cache_folder(folder: Path, fingerprint: Mapping[str, str]) -> bool:
    """Refuse a folder that holds a cache of something else, or no cache but other things, or that cannot be made.

    Args:
        folder (`Path`): The cache's folder; it need not be there yet.
        fingerprint (mapping of `str` to `str`): Parts that have to agree: all, or those that are known already.

    Returns:
        `bool`: whether a cache is there.

    Raises:
        DataError: One line that names the folder and what is wrong.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise DataError(f"{_named(folder)}: {existing} is no folder")
    if not os.access(existing, os.R_OK | os.X_OK):
        raise DataError(f"{_named(folder)}: {existing} cannot be read; take another diffusion.latent_cache_dir")
    if not (folder / CACHE_FILE).is_file():
        names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        strangers = [name for name in names if not is_leftover(name)]
        if strangers:
            reason = f"holds {strangers[0]!r} but no {CACHE_FILE}, so it is no latent cache"
            raise DataError(f"{_named(folder)}: {reason}; {_MEND}")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise DataError(f"{_named(folder)}: {existing} cannot be written; take another diffusion.latent_cache_dir")
        return False
    found = _read(folder)["fingerprint"]
    differing = [part for part in PART_NAMES if part in fingerprint and found.get(part) != fingerprint[part]]
    if differing:
        parts = ", ".join(PART_NAMES[part] for part in differing)
        values = "; ".join(
            f"{PART_NAMES[part]}: {_short(found.get(part))}, now {_short(fingerprint[part])}" for part in differing
        )
        raise DataError(f"{_named(folder)}: holds latents of other input; differing: {parts} ({values}); {_MEND}")
    return True


def is_leftover(name: str) -> bool:
    """Tell whether a file is one that a process was writing aside, for a cache, when it was killed."""
    return name.startswith(".") and name.lstrip(".").startswith((f"{CACHE_FILE}.", "shard-"))


def claim_cache_folder(folder: Path, identity: CacheIdentity) -> None:
    """Make the folder a cache's, unless it is one: of all who claim it at a time, one writes `cache.json`.

    Args:
        folder (`Path`): The cache's folder.
        identity (`CacheIdentity`): The cache that is wanted.

    Raises:
        DataError: If the folder cannot be made or written, or holds something else.
    """
    try:
        if not check_cache_folder(folder, identity.fingerprint):
            folder.mkdir(parents=True, exist_ok=True)
            _write_first(folder / CACHE_FILE, asdict(identity))
    except OSError as error:
        raise DataError(f"{_named(folder)}: cannot be written ({error})") from error


def check_identity(folder: Path, identity: CacheIdentity) -> None:
    """Refuse a folder that holds another cache than the one that is wanted, or none.

    Args:
        folder (`Path`): The cache's folder.
        identity (`CacheIdentity`): The cache that is wanted.

    Raises:
        DataError: One line that names the folder and what differs.
    """
    if not check_cache_folder(folder, identity.fingerprint):
        raise DataError(f"{_named(folder)}: {CACHE_FILE} is gone; all processes must see the same folder")
    found, wanted = _read(folder), json.loads(json.dumps(asdict(identity)))
    for key, value in wanted.items():
        if found.get(key) != value:
            raise DataError(f"{_named(folder)}: {CACHE_FILE} has {key} {found.get(key)!r}, not {value!r}; {_MEND}")


def _named(folder: Path) -> str:
    return f"diffusion.latent_cache_dir: {str(folder)!r}"


def _short(value: object) -> str:
    """Cut hashes for a person."""
    return re.sub(r"\b[0-9a-f]{64}\b", lambda found: found[0][:12], str(value))


def _read(folder: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((folder / CACHE_FILE).read_text(encoding="utf-8"))
        content["fingerprint"].keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.__class__.__name__
        raise DataError(f"{_named(folder)}: {CACHE_FILE} cannot be read ({reason}); {_MEND}") from error
    return content


def _write_first(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole, unless another process has been faster."""
    aside = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        write_json(content, aside)
        try:
            os.link(aside, file)
        except FileExistsError:
            pass
        except OSError:  # The file system has no hard links. Of two who write at a time, the last one has the folder.
            os.replace(aside, file)
    finally:
        aside.unlink(missing_ok=True)
    flush(file.parent)
