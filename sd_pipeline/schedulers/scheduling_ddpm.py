"""The DDPM scheduler: the forward process that trains a network, and the ancestral sampler that reverses it.

Here are the state and the interface of diffusers; the formulas are in `noise_schedules`, `posterior`,
`parameterisation` and `signal_to_noise`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

from sd_pipeline.schedulers.noise_schedules import BETA_SCHEDULES, rescale_zero_terminal_snr
from sd_pipeline.schedulers.posterior import posterior_mean, reverse_std
from sd_pipeline.schedulers.reverse_process import ReverseProcessMixin
from sd_pipeline.schedulers.scheduler_arguments import (
    check_alphas_cumprod,
    check_arguments,
    read_trained_betas,
)
from sd_pipeline.schedulers.timestep_spacing import custom, spaced

logger = logging.getLogger(__name__)


class SDDDPMScheduler(ReverseProcessMixin, SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """Denoising diffusion probabilistic model: forward process, training target and reverse step.

    The keys, their defaults and the numbers are those of diffusers' `DDPMScheduler`, and configurations move freely
    between this class and the schedulers of diffusers. It differs in what it refuses (every wrong choice, at
    construction), in `prediction_type="mean"`, in `fixed_large_log` (NaN in diffusers 0.42) and in staying finite at
    zero terminal SNR. Timesteps count from 0: timestep t is step t + 1 of the papers.

    Args:
        num_train_timesteps (`int`, defaults to 1000):
            Number of steps T of the forward process.
        beta_start (`float`, defaults to 0.0001):
            First variance, in (0, 1).
        beta_end (`float`, defaults to 0.02):
            Last variance, in [beta_start, 1).
        beta_schedule (`str`, defaults to `"linear"`):
            `"linear"`, `"scaled_linear"`, `"squaredcos_cap_v2"`, `"sigmoid"` or `"laplace"`.
        trained_betas (`np.ndarray` or `list[float]`, *optional*):
            The T variances themselves, in (0, 1), the last at most 1, instead of a schedule.
        variance_type (`str`, *optional*, defaults to `"fixed_small"`):
            `"fixed_small"`, `"fixed_small_log"`, `"fixed_large"` (sigma_t^2 = beta_t, the report's choice),
            `"fixed_large_log"`, `"learned"` or `"learned_range"`; see `posterior.reverse_std`. The learned ones
            expect twice the channels from the model. `None`, which some files of diffusers hold, is `"fixed_small"`.
        clip_sample (`bool`, defaults to `True`):
            Whether the predicted x_0 is clipped at each step. Right for pixels, wrong for latents.
        prediction_type (`str`, defaults to `"epsilon"`):
            What the model predicts: `"epsilon"`, `"sample"` (x_0), `"v_prediction"` or `"mean"` (mu_tilde of a step
            from t to t - 1, report eq. 18 and 19). With zero terminal SNR, `"epsilon"` cannot tell x_0 at the last
            timestep and takes 0 for it: prefer `"v_prediction"`.
        thresholding (`bool`, defaults to `False`):
            Whether the predicted x_0 is thresholded dynamically, instead of clipped.
        dynamic_thresholding_ratio (`float`, defaults to 0.995):
            Quantile of |x_0| that becomes the threshold, in [0, 1].
        clip_sample_range (`float`, defaults to 1.0):
            Largest magnitude that clipping leaves, positive.
        sample_max_value (`float`, defaults to 1.0):
            Largest dynamic threshold, positive.
        timestep_spacing (`str`, defaults to `"leading"`):
            `"linspace"`, `"leading"` or `"trailing"`; see `timestep_spacing`.
        steps_offset (`int`, defaults to 0):
            Added to the timesteps of `"leading"`.
        rescale_betas_zero_snr (`bool`, defaults to `False`):
            Whether the variances are changed so that the last timestep is pure noise.

    Raises:
        ValueError: If an argument has the wrong type, is not one of the choices or is out of range, or if the
            variances make alpha_bar stall or vanish before the last step.

    Example:
        >>> import torch
        >>> from sd_pipeline import SDDDPMScheduler
        >>> scheduler = SDDDPMScheduler(prediction_type="v_prediction", clip_sample=False)
        >>> scheduler.set_timesteps(10)
        >>> latents = torch.randn(1, 4, 8, 8) * scheduler.init_noise_sigma
        >>> for t in scheduler.timesteps:
        ...     latents = scheduler.step(torch.zeros_like(latents), t, latents).prev_sample
        >>> latents.shape
        torch.Size([1, 4, 8, 8])
    """

    __module__ = "sd_pipeline"
    _compatibles = [scheduler.name for scheduler in KarrasDiffusionSchedulers]  # noqa: RUF012 (read by diffusers)
    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: np.ndarray | list[float] | None = None,
        variance_type: str | None = "fixed_small",
        clip_sample: bool = True,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        check_arguments(self.config)
        if trained_betas is not None:
            betas = read_trained_betas(trained_betas, num_train_timesteps)
            # As plain numbers, whatever they came in, so that the configuration can always be saved.
            self.register_to_config(trained_betas=np.asarray(trained_betas, dtype=np.float64).tolist())
        else:
            betas = BETA_SCHEDULES[beta_schedule](num_train_timesteps, beta_start, beta_end)
        self.betas = rescale_zero_terminal_snr(betas) if rescale_betas_zero_snr else betas
        self.alphas = 1 - self.betas
        self.alphas_cumprod = torch.cumprod(self.alphas, dim=0)
        check_alphas_cumprod(self.alphas_cumprod)

        self.init_noise_sigma = 1.0
        self.num_inference_steps: int | None = None
        self.custom_timesteps = False
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Choose the timesteps that sampling visits.

        Args:
            num_inference_steps (`int`, *optional*):
                How many, in [1, num_train_timesteps], spaced by `timestep_spacing`.
            device (`str` or `torch.device`, *optional*):
                Where `self.timesteps` goes.
            timesteps (sequence of `int`, *optional*):
                The timesteps themselves, descending, in [0, num_train_timesteps), instead of a number.

        Raises:
            ValueError: If both or none are given, or one is out of range.
        """
        if timesteps is not None and num_inference_steps is None:
            steps = custom(timesteps, len(self))
        elif num_inference_steps is not None and timesteps is None:
            spacing, offset = self.config["timestep_spacing"], self.config["steps_offset"]
            steps = spaced(len(self), num_inference_steps, spacing, offset)
        else:
            raise ValueError("Give either num_inference_steps or timesteps to set_timesteps.")
        self.custom_timesteps = timesteps is not None
        self.num_inference_steps = len(steps)
        self.timesteps = torch.from_numpy(steps).to(device)
        self._warn_of_noise_at_the_end(int(steps[-1]))

    def _warn_of_noise_at_the_end(self, last: int) -> None:
        """Say so when the last step leaves noise in the result, which neither this class nor diffusers prevents."""
        if last == 0 or self.config["variance_type"] not in ("fixed_large", "fixed_large_log"):
            return
        sigma = float((1 - self.alphas_cumprod[last]).sqrt())
        logger.warning(
            f"variance_type={self.config['variance_type']!r} leaves noise of standard deviation {sigma:.2g} in the "
            f"result, because the timesteps end at {last} and not at 0: use fixed_small, or another timestep_spacing."
        )

    def previous_timestep(self, timestep: torch.Tensor | int) -> int:
        """Give the timestep that sampling visits after this one: t - 1 until `set_timesteps` was called.

        Args:
            timestep (`int` or `torch.LongTensor` of shape `()`): A timestep of the schedule.

        Returns:
            `int`: the next timestep of the schedule, or -1, the data, after its last.

        Raises:
            ValueError: If `timestep` is not in the schedule.
        """
        t = int(timestep)
        schedule = range(len(self) - 1, -1, -1) if self.num_inference_steps is None else self.timesteps.tolist()
        if t not in schedule:
            raise ValueError(
                f"timestep={t} is not among those of set_timesteps, from {schedule[0]} to {schedule[-1]}."
            )
        position = schedule.index(t)
        return schedule[position + 1] if position + 1 < len(schedule) else -1

    def scale_model_input(self, sample: torch.Tensor, timestep: torch.Tensor | int | None = None) -> torch.Tensor:
        """Return the sample as it is; other schedulers scale what the model sees.

        Args:
            sample (`torch.Tensor`, any shape): x_t.
            timestep (`int` or `torch.Tensor`, *optional*): Not used.

        Returns:
            `torch.Tensor`: `sample`.
        """
        return sample

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor | int,
        sample: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> DDPMSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """Take one step of the reverse process, from t to the next timestep s of the schedule (report Algorithm 2).

        x_s = mu_tilde(x_t, x_0) + sigma_t z,  x_0 predicted, then clipped or thresholded, z standard normal

        No noise is added at timestep 0. As in diffusers it is added at the last timestep of a schedule that ends above
        0 (`"trailing"`, or a `steps_offset`), where sigma_t is 0 for `fixed_small` but not for `fixed_large`.

        Args:
            model_output (`torch.Tensor` of shape `(batch_size, num_channels, ...)`):
                The prediction; with a learned variance, twice the channels, the variance in the second half.
            timestep (`int` or `torch.LongTensor` of shape `()`):
                t, one of `self.timesteps`.
            sample (`torch.Tensor` of shape `(batch_size, num_channels, ...)`):
                x_t.
            generator (`torch.Generator` or a list of one a sample, *optional*):
                Source of z.
            return_dict (`bool`, defaults to `True`):
                Whether to return an object instead of a tuple.

        Returns:
            `DDPMSchedulerOutput` with `prev_sample` (x_s) and `pred_original_sample` (x_0), each of the shape and
            dtype of `sample`, or the tuple of both.

        Raises:
            ValueError: If `timestep` is not in the schedule, or `model_output` has not the shape that `sample` and
                `variance_type` ask for.
        """
        t = int(timestep)
        prev_t = self.previous_timestep(t)
        model_output, predicted_variance = self.split_output(model_output, sample)
        x_0 = self.limit_x_0(self.predict_original_sample(model_output, sample, t))
        alpha_bar = self.alpha_bar(t, sample)
        alpha_bar_prev = self.alpha_bar(prev_t, sample, first=-1)
        prev_sample = posterior_mean(x_0, sample, alpha_bar, alpha_bar_prev)
        if t > 0:
            z = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=model_output.dtype)
            sigma = reverse_std(self.config["variance_type"], alpha_bar, alpha_bar_prev, predicted_variance)
            prev_sample = prev_sample + sigma * z
        if not return_dict:
            return prev_sample, x_0
        return DDPMSchedulerOutput(prev_sample=prev_sample, pred_original_sample=x_0)
