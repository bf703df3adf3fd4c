"""`sd-pipeline push`: send a finished model to the Hub, or what a run could not send."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sd_pipeline.argument_parser import ArgumentParser

NOT_PUSHED = 76
"""Exit code when the Hub could not be reached or refused: the same command may succeed later."""


def add_push_command(commands: argparse._SubParsersAction[ArgumentParser]) -> None:
    """Add the command to those of `sd-pipeline`.

    Args:
        commands (`argparse._SubParsersAction`): Where to.
    """
    command = commands.add_parser("push", help="send a model to the Hugging Face Hub")
    command.description = (
        "Send a finished model to the Hub as one commit, or, without --repo-id, what waits in the folder of a run. "
        "The token is that of `hf auth login` or HF_TOKEN."
    )
    add = command.add_argument
    add("folder", type=Path, metavar="FOLDER", help="folder of a finished model; without --repo-id that of a run")
    add("--repo-id", metavar="USER/NAME", help="name on the Hub; made if it is not there")
    add("--revision", default="main", metavar="BRANCH", help="branch; made if it is not there (default: %(default)s)")
    add("--private", action="store_true", default=None, help="make a private repository (default: as your account)")
    add("--variant", choices=["fp16"], help="write the weights in half precision too, into FOLDER, and send both")
    add("--retries", type=int, default=8, help="how often failures that pass are tried again (default: %(default)s)")
    command.set_defaults(run=push)


def push(options: argparse.Namespace) -> None:
    """Push, and say where to.

    Args:
        options (`argparse.Namespace`): `folder`, `repo_id`, `revision`, `private`, `variant` and `retries`.

    Raises:
        ValueError: If the folder is not fit to be published, the name is impossible or there is no token.
        SystemExit: With `NOT_PUSHED`, after one line, if the Hub could not be reached or refused.
    """
    from sd_pipeline.publishing.hub_push import PushError

    if not options.folder.is_dir():
        raise ValueError(f"{options.folder} is no folder")
    if options.retries < 0:
        raise ValueError(f"--retries is {options.retries}; it must be at least 0")
    try:
        if options.repo_id is None and options.variant is not None:
            raise ValueError("--variant goes with --repo-id: what waits in a run is sent as it is")
        if options.repo_id is None:
            _push_spool(options.folder, options.retries)
        else:
            _push_model(options)
    except PushError as error:
        print(f"sd-pipeline: {error}; try the same command again", file=sys.stderr)
        raise SystemExit(NOT_PUSHED) from None


def _push_model(options: argparse.Namespace) -> None:
    from sd_pipeline.publishing.hub_push import Target, check_folder, check_target, push_folder
    from sd_pipeline.publishing.hub_retry import Backoff

    check_target(options.repo_id)
    if options.variant == "fp16":
        from sd_pipeline.publishing.variants import add_fp16_variant

        add_fp16_variant(options.folder)
    check_folder(options.folder)
    target = Target(options.repo_id, options.revision, options.private)
    commit = push_folder(options.folder, target, backoff=Backoff(options.retries))
    print(f"{target.repo_id} ({target.revision}) holds the model, commit {commit}")


def _push_spool(output_dir: Path, retries: int) -> None:
    from sd_pipeline.publishing.hub_push import check_target
    from sd_pipeline.publishing.hub_retry import Backoff
    from sd_pipeline.publishing.hub_spool import read_spool, send_spool

    pushes = read_spool(output_dir)
    if not pushes:
        raise ValueError(
            f"nothing waits to be pushed in {output_dir}; to push a model there, give --repo-id USER/NAME"
        )
    for pending in pushes:
        check_target(pending.repo_id)
    for sent in send_spool(output_dir, Backoff(retries)):
        print(f"{sent.repo_id} ({sent.revision}) holds {sent.folder}, commit {sent.commit}")
