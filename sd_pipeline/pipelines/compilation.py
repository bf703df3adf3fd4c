"""The U-Net compiled, for those who make many pictures of few sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sd_pipeline.models.plain_unet import attends_to_texts, can_be_prepared
from sd_pipeline.models.prepared_unet import PreparedUNet, forward
from sd_pipeline.pipelines.call_arguments import check_count, require
from sd_pipeline.pipelines.pipeline_base import SDBasePipeline

# torch's own names. On CUDA, "reduce-overhead" and "max-autotune" replay the forward pass as CUDA graphs.
_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
_WARM_UP_STEPS = 3  # The second one records a CUDA graph, the third replays it.


class SDCompilablePipeline(SDBasePipeline):
    """Components whose U-Net can be compiled for the loop."""

    @torch.no_grad()
    def compile_unet(
        self,
        mode: str = "default",
        warm_up_batch_sizes: Sequence[int] = (),
        height: int | None = None,
        width: int | None = None,
        **options: Any,
    ) -> None:
        """Compile the forward pass of the loop with `torch.compile`: minutes once, then faster steps.

        Each batch size, with guidance and without, and each size of images is compiled when it is first asked for, or
        now; beyond eight torch goes back to the plain pass. What stays the same in a run is still computed once, and
        pictures change by rounding. Pipelines that share the U-Net use it too. Measure first: on a CPU layers are
        packed already, and a compiled pass may be slower.

        Args:
            mode (`str`, defaults to `"default"`): Of `torch.compile`: `"default"`, `"reduce-overhead"`,
                `"max-autotune"` or `"max-autotune-no-cudagraphs"`.
            warm_up_batch_sizes (sequence of `int`, *optional*): Numbers of images for which to compile now, with
                guidance where there are prompts.
            height (`int`, *optional*): Of these images, in pixels; by default that of the training images.
            width (`int`, *optional*): Likewise.
            options (`Any`): Whatever else `torch.compile` takes.

        Raises:
            ValueError: If the mode is unknown, a size impossible, or the U-Net one that is called as it is: with other
                blocks than Stable Diffusion's, hooks (so does offloading), other attention processors and the like.
        """
        require(mode in _MODES, "mode", mode, f"one of {', '.join(_MODES)}")
        shapes = []
        for batch_size in warm_up_batch_sizes:
            check_count("warm_up_batch_sizes", batch_size)
            shapes.append(self.latents_shape(batch_size, height, width))
        if not can_be_prepared(self.unet):
            raise ValueError(
                f"`unet` ({type(self.unet).__name__}) has other blocks than Stable Diffusion's, or somebody's hooks, "
                "offloading, attention processors or forward pass: it can only be compiled as it is, by torch.compile"
            )
        chosen = {} if mode == "default" else {"mode": mode}
        # A graph for each shape: one for any batch size would have to be guessed from the second.
        self.unet.compiled_forward = torch.compile(forward, **{"dynamic": False, **chosen, **options})
        for batch_size, _, *size in shapes:
            self._warm_up(batch_size, size)

    def _warm_up(self, batch_size: int, size: Sequence[int]) -> None:
        placed: dict[str, Any] = {"device": self._execution_device, "dtype": self.unet.dtype}
        sample, texts = torch.zeros(batch_size, self.unet.config.in_channels, *size, **placed), None
        if attends_to_texts(self.unet):
            length = 77 if self.tokenizer is None else self.tokenizer.model_max_length
            dim = self.unet.config.cross_attention_dim  # One for each block, but all see the same text.
            dim = dim if isinstance(dim, int) else dim[0]
            texts = torch.zeros(2 * batch_size, length, dim, **placed)
        prepared = PreparedUNet(self.unet, torch.zeros(_WARM_UP_STEPS, device=placed["device"]), texts)
        for step in range(_WARM_UP_STEPS):
            prepared(sample, step)
