"""Progressive distillation: what a student learns from its teacher (Salimans and Ho 2022, section 3 and appendix G).

The student is trained as any U-Net is, on x_t and the target of its kind of prediction. Only, the picture that it is
to see in x_t is not the one that x_t was made of, but the one that leads where the teacher's steps lead.
"""

from __future__ import annotations

import copy

import torch

from sd_pipeline import SDDDPMScheduler, SDInpaintPipeline, SDUNet2DConditionModel
from sd_pipeline.pipelines.denoising import guide
from sd_pipeline.schedulers.parameterisation import epsilon_from_x_0, x_t_from
from sd_pipeline.schedulers.timestep_spacing import trailing
from training.config import ConfigError, TrainConfig
from training.data.clip_tokenizer import tokenize
from training.engine.task import Batch
from training.tasks.pretrained import STOCK_EVALUATION

_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def ddim_step(
    x_0: torch.Tensor, x_t: torch.Tensor, alpha_bar: torch.Tensor, alpha_bar_prev: torch.Tensor
) -> torch.Tensor:
    """Step from t to s without noise: x_s = sqrt(alpha_bar_s) x_0 + sqrt(1 - alpha_bar_s) epsilon.

    (Song et al. 2021, eq. 12 with sigma 0; epsilon is what x_0 leaves of x_t.)

    Args:
        x_0 (`torch.Tensor` of shape `(batch_size, ...)`): As predicted from x_t.
        x_t (`torch.Tensor`, same shape): The noisy sample.
        alpha_bar (`torch.Tensor`): alpha_bar_t in [0, 1), broadcasts to the samples.
        alpha_bar_prev (`torch.Tensor`): alpha_bar_s in (alpha_bar_t, 1].

    Returns:
        `torch.Tensor` of the same shape: x_s.
    """
    return x_t_from(x_0, epsilon_from_x_0(x_0, x_t, alpha_bar), alpha_bar_prev)


def x_0_of_step(
    x_s: torch.Tensor, x_t: torch.Tensor, alpha_bar: torch.Tensor, alpha_bar_prev: torch.Tensor
) -> torch.Tensor:
    """Find the x_0 with which one step from x_t ends at x_s: `ddim_step` solved for x_0.

    x_0 = (x_s - r x_t) / (sqrt(alpha_bar_s) - r sqrt(alpha_bar_t)),  r = sqrt((1 - alpha_bar_s) / (1 - alpha_bar_t))

    (Salimans and Ho 2022, algorithm 2. The denominator is positive, as s has less noise than t.)

    Args:
        x_s (`torch.Tensor` of shape `(batch_size, ...)`): Where the step ends.
        x_t (`torch.Tensor`, same shape): Where it starts.
        alpha_bar (`torch.Tensor`): alpha_bar_t in [0, 1), broadcasts to the samples.
        alpha_bar_prev (`torch.Tensor`): alpha_bar_s in (alpha_bar_t, 1].

    Returns:
        `torch.Tensor` of the same shape.
    """
    ratio = ((1 - alpha_bar_prev) / (1 - alpha_bar)).sqrt()
    return (x_s - ratio * x_t) / (alpha_bar_prev.sqrt() - ratio * alpha_bar.sqrt())


class Teacher:
    """The pretrained model as it was, with guidance, in steps of DDIM without noise.

    Args:
        config (`TrainConfig`): The run, which distils.
        pretrained (`SDInpaintPipeline`): The model. Its U-Net is copied, and becomes the student.
        scheduler (`SDDDPMScheduler`): Its forward process and prediction.

    Raises:
        ConfigError: If it cannot be a teacher, or not one with so many steps or with guidance.
    """

    def __init__(self, config: TrainConfig, pretrained: SDInpaintPipeline, scheduler: SDDDPMScheduler) -> None:
        settings = config.diffusion.distillation
        self.scheduler, self.substeps = scheduler, settings.substeps
        self.guidance_scale = guidance_of_teacher(config, pretrained)
        check_teacher(config, pretrained, scheduler)
        num_steps = settings.num_inference_steps * settings.substeps
        self.timesteps = torch.from_numpy(trailing(len(scheduler), num_steps)).flip(0)
        self.stride = len(scheduler) // settings.num_inference_steps
        self.student, self.starts_at_student = pretrained.unet, settings.start == "student"
        self.unet = copy.deepcopy(pretrained.unet).requires_grad_(False).eval()
        self.dtype = _DTYPES[str(config.mixed_precision)]
        self.unconditional: torch.Tensor | None = None
        if self.guidance_scale > 1:
            text_encoder = pretrained.text_encoder
            with torch.no_grad():
                input_ids = tokenize(pretrained.tokenizer, [""]).to(text_encoder.device)
                self.unconditional = text_encoder.eval()(input_ids)[0]

    @torch.no_grad()
    def teach(self, arguments: Batch) -> Batch:
        """Put the picture and the noise that the student is to see in the place of those that x_t was made of.

        Args:
            arguments (`dict`): Those of `DenoisingModel.forward`; `timesteps` are among the student's.

        Returns:
            `dict`: The same, but `latents` and `noise`, which still make the same x_t.
        """
        start = arguments["timesteps"]
        self.unet.to(start.device)
        x_t = x_s = self._start(arguments)
        ascending = self.timesteps.to(start.device)
        place = torch.searchsorted(ascending, start)
        end = self._end(start)
        timesteps = start
        for substep in range(1, self.substeps + 1):
            following = end if substep == self.substeps else ascending[place - substep]
            x_0 = self._predict(self.unet, x_s, timesteps, arguments, self.guidance_scale)
            alpha_bar, alpha_bar_prev = self._alpha_bars(timesteps, following, x_s)
            x_s, timesteps = ddim_step(x_0, x_s, alpha_bar, alpha_bar_prev), following
        alpha_bar, alpha_bar_prev = self._alpha_bars(start, timesteps, x_t)
        latents = x_0_of_step(x_s, x_t, alpha_bar, alpha_bar_prev)
        return {**arguments, "latents": latents, "noise": epsilon_from_x_0(latents, x_t, alpha_bar)}

    def _start(self, arguments: Batch) -> torch.Tensor:
        """Diffuse data, or take the student's steps from pure noise, as many as lead to each sample's timestep."""
        if not self.starts_at_student:
            return self.scheduler.add_noise(arguments["latents"], arguments["noise"], arguments["timesteps"])
        x_t = arguments["noise"].clone()
        for timestep in self.timesteps.flip(0)[:: self.substeps].tolist():
            # At least one sample, so that all processes call a sharded network equally often.
            rows = (arguments["timesteps"] < timestep).nonzero().flatten()
            rows = rows if len(rows) else torch.zeros(1, dtype=torch.long, device=x_t.device)
            some = {name: value[rows] for name, value in arguments.items()}
            timesteps = torch.full_like(some["timesteps"], timestep)
            x_0 = self._predict(self.student, x_t[rows], timesteps, some, 1.0)
            moved = ddim_step(x_0, x_t[rows], *self._alpha_bars(timesteps, self._end(timesteps), x_0))
            wanted = (some["timesteps"] < timestep).view(-1, *[1] * (x_t.ndim - 1))
            x_t[rows] = torch.where(wanted, moved, x_t[rows])
        return x_t

    def _end(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Tell where a step of the student ends: not at its next timestep, but where DDIM of diffusers takes it."""
        return (timesteps - self.stride).clamp(min=-1)

    def _alpha_bars(
        self, timesteps: torch.Tensor, following: torch.Tensor, sample: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.scheduler.alpha_bar(timesteps, sample), self.scheduler.alpha_bar(following, sample, first=-1)

    def _predict(
        self,
        unet: SDUNet2DConditionModel,
        x_t: torch.Tensor,
        timesteps: torch.Tensor,
        arguments: Batch,
        guidance_scale: float,
    ) -> torch.Tensor:
        """Predict x_0, with guidance."""
        hidden_states, copies = arguments.get("encoder_hidden_states"), 1
        if guidance_scale > 1 and self.unconditional is not None and hidden_states is not None:
            hidden_states, copies = torch.cat([self.unconditional.expand_as(hidden_states), hidden_states]), 2
        parts = [x_t, *([arguments["added_channels"]] if "added_channels" in arguments else [])]
        model_input = torch.cat([torch.cat(parts, dim=1)] * copies)
        with torch.autocast(x_t.device.type, self.dtype, enabled=self.dtype != torch.float32):
            prediction = unet(model_input, torch.cat([timesteps] * copies), hidden_states).sample.float()
        if copies == 2:
            without, with_prompt = prediction.chunk(2)
            prediction = guide(without, with_prompt, guidance_scale)
        return self.scheduler.limit_x_0(self.scheduler.predict_original_sample(prediction, x_t, timesteps))


def guidance_of_teacher(config: TrainConfig, pretrained: SDInpaintPipeline) -> float:
    """Tell with which guidance the teacher teaches: as the run says, else as it recommends, else as is usual.

    Args:
        config (`TrainConfig`): The run.
        pretrained (`SDInpaintPipeline`): The teacher.
    """
    if config.diffusion.distillation.guidance_scale is not None:
        return config.diffusion.distillation.guidance_scale
    if not pretrained.takes_prompts:
        return 1.0
    return float({**STOCK_EVALUATION, **pretrained.config["recommended_call"]}["guidance_scale"])


def check_teacher(config: TrainConfig, pretrained: SDInpaintPipeline, scheduler: SDDDPMScheduler) -> None:
    """Check that a model can be the teacher of a run.

    Args:
        config (`TrainConfig`): The run.
        pretrained (`SDInpaintPipeline`): The teacher.
        scheduler (`SDDDPMScheduler`): Its forward process and prediction.

    Raises:
        ConfigError: If it cannot.
    """
    settings, path = config.diffusion.distillation, config.diffusion.pretrained_model_name_or_path
    num_steps = settings.num_inference_steps * settings.substeps
    if num_steps > len(scheduler):
        raise ConfigError(
            f"diffusion.distillation.teacher_num_inference_steps = {num_steps}: must be at most {len(scheduler)}, the "
            f"timesteps that {path} was trained on"
        )
    if guidance_of_teacher(config, pretrained) > 1 and not pretrained.takes_prompts:
        raise ConfigError(
            f"diffusion.distillation.guidance_scale = {settings.guidance_scale}: must be 1 or null, as {path} takes "
            "no prompts"
        )
    kind = scheduler.config["prediction_type"]
    if kind == "mean":
        raise ConfigError(
            f"diffusion.pretrained_model_name_or_path = {path!r}: must not predict the mean to be distilled; DDIM, "
            "which the student is sampled with, cannot use it"
        )
    if kind == "epsilon" and float(scheduler.alphas_cumprod[-1]) == 0:
        raise ConfigError(
            f"diffusion.pretrained_model_name_or_path = {path!r}: must not predict epsilon with zero terminal SNR to "
            "be distilled; its first step says nothing of x_0"
        )
