"""Pictures of scenes as they come back from a file or a camera, and captions that are false of them."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from PIL import Image

from training.data.shape_scenes import Scene, SceneObject, sample_scene

WORDS = {
    "size": ("small", "large"),
    "colour": ("red", "green", "blue", "yellow", "purple", "orange", "white", "black"),
    "shape": ("circle", "square", "triangle", "star", "ring", "cross"),
    "background": ("grey", "pink", "sky", "navy"),
    "count": ("two", "three", "four"),
    "relation": ("left of", "right of", "above", "below"),
}
OPPOSITES = {"right of": "left of", "below": "above"}
WORD = re.compile("|".join(rf"\b{word}" for words in WORDS.values() for word in words))


def scenes_of(kind: str, number: int, seed: int) -> list[Scene]:
    """Draw the first scenes of a kind."""
    found: list[Scene] = []
    index = 0
    while len(found) < number:
        scene = sample_scene(seed, index)
        found += [scene] if scene.kind == kind else []
        index += 1
    return found


def scene_of(*told: tuple[str, float, float], background: str = "grey", relation: str | None = None) -> Scene:
    """Put objects ("large red star", x, y), in sixty-fourths of the canvas, on a background."""
    objects = tuple(SceneObject(*names.split(), (x / 64, y / 64)) for names, x, y in told)
    return Scene("attribute", background, objects, relation)


def after_jpeg(image: Image.Image) -> Image.Image:
    """Store a picture as JPEG of quality 90 and read it again."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return Image.open(file)


def after_noise(image: Image.Image, seed: int) -> Image.Image:
    """Add noise of standard deviation 4/255."""
    pixels = np.asarray(image, dtype=np.float64)
    pixels = pixels + np.random.default_rng(seed).normal(0, 4, pixels.shape)
    return Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))


def false_captions(caption: str) -> Iterator[tuple[str, str]]:
    """Yield every caption that differs in one word (relations are taken for one) and is false, with the part changed.

    What a scene looks like tells its caption, but for two objects told in the other order.
    """
    for match in WORD.finditer(caption):
        part = next(part for part, words in WORDS.items() if match[0] in words)
        is_counted = caption.startswith(WORDS["count"])
        for word in WORDS[part]:
            plural = "" if not (is_counted and part == "shape") else "es" if word == "cross" else "s"
            end = match.end() + (0 if not plural else 2 if match[0] == "cross" else 1)
            changed = caption[: match.start()] + word + plural + caption[end:]
            if _meaning(changed) != _meaning(caption) and not (is_counted and part == "size"):
                yield changed, part


def _meaning(caption: str) -> str:
    for relation, opposite in OPPOSITES.items():
        match = re.fullmatch(f"a (.*) {relation} a (.*) (on a .*)", caption)
        if match:
            first, second, background = match.groups()
            return f"a {second} {opposite} a {first} {background}"
    return caption


def moved(scene: Scene, number: int, x: float, y: float) -> Scene:
    """Put one object of a scene elsewhere, in sixty-fourths of the canvas."""
    objects = list(scene.objects)
    objects[number] = replace(objects[number], center=(x / 64, y / 64))
    return replace(scene, objects=tuple(objects))
