"""What a stranger's repository may ask for: known components of known classes, no code, sizes that its files have.

Everything here looks at names and numbers only. It comes before a model is built, a module imported or, for a
repository on the Hub, its weights are downloaded.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import diffusers
from diffusers.schedulers.scheduling_utils import SchedulerMixin

import sd_pipeline
from sd_pipeline.publishing.repository_files import RepositoryError, read_json
from sd_pipeline.publishing.stock_layout import FACTS_KEY, IMAGE_PROCESSOR, OTHER_IMAGE_PROCESSORS, STOCK_CLASS_OF

INDEX_FILE = "model_index.json"

# By component, libraries and classes that it may be of; schedulers are recognised by their base class.
CLASSES: dict[str, dict[str, tuple[str, ...]]] = {
    "vae": {"diffusers": ("AutoencoderKL",), "sd_pipeline": ("SDAutoencoderKL",)},
    "unet": {"diffusers": ("UNet2DConditionModel",), "sd_pipeline": ("SDUNet2DConditionModel",)},
    "text_encoder": {"transformers": ("CLIPTextModel",)},
    "tokenizer": {"transformers": ("CLIPTokenizer", "CLIPTokenizerFast")},
    "safety_checker": {"stable_diffusion": ("StableDiffusionSafetyChecker",)},
    "feature_extractor": {"transformers": (IMAGE_PROCESSOR, *OTHER_IMAGE_PROCESSORS, "CLIPImageProcessorFast")},
    "image_encoder": {"transformers": ("CLIPVisionModelWithProjection",)},
    "scheduler": {},
}
# What a component may be of that the caller brings along.
LIBRARIES = ("diffusers", "transformers", "stable_diffusion", "sd_pipeline")
REQUIRED = ("unet", "scheduler")

# They make transformers load another model, or other weights, in the place of those that are looked at here.
REDIRECTING_FILES = ("adapter_config.json",)
REDIRECTING_KEYS = ("transformers_weights",)
CODE_KEYS = ("auto_map", "trust_remote_code", "custom_pipelines")
# Where attention is named, anything else may be code from the Hub.
IMPLEMENTATIONS = (None, False, True, "eager", "sdpa", "flash_attention_2", "flex_attention")

LARGEST = {"sample_size": 16_384, "num_train_timesteps": 1_000_000}
# No size up to this is an attack, and parts of a configuration may be of no use in a small model.
HARMLESS_SIZE = 100_000
# Of these, a model has at least one weight for each: blocks, times layers in each, times layers in these.
COUNTS = ("block_out_channels", "down_block_types", "up_block_types")
LAYERS = ("layers_per_block", "transformer_layers_per_block", "reverse_transformer_layers_per_block")
MAX_DEPTH = 32

_ASK = "pass `trust_remote_code=True`"


def check_index(
    index: Mapping[str, Any], place: str, passed: Collection[str] = (), trust_remote_code: bool = False
) -> dict[str, list[str]]:
    """Check that a `model_index.json` names nothing but the components of a Stable Diffusion pipeline.

    Args:
        index (`Mapping[str, Any]`): What is in it.
        place (`str`): The folder or name of the repository, for messages.
        passed (collection of `str`, *optional*): Components that the caller brings along. Their class is free.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether components may be classes of other
            packages, or of the repository itself.

    Returns:
        `dict[str, list[str]]`: Library and class of each component that is there.

    Raises:
        RepositoryError: If it names something else.
    """
    where, kind = f"{place}/{INDEX_FILE}", index.get("_class_name")
    if not isinstance(kind, str | None) and not trust_remote_code:
        raise RepositoryError(f"{where}: its pipeline is the code {kind!r}, which runs only if you {_ASK}")
    if kind == "SegmentationPipeline":
        raise RepositoryError(f"{where} is that of a {kind}: it segments images and makes none")
    facts = index.get(FACTS_KEY, {})
    own = facts.get("components", {}) if isinstance(facts, dict) else None
    if not isinstance(own, dict) or not all(_is_ours_or_absent(name, entry) for name, entry in own.items()):
        raise RepositoryError(f"{where}: `{FACTS_KEY}` is {facts!r}, which this package does not write")
    components = {}
    for name, entry in {**index, **own}.items():
        if name in ("_class_name", "_ignore_files") or not (isinstance(entry, list) or name in CLASSES):
            continue
        if name not in CLASSES:
            raise RepositoryError(f"{where}: a {kind} with a `{name}` cannot be used here")
        if entry in (None, [], [None], [None, None]):
            continue
        if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(one, str) for one in entry)):
            raise RepositoryError(f"{where}: `{name}` is {entry!r}; allowed: a library and a class")
        is_free = trust_remote_code or (name in passed and entry[0] in LIBRARIES)
        if not (is_free or is_known(name, *entry)):
            allowed = [one for classes in CLASSES[name].values() for one in classes] or ["a scheduler of diffusers"]
            raise RepositoryError(f"{where}: `{name}` is {entry!r}; allowed: {', '.join(allowed)}, or {_ASK}")
        components[name] = entry
    for name in REQUIRED:
        if name not in components and name not in passed:
            raise RepositoryError(f"{where} names no `{name}`")
    return components


def check_component(folder: Path, trust_remote_code: bool = False) -> None:
    """Check that the folder of a component brings no code along, and configurations of sane numbers.

    Args:
        folder (`Path`): Of one component.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether there may be code.

    Raises:
        RepositoryError: If there is something else.
    """
    code = next(iter(sorted(folder.rglob("*.py"))), None)
    if code is not None and not trust_remote_code:
        raise RepositoryError(f"{code} is code, which has no place here unless you {_ASK}")
    check_configs(folder, trust_remote_code)


def check_configs(folder: Path, trust_remote_code: bool = False) -> None:
    """Check the configurations of a component: no code, no other model in its place, sane numbers.

    Args:
        folder (`Path`): Of one component.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether there may be code.

    Raises:
        RepositoryError: If there is something else.
    """
    for name in REDIRECTING_FILES:
        if (folder / name).exists():
            raise RepositoryError(
                f"{folder / name} puts another model in the place of this one, which is not done here"
            )
    for path in sorted(folder.glob("*config.json")):
        check_config(read_json(path), str(path), trust_remote_code)


def check_config(config: Mapping[str, Any], where: str, trust_remote_code: bool = False) -> None:
    """Check that a configuration asks for no code, and for sane numbers where no file of weights bounds them.

    Args:
        config (`Mapping[str, Any]`): Of any component.
        where (`str`): Where it is from, for messages.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether there may be code.

    Raises:
        RepositoryError: If it asks for more.
    """
    for key, value in _walk(config, where):
        if key in CODE_KEYS and value and not trust_remote_code:
            raise RepositoryError(f"{where} asks for code (`{key}`), which runs only if you {_ASK}")
        if key in REDIRECTING_KEYS and value:
            raise RepositoryError(f"{where}: `{key}` puts other weights in the place of these, which is not done here")
        if "implementation" in key and value not in IMPLEMENTATIONS and not trust_remote_code:
            raise RepositoryError(f"{where}: `{key}` is {value!r}, which may be code; it runs only if you {_ASK}")
        largest = LARGEST.get(key)
        if largest is not None and _largest(value) > largest:
            raise RepositoryError(f"{where}: `{key}` is {value!r}; allowed: at most {largest}")


def check_sizes(config: Mapping[str, Any], where: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that a model can be as large as its configuration says, before it is built even without memory.

    A size cannot exceed the numbers that the weights have in all, nor layers the number of weights.

    Args:
        config (`Mapping[str, Any]`): Of the model.
        where (`str`): Where it is from, for messages.
        shapes (`Mapping[str, tuple[int, ...]]`): Of the weights that belong to it.

    Raises:
        RepositoryError: If it asks for more.
    """
    total = sum(math.prod(shape) for shape in shapes.values())
    for key, value in _walk(config, where):
        is_depth = key.startswith("num_") and key.endswith(("_layers", "_blocks"))
        limit = len(shapes) if is_depth else max(total, HARMLESS_SIZE)
        if not key.endswith("token_id") and _largest(value) > limit:
            what = f"{len(shapes)} weights with {total} numbers in all"
            raise RepositoryError(f"{where}: `{key}` is {value!r}, but beside it are {what}")
    blocks = max((len(config[key]) for key in COUNTS if isinstance(config.get(key), list)), default=1)
    layers = math.prod(max(1, _largest(config.get(key))) for key in LAYERS)
    if blocks * layers > len(shapes):
        raise RepositoryError(f"{where} asks for {blocks * layers} layers, but there are {len(shapes)} weights")


def scheduler_class(library: str, name: str) -> Any:
    """Find the class of a scheduler.

    Args:
        library (`str`): `"diffusers"` or `"sd_pipeline"`.
        name (`str`): Of the class.

    Returns:
        `Any`: The class; `None` if there is no such scheduler.
    """
    packages = {"diffusers": diffusers.schedulers, "sd_pipeline": sd_pipeline}
    found = getattr(packages.get(library), name, None)
    return found if isinstance(found, type) and issubclass(found, SchedulerMixin) else None


def is_known(name: str, library: str, class_name: str) -> bool:
    """Tell whether a component is of a class that this package has a use for.

    Args:
        name (`str`): Of the component.
        library (`str`): As `model_index.json` names it.
        class_name (`str`): Likewise.

    Returns:
        `bool`: Whether it is.
    """
    if name == "scheduler":
        return scheduler_class(library, class_name) is not None
    return class_name in CLASSES[name].get(library, ())


def _is_ours_or_absent(name: str, entry: Any) -> bool:
    is_ours = isinstance(entry, list) and len(entry) == 2 and entry[0] == "sd_pipeline" and entry[1] in STOCK_CLASS_OF
    return name in CLASSES and (entry == [None, None] or (is_ours and is_known(name, *entry)))


def _walk(config: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    # Every key at every depth, with its value.
    waiting: list[tuple[str, Any, int]] = [(key, value, 1) for key, value in config.items()]
    while waiting:
        key, value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise RepositoryError(f"{where} is nested more than {MAX_DEPTH} deep")
        yield key, value
        if isinstance(value, dict):
            waiting += [(inner, one, depth + 1) for inner, one in value.items()]
        elif isinstance(value, list):
            waiting += [(key, one, depth + 1) for one in value if isinstance(one, list | dict)]


def _largest(value: Any) -> float:
    # Of a number or a list of them, however deep; `_walk` has looked at the depth.
    if isinstance(value, list):
        return max((_largest(one) for one in value), default=0)
    return abs(value) if isinstance(value, int) and not isinstance(value, bool) else 0
