"""Weight maps are computed once, and what is read is what was computed."""

from __future__ import annotations

import numpy as np

from training.data.cell_scenes import sample_cells
from training.tasks.weight_map import border_weight_map
from training.tasks.weight_map_cache import WeightMapCache


def itself(labels: np.ndarray) -> np.ndarray:
    return labels


def test_it_is_computed_once_and_read_afterwards(tmp_path):
    instances = sample_cells(0, 0, 96)[1]
    maps = WeightMapCache(tmp_path / "maps", 10.0, 5.0, itself)
    first = maps(instances)
    assert first.dtype == np.float32
    assert np.array_equal(first, border_weight_map(instances, 0.0))
    (file,) = (tmp_path / "maps").iterdir()
    np.save(file, np.full_like(first, 7))  # Whoever reads it does not compute it again.
    assert (maps(instances) == 7).all()


def test_other_labels_or_constants_are_other_maps(tmp_path):
    instances = sample_cells(0, 0, 96)[1]
    for maps in (WeightMapCache(tmp_path, 10.0, 5.0, itself), WeightMapCache(tmp_path, 4.0, 2.0, itself)):
        for labels in (instances, instances[::-1], instances[:48]):
            assert np.array_equal(maps(labels), border_weight_map(labels, 0.0, maps.w_0, maps.sigma))
    assert len(list(tmp_path.iterdir())) == 6


def test_no_border_weight_needs_no_file(tmp_path):
    maps = WeightMapCache(tmp_path / "maps", 0.0, 5.0, itself)
    assert not maps(np.eye(4, dtype=np.int32)).any()
    assert not (tmp_path / "maps").exists()
