"""How commands load a model: for a device that is there, and without what the libraries remark."""

from __future__ import annotations

from typing import Any


def usable_device(name: str | None) -> str:
    """Choose the device of a command.

    Args:
        name (`str`, *optional*): Such as `"cpu"` or `"cuda"`; by default a GPU if there is one.

    Returns:
        `str`: A device that holds tensors.

    Raises:
        ValueError: If torch does not know it, or it is not there.
    """
    import torch

    device = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    # Without a GPU, torch raises an AssertionError.
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device}: {str(error).splitlines()[0]}") from error
    return device


def load_silently(pipeline: str, model: str) -> Any:
    """Load a model, without bars and remarks.

    Args:
        pipeline (`str`): Name of a public class of this package.
        model (`str`): A folder or the name of a repository, for its `from_pretrained`.

    Returns:
        `Any`: A pipeline of that class.

    Raises:
        ValueError: If the model is damaged, or one of another pipeline.
        OSError: If there is no such model.
    """
    import diffusers
    import transformers

    import sd_pipeline

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    return getattr(sd_pipeline, pipeline).from_pretrained(model)
