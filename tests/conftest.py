"""One thread a test process: several run side by side, and results do not depend on the number of cores.

Files that take minutes come first: begun last, one of them would keep one process busy while the others have no more.
"""

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

torch.set_num_threads(1)

LONGEST = [
    "test_full_size.py",
    "test_learning.py",
    "test_demo.py",
    "test_publishing_runs.py",
    "test_background_pushes.py",
    "test_invariance.py",
    "test_training_runs.py",
    "test_single_file.py",
    "test_page_in_browser.py",
    "test_stopping_runs.py",
    "test_hub_faults.py",
    "test_pipeline_inpaint.py",
    "test_finetuning_runs.py",
]


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture
def quiet_libraries() -> Iterator[None]:
    """A command sets what libraries say; other tests look at what they say."""
    import diffusers
    import transformers

    verbosity = diffusers.utils.logging.get_verbosity()
    yield
    diffusers.utils.logging.set_verbosity(verbosity)
    diffusers.utils.logging.enable_progress_bar()
    transformers.utils.logging.enable_progress_bar()
