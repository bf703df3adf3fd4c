"""The template of the shipped model's card tells the whole task, and nothing that is not in it."""

from __future__ import annotations

import re

from tests.source_files import ROOT
from training.data.shape_scenes import (
    BACKGROUNDS,
    COLORS,
    COUNT_WORDS,
    HELD_OUT_PAIRS,
    RELATIONS,
    SHAPES,
    SIZES,
    SPLITS,
)

TEMPLATE = (ROOT / "model_cards" / "shapes-64.md").read_text(encoding="utf-8")


def test_words_of_the_task():
    words = {
        "sizes": list(SIZES),
        "colours": list(COLORS),
        "shapes": list(SHAPES),
        "relations": list(RELATIONS),
        "numbers": list(COUNT_WORDS.values()),
        "backgrounds": list(BACKGROUNDS),
    }
    rows = dict(re.findall(r"^\| (\w+) \| (.+?)(?: \(.*\))? \|$", TEMPLATE, re.MULTILINE))
    assert {name: told.split(", ") for name, told in rows.items()} == words


def test_held_out_pairs():
    told = re.search(r"never trained \((.+?)\)", TEMPLATE, re.DOTALL)[1]
    assert {tuple(reversed(pair.split())) for pair in re.split(r",\s+", told)} == set(HELD_OUT_PAIRS)
    for split in SPLITS:
        assert f"*{split}*" in TEMPLATE
