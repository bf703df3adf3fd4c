"""The same global batch, however it is split, gives the same training: a table from runs on one and two processes.

`pytest -m slow -s tests/training/test_invariance.py` prints it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.data.shards import write_digit_tars
from tests.training.runs import rows, run_script, tiny_config, train, write_config

pytestmark = pytest.mark.slow

STEPS = 20
TOLERANCE = 1e-5
TOLERANCE_OF_WEIGHTS = 1e-4
GLOBAL_BATCH = 32
# Processes, micro-batches, and whether the parameters are sharded; the batch of a process follows.
SPLITS = {
    "1 x 32": (1, 1, False),
    "1 x (4 accumulated 8)": (1, 4, False),
    "2 x 16": (2, 1, False),
    "2 x (2 accumulated 8)": (2, 2, False),
    "2 x 16, sharded (FSDP2)": (2, 1, True),
}


@pytest.fixture(scope="module", params=["map-style", "streamed"])
def prepared(request, tmp_path_factory):
    """A run with a finished text encoder and a finished autoencoder, and the kind of its data."""
    folder = tmp_path_factory.mktemp("prepared")
    config = tiny_config(folder / "out", stages=["text_encoder", "autoencoder"])
    if request.param == "streamed":
        shards = write_digit_tars(folder / "shards", 5, 40)
        config["data"] |= {"dataset": str(shards), "streaming": True, "shuffle_buffer_size": 50}
        config["diffusion"]["cache_latents"] = False
    config["diffusion"] |= {"train_batch_size": GLOBAL_BATCH, "max_train_steps": 1, "lr_scheduler": "constant"}
    config["diffusion"]["lr_warmup_steps"] = 0
    file = write_config(folder / "run.yaml", config)
    run(file, folder / "out", (1, 1, False))
    return file, folder / "out", request.param


def run(config: Path, out: Path, split: tuple[int, int, bool], *arguments: str) -> None:
    num_processes, accumulation, is_sharded = split
    variables = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"} if is_sharded else {}
    line = ["--config", str(config), f"--output_dir={out}", *arguments]
    line.append(f"--diffusion.train_batch_size={GLOBAL_BATCH // num_processes // accumulation}")
    line.append(f"--diffusion.gradient_accumulation_steps={accumulation}")
    train(line, num_processes, **variables)


def trained(prepared, tmp_path: Path, *parts: tuple[int, tuple[int, int, bool]]) -> tuple[torch.Tensor, dict]:
    """Train the diffusion stage up to each of the given steps with the given split; return losses and weights."""
    config, finished, _ = prepared
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    for last_step, split in parts:
        run(config, out, split, "--stages=[diffusion]", f"--diffusion.max_train_steps={last_step}")
    losses = torch.tensor([row["loss"] for row in rows(out, "diffusion")], dtype=torch.float64)
    return losses, load_file(out / "diffusion" / f"checkpoint-{STEPS}" / "ema.safetensors")


def test_every_split_trains_alike(prepared, tmp_path):
    kind = prepared[-1]
    plain = (STEPS, SPLITS["1 x 32"])
    kinds = {name: [(STEPS, split)] for name, split in SPLITS.items()}
    kinds["2 x 16, then 1 x 32 from step 7"] = [(7, SPLITS["2 x 16"]), plain]
    kinds["1 x 32, then 2 x 16 from step 13"] = [(13, SPLITS["1 x 32"]), (STEPS, SPLITS["2 x 16"])]
    if kind == "map-style":
        kinds["2 x 16 sharded, then 1 x 32 from step 11"] = [(11, SPLITS["2 x 16, sharded (FSDP2)"]), plain]
    else:
        del kinds["2 x 16, sharded (FSDP2)"]
    results = {}
    for number, (name, parts) in enumerate(kinds.items()):
        results[name] = trained(prepared, tmp_path / str(number), *parts)
    reference_losses, reference_weights = results["1 x 32"]
    assert len(reference_losses) == STEPS
    title = f"split of the global batch, {kind} data"
    print(f"\n{title:<46}{'largest difference of a loss':>30}{'of an averaged weight':>24}")
    largest, largest_of_weights = {}, {}
    for name, (losses, weights) in results.items():
        largest[name] = float((losses - reference_losses).abs().max())
        differences = [weights[key].float() - reference_weights[key].float() for key in weights]
        largest_of_weights[name] = max(float(difference.abs().max()) for difference in differences)
        print(f"{name:<46}{largest[name]:>30.1e}{largest_of_weights[name]:>24.1e}")
    assert {name: value for name, value in largest.items() if value > TOLERANCE} == {}
    assert {name: value for name, value in largest_of_weights.items() if value > TOLERANCE_OF_WEIGHTS} == {}


VALIDATED = """
import sys
from pathlib import Path
from accelerate import Accelerator
from tests.training.configurations import some_digits, tiny_train_config, WITHOUT_TEXT
from training.tasks.components import FrozenModels
from training.tasks.diffusion import DiffusionTask

accelerator = Accelerator(cpu=True)
config = tiny_train_config(diffusion__unet=WITHOUT_TEXT, diffusion__cache_latents=False, evaluation__eta=1.0)
task = DiffusionTask(config, some_digits(8), FrozenModels())
picture = task.validate(0).images["samples"]
picture.save(Path(sys.argv[1]) / f"{accelerator.process_index}-of-{accelerator.num_processes}.png")
accelerator.end_training()
"""


def test_validation_draws_the_same_pictures_on_any_number_of_processes(tmp_path):
    """And each of them has all pictures, whoever has drawn them."""
    script = tmp_path / "validated.py"
    script.write_text(VALIDATED)
    for num_processes in (1, 2, 3):
        run_script(script, num_processes, str(tmp_path))
    pictures = [file.read_bytes() for file in sorted(tmp_path.glob("*.png"))]
    assert len(pictures) == 6
    assert set(pictures) == {pictures[0]}


SHARDED = """
import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor
from tests.training.configurations import some_digits, tiny_train_config, WITHOUT_TEXT
from training.engine.ema import AveragedWeights
from training.engine.optimisation import Optimisation
from training.engine.state_tensors import load_trained_tensors, trained_tensors
from training.tasks.components import FrozenModels
from training.tasks.diffusion import DiffusionTask

accelerator = Accelerator(cpu=True)
config = tiny_train_config(diffusion__unet=WITHOUT_TEXT, diffusion__cache_latents=False)
task = DiffusionTask(config, some_digits(8), FrozenModels())
before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
network = Optimisation(task.model, task.parameter_groups(), config.diffusion, accelerator, shardable=True)
assert all(isinstance(parameter, DTensor) for parameter in task.model.parameters())
local = sum(parameter.to_local().numel() for parameter in task.model.parameters())
assert local < 0.6 * sum(tensor.numel() for tensor in before.values()), local
average = AveragedWeights(task.model, 0.9)
gathered, averaged = trained_tensors(task.model), average.state_dict()
for name, tensor in before.items():
    assert torch.equal(gathered[name], tensor), name
    assert torch.equal(averaged[name], tensor), name
load_trained_tensors(task.model, {name: tensor + 1 for name, tensor in before.items()})
shifted = {name: tensor + 2 for name, tensor in before.items()}
average.load_state_dict({**shifted, "optimization_step": torch.tensor(1)})
with average.applied():
    assert all(torch.equal(tensor, before[name] + 2) for name, tensor in trained_tensors(task.model).items())
assert all(torch.equal(tensor, before[name] + 1) for name, tensor in trained_tensors(task.model).items())
accelerator.end_training()
"""


def test_shards_are_gathered_whole_and_restored(tmp_path):
    """Each of two processes holds about a half of the weights; states hold all of them."""
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED)
    run_script(script, 2, ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
