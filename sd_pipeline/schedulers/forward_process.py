"""The forward process of a scheduler: from data to noise, and what a prediction along the way says about both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from sd_pipeline.schedulers import parameterisation, posterior, signal_to_noise


class ForwardProcessMixin:
    """Noise, training target and conversions of a scheduler that has `alphas_cumprod` and `config`.

    All of it is a function of alpha_bar at the timesteps asked for; nothing here depends on which timesteps sampling
    visits.
    """

    alphas_cumprod: torch.Tensor
    if TYPE_CHECKING:
        config: dict[str, Any]

    def __len__(self) -> int:
        return self.config["num_train_timesteps"]

    def add_noise(
        self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor | int
    ) -> torch.Tensor:
        """Diffuse clean samples forward to their timesteps.

        x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) epsilon        (Ho et al. 2020, Eq. 4; report eq. 15)

        Args:
            original_samples (`torch.Tensor` of shape `(batch_size, ...)`): x_0, floating point, about unit variance.
            noise (`torch.Tensor`, same shape): epsilon, standard normal.
            timesteps (`torch.LongTensor` of shape `(batch_size,)`, or `int`): Steps in [0, num_train_timesteps).

        Returns:
            `torch.Tensor` of the shape and dtype of `original_samples`: x_t.

        Raises:
            ValueError: If the timesteps are not integers or, where they are on the CPU, out of range.
        """
        alpha_bar = self.alpha_bar(timesteps, original_samples)
        return parameterisation.x_t_from(original_samples, noise, alpha_bar).to(original_samples.dtype)

    def get_velocity(self, sample: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor | int) -> torch.Tensor:
        """Give the velocity that `"v_prediction"` predicts.

        v = sqrt(alpha_bar) epsilon - sqrt(1 - alpha_bar) x_0        (Salimans and Ho 2022, section 4)

        Args:
            sample (`torch.Tensor` of shape `(batch_size, ...)`): x_0, floating point.
            noise (`torch.Tensor`, same shape): epsilon, standard normal.
            timesteps (`torch.LongTensor` of shape `(batch_size,)`, or `int`): Steps in [0, num_train_timesteps).

        Returns:
            `torch.Tensor` of the shape and dtype of `sample`: v.

        Raises:
            ValueError: As for `add_noise`.
        """
        return parameterisation.velocity_from(sample, noise, self.alpha_bar(timesteps, sample)).to(sample.dtype)

    def training_target(
        self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor | int
    ) -> torch.Tensor:
        """Give what the network must predict from x_t: epsilon, x_0, v, or mu_tilde of the step from t to t - 1.

        With a learned variance this is the target of the first half of the channels; the other half has none.

        Args:
            original_samples (`torch.Tensor` of shape `(batch_size, ...)`): x_0, floating point.
            noise (`torch.Tensor`, same shape): The epsilon that x_t was made with.
            timesteps (`torch.LongTensor` of shape `(batch_size,)`, or `int`): Steps in [0, num_train_timesteps).

        Returns:
            `torch.Tensor` of the shape and dtype of `original_samples`.

        Raises:
            ValueError: As for `add_noise`.
        """
        kind = self.config["prediction_type"]
        if kind == "epsilon":
            return noise
        if kind == "sample":
            return original_samples
        if kind == "v_prediction":
            return self.get_velocity(original_samples, noise, timesteps)
        x_t = self.add_noise(original_samples, noise, timesteps)
        return self.posterior_mean_variance(original_samples, x_t, timesteps, timesteps - 1)[0]

    def snr(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Give alpha_bar / (1 - alpha_bar) at each timestep; see `signal_to_noise.snr`.

        Args:
            timesteps (`torch.LongTensor`, any shape): Steps in [-1, num_train_timesteps); -1 stands for the data.

        Returns:
            `torch.Tensor` of the same shape, float32, in [0, inf].
        """
        return signal_to_noise.snr(self.alphas_cumprod, timesteps)

    def alpha_bar(self, timesteps: torch.Tensor | int, like: torch.Tensor, first: int = 0) -> torch.Tensor:
        """Look alpha_bar up, on the device of the samples; it is 1 at timestep -1, the data.

        Args:
            timesteps (`torch.LongTensor` of shape `(batch_size,)`, or `int`): In [first, num_train_timesteps).
            like (`torch.Tensor` of shape `(batch_size, ...)`): The samples.
            first (`int`, defaults to 0): The lowest timestep that is allowed, -1 or 0.

        Returns:
            `torch.Tensor` in [0, 1]: for one timestep a number, which leaves half precision in half precision, as in
            diffusers' `step`; for one a sample of shape `(batch_size, 1, ...)`, in float32 at least.

        Raises:
            ValueError: If the timesteps are not integers or, where they are on the CPU, out of range.
        """
        self.alphas_cumprod = self.alphas_cumprod.to(like.device)
        if not isinstance(timesteps, torch.Tensor):
            self._check_range(timesteps, timesteps, first)
            return self.alphas_cumprod[timesteps] if timesteps >= 0 else self.alphas_cumprod.new_ones(())
        if timesteps.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"timesteps have dtype {timesteps.dtype}; they must be int64 or int32.")
        # A look at timesteps on another device would wait for all work queued there; it checks indices by itself.
        if timesteps.device.type == "cpu" and timesteps.numel() > 0:
            self._check_range(int(timesteps.min()), int(timesteps.max()), first)
        from_data = F.pad(self.alphas_cumprod, (1, 0), value=1.0)
        alpha_bar = from_data[timesteps.to(like.device) + 1].to(torch.promote_types(like.dtype, torch.float32))
        return alpha_bar.reshape(-1, *[1] * (like.ndim - 1))

    def _check_range(self, lowest: int, highest: int, first: int) -> None:
        if lowest < first or highest >= len(self):
            wrong = lowest if lowest < first else highest
            raise ValueError(f"timestep={wrong} must be from {first} to {len(self) - 1}.")

    def predict_original_sample(
        self, model_output: torch.Tensor, sample: torch.Tensor, timesteps: torch.Tensor | int
    ) -> torch.Tensor:
        """Turn a prediction into x_0, neither clipped nor thresholded; see `parameterisation` for the formulas.

        Args:
            model_output (`torch.Tensor` of shape `(batch_size, ...)`): The prediction, without a learned variance.
            sample (`torch.Tensor`, same shape): x_t.
            timesteps (`torch.LongTensor` of shape `(batch_size,)`, or `int`): Steps in [0, num_train_timesteps).

        Returns:
            `torch.Tensor` of the same shape, dtype of `sample`: x_0; for `"epsilon"` at alpha_bar = 0 it is 0.

        Raises:
            ValueError: As for `add_noise`.
        """
        kind = self.config["prediction_type"]
        if kind == "sample":
            return model_output
        alpha_bar = self.alpha_bar(timesteps, sample)
        if kind == "epsilon":
            x_0 = parameterisation.x_0_from_epsilon(model_output, sample, alpha_bar)
        elif kind == "v_prediction":
            x_0 = parameterisation.x_0_from_velocity(model_output, sample, alpha_bar)
        else:
            alpha_bar_prev = self.alpha_bar(timesteps - 1, sample, first=-1)
            x_0 = parameterisation.x_0_from_mean(model_output, sample, alpha_bar, alpha_bar_prev)
        return x_0.to(sample.dtype)

    def predict_epsilon(
        self, model_output: torch.Tensor, sample: torch.Tensor, timesteps: torch.Tensor | int
    ) -> torch.Tensor:
        """Turn a prediction into epsilon; see `parameterisation` for the formulas.

        Args:
            model_output (`torch.Tensor` of shape `(batch_size, ...)`): The prediction, without a learned variance.
            sample (`torch.Tensor`, same shape): x_t.
            timesteps (`torch.LongTensor` of shape `(batch_size,)`, or `int`): Steps in [0, num_train_timesteps).

        Returns:
            `torch.Tensor` of the same shape, dtype of `sample`: epsilon.

        Raises:
            ValueError: As for `add_noise`.
        """
        kind = self.config["prediction_type"]
        if kind == "epsilon":
            return model_output
        alpha_bar = self.alpha_bar(timesteps, sample)
        if kind == "v_prediction":
            return parameterisation.epsilon_from_velocity(model_output, sample, alpha_bar).to(sample.dtype)
        x_0 = self.predict_original_sample(model_output, sample, timesteps)
        return parameterisation.epsilon_from_x_0(x_0, sample, alpha_bar).to(sample.dtype)

    def posterior_mean_variance(
        self,
        x_0: torch.Tensor,
        x_t: torch.Tensor,
        timestep: torch.Tensor | int,
        prev_timestep: torch.Tensor | int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Give mean and variance of q(x_s | x_t, x_0), s any timestep before t (report eq. 17-18, corrected).

        Args:
            x_0 (`torch.Tensor` of shape `(batch_size, ...)`): Clean samples.
            x_t (`torch.Tensor`, same shape): Noisy samples.
            timestep (`torch.LongTensor` of shape `(batch_size,)`, or `int`): t, in [0, num_train_timesteps).
            prev_timestep (`torch.LongTensor` of shape `(batch_size,)`, or `int`): s, in [-1, t); -1 is the data.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: the mean, of the shape and dtype of `x_t`, and the variance, of shape
            `(batch_size, 1, ...)` or `()`, float32 at least, in [0, 1).

        Raises:
            ValueError: As for `add_noise`.
        """
        alpha_bar = self.alpha_bar(timestep, x_t)
        alpha_bar_prev = self.alpha_bar(prev_timestep, x_t, first=-1)
        mean = posterior.posterior_mean(x_0, x_t, alpha_bar, alpha_bar_prev).to(x_t.dtype)
        return mean, posterior.posterior_variance(alpha_bar, alpha_bar_prev)
