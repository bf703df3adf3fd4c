"""Runs that are killed, or whose disk is filled, at random moments, and must end as the run that never was.

    python benchmarks/interrupted_runs.py --interruptions 100 [--num-processes 2]
    python benchmarks/interrupted_runs.py --interruptions 20 --full-disk    (as root: it mounts a small tmpfs)

A run of all three stages (interrupted_runs.yaml) is started, interrupted and started again until it has finished, then
the next one, until there have been enough interruptions. Half of the kills wait for a save to begin and come within
it. Every start must go on from the newest training state that was complete, and every run must end with the same
bits in its last training states, its metrics and its pipeline as one that was left alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from training.engine.checkpointing import CheckpointError, list_checkpoints, verify_checkpoint

ROOT = Path(__file__).parents[1]
STAGES = ("text_encoder", "autoencoder", "diffusion")
LONGEST_LIFE = 6.0
"""Seconds of training after which a process is interrupted at the latest."""
SHARE_WHILE_STARTING = 0.1
"""Share of the interruptions that come while a process starts, which takes longer than it trains."""
FREE_FOR_RUN = 64
"""Size of the disk that is filled, MiB."""


def main(arguments: Sequence[str]) -> int:
    """Run the command line; 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interruptions", type=int, default=100)
    parser.add_argument("--num-processes", type=int, default=1)
    parser.add_argument("--full-disk", action="store_true", help="fill the disk instead of killing the process")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args(arguments)
    rng = random.Random(options.seed)
    faults: list[str] = []
    done = runs = in_saves = 0
    with tempfile.TemporaryDirectory() as folder, disk(Path(folder), options.full_disk) as work:
        straight = Path(folder) / "straight"
        _wait(start(straight, options.num_processes, Path(folder) / "log"))
        while done < options.interruptions:
            out = work / "run"
            shutil.rmtree(out, ignore_errors=True)
            runs += 1
            is_finished = False
            while not is_finished:
                faults += [f"run {runs}: {fault}" for fault in damaged_states(out)]
                before, log = newest(out), Path(folder) / "log"
                process = start(out, options.num_processes, log)
                if done >= options.interruptions:
                    code = _wait(process)
                elif options.full_disk:
                    code = fill_disk(process, work, rng)
                else:
                    code, was_saving = kill(process, out, rng)
                    in_saves += was_saving
                is_finished = code == 0
                resumed = [line for line in log.read_text().splitlines() if "goes on from" in line]
                if resumed and resumed[0] != before.replace("/", ": goes on from "):
                    faults.append(f"run {runs}: {resumed[0]}, but the newest state is {before}")
                done += not is_finished
                print(f"run {runs}, {done} interruptions, state {newest(out)}", flush=True)
                if done > options.interruptions + 3:
                    faults.append(f"run {runs} does not finish")
                    break
            faults += [f"run {runs}: {fault}" for fault in differences(straight, out)]
    how = "full disks" if options.full_disk else f"kills, {in_saves} of them while a state was being saved"
    print(f"{done} {how}; {runs} runs; {len(faults)} faults")
    print("\n".join(faults))
    return int(bool(faults))


def start(out: Path, num_processes: int, log: Path) -> subprocess.Popen[str]:
    """Start the training, in a group of its own; what it says goes to `log`, errors to a pipe."""
    arguments = ["training/train.py", "--config", "benchmarks/interrupted_runs.yaml", f"--output_dir={out}"]
    command = [sys.executable, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    if num_processes > 1:
        arguments += [f"--{stage}.train_batch_size={8 // num_processes}" for stage in STAGES]
        launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(num_processes)]
        launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        command = [sys.executable, *launcher, "--main_process_port", "0", *arguments]
        environment["ACCELERATE_USE_CPU"] = "true"
    with log.open("w") as stdout:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            text=True,
            start_new_session=True,
            stdout=stdout,
            stderr=subprocess.PIPE,
        )


def _wait(process: subprocess.Popen[str]) -> int:
    _, errors = process.communicate()
    if process.returncode:
        print(errors[-2000:], flush=True)
    return process.returncode


def kill(process: subprocess.Popen[str], out: Path, rng: random.Random) -> tuple[int, bool]:
    """Kill a training and whatever belongs to it at a random moment, or within a save after it."""
    wants_save = await_moment(process, out, rng) and rng.random() < 0.5
    while wants_save and process.poll() is None and not _is_saving(out):
        time.sleep(0.0005)
    time.sleep(rng.uniform(0, 0.01))
    was_saving = _is_saving(out)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return process.returncode, was_saving


def await_moment(process: subprocess.Popen[str], out: Path, rng: random.Random) -> bool:
    """Wait for a random moment, and say whether the process has begun to train by then."""
    started = time.time()
    is_early = rng.random() < SHARE_WHILE_STARTING
    status = out / "status.json"
    while process.poll() is None and not is_early:
        if status.exists() and status.stat().st_mtime > started:  # "running"
            break
        time.sleep(0.01)
    deadline = time.monotonic() + rng.uniform(0, LONGEST_LIFE)
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    return not is_early


def _is_saving(out: Path) -> bool:
    return any(out.glob("*/.checkpoint-*.partial"))


def fill_disk(process: subprocess.Popen[str], disk_folder: Path, rng: random.Random) -> int:
    """Fill the disk at a random moment and leave it full until the training ends; then make room again."""
    await_moment(process, disk_folder / "run", rng)
    filler = disk_folder / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as stream:
        while True:
            stream.write(b"\0" * (1 << 16))
    _, errors = process.communicate()
    filler.unlink()
    lines = errors.strip().splitlines()
    if process.returncode and "Traceback" in errors:
        print("a traceback:", *lines[-5:], sep="\n  ", flush=True)
    elif process.returncode:
        print("said:", lines[-1], flush=True)
    return process.returncode


def newest(out: Path) -> str:
    """Name the newest training state that is complete, and its stage."""
    for stage in reversed(STAGES):
        for checkpoint in reversed(list_checkpoints(out / stage)):
            return f"{stage}/{checkpoint.name}"
    return "none"


def damaged_states(out: Path) -> Iterator[str]:
    """Name the training states that are in place and not whole."""
    for stage in STAGES:
        for checkpoint in list_checkpoints(out / stage):
            try:
                verify_checkpoint(checkpoint)
            except CheckpointError as error:
                yield str(error)


def differences(straight: Path, out: Path) -> Iterator[str]:
    """Name what differs between two finished runs: training states, logged numbers, the pipeline's weights."""
    files = [file for stage in STAGES for file in straight.glob(f"{stage}/checkpoint-*/*.safetensors")]
    for file in [*files, *straight.glob("pipeline/*/*.safetensors")]:
        other = out / file.relative_to(straight)
        if not other.is_file() or other.read_bytes() != file.read_bytes():
            yield f"{file.relative_to(straight)} differs"
    if _logged(straight) != _logged(out):
        yield "metrics.jsonl differs"


def _logged(out: Path) -> list[tuple[str, int, float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(row["stage"], row["step"], row["loss"]) for row in rows if "loss" in row]


@contextmanager
def disk(folder: Path, is_small: bool) -> Iterator[Path]:
    """Give a folder to train in: on a small disk of its own if asked."""
    work = folder / "disk"
    work.mkdir()
    if is_small:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={FREE_FOR_RUN}m", "tmpfs", str(work)], check=True)
    try:
        yield work
    finally:
        if is_small:
            subprocess.run(["umount", str(work)], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
