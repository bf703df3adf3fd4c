"""Painting a hole in images that are otherwise kept: what inpainting and outpainting share."""

from __future__ import annotations

import torch

from sd_pipeline.models.inpainting_channels import latent_mask
from sd_pipeline.pipelines.call import Call
from sd_pipeline.pipelines.generation_pipeline import SDGenerationPipeline
from sd_pipeline.pipelines.image_inputs import one_for_each, pad_to_multiple
from sd_pipeline.pipelines.known_region import KnownRegion, restore_known_pixels


class SDPaintingPipeline(SDGenerationPipeline):
    """Fill holes with a text-to-image U-Net, whose known latents are put back in each step, or an inpainting U-Net."""

    takes_masked_images = True

    @property
    def window_of_training(self) -> tuple[int, int] | None:
        """Height and width of the latents that the U-Net was trained on, as far as it knows."""
        size = self.unet.config.sample_size
        if size is None:
            return None
        return (size[0], size[1]) if isinstance(size, (list, tuple)) else (size, size)

    def canvas_shape(self, call: Call, images: torch.Tensor) -> tuple[int, int, int, int]:
        """Work out the shape of the latents that cover images of any size, in whole squares of `size_multiple`.

        Args:
            call (`Call`): Checked.
            images (`torch.Tensor` of shape `(num_given, 3, height, width)`): Of any size.

        Returns:
            `tuple[int, int, int, int]`: `(num_images, num_channels, height / factor, width / factor)`.
        """
        multiple, factor = self.size_multiple, self.vae_scale_factor
        height, width = (-(-side // multiple) * multiple // factor for side in images.shape[-2:])
        return call.num_images, self.num_latent_channels, height, width

    def paint(
        self,
        call: Call,
        images: torch.Tensor,
        holes: torch.Tensor,
        strength: float,
        timesteps: torch.Tensor,
        latents: torch.Tensor | None = None,
        masked_image_latents: torch.Tensor | None = None,
        window: tuple[int, int] | None = None,
    ) -> torch.Tensor:
        """Paint latents.

        Args:
            call (`Call`): Checked.
            images (`torch.Tensor` of shape `(num_given, 3, height, width)`): In [0, 1], float32; one, or one a prompt.
            holes (`torch.Tensor` of shape `(num_given, 1, height, width)`): 1 where to paint, else 0; likewise.
            strength (`float`): 1 starts from noise, less from the images with noise.
            timesteps (`torch.Tensor` of shape `(num_timesteps,)`): Of `take_timesteps`.
            latents (`torch.Tensor` of shape `(num_images, num_channels, height, width)`, *optional*): The noise.
            masked_image_latents (`torch.Tensor`, *optional*): What an inpainting U-Net is told of the kept pixels.
            window (`tuple[int, int]`, *optional*): See `DenoisingInputs`.

        Returns:
            `torch.Tensor` of shape `(num_images, num_channels, height, width)`: x_0 of the whole canvas.
        """
        factor, device, dtype = self.vae_scale_factor, call.device, self.unet.dtype
        canvas, hole = (pad_to_multiple(given, self.size_multiple) for given in (images, holes))
        canvas = canvas * 2 - 1
        numbers = (call.num_prompts, call.num_images_per_prompt)
        mask = one_for_each(latent_mask(hole, factor), *numbers, "mask_image").to(device, dtype)
        shape = (call.num_images, self.num_latent_channels, *mask.shape[-2:])

        # Noise is drawn in the order of diffusers, for the same pictures from the same generator.
        puts_back = window is not None or not self.is_inpainting_model
        starts_from_noise = strength == 1
        image_latents = None
        if puts_back or not starts_from_noise:
            image_latents = self.encode_for_call(call, canvas)
        noise = self.draw_noise(call, shape, latents)
        if image_latents is None or starts_from_noise:
            start = noise * self.scheduler.init_noise_sigma
        elif len(timesteps) == 0:
            start = image_latents
        else:
            start = self.scheduler.add_noise(image_latents, noise, timesteps[:1].expand(call.num_images))

        added_channels = None
        if self.is_inpainting_model and masked_image_latents is not None:
            of_masked_images = masked_image_latents.to(device, dtype).expand(shape)
            added_channels = torch.cat([mask, of_masked_images], dim=1)
        elif self.is_inpainting_model:
            added_channels = torch.cat([mask, self.encode_for_call(call, canvas * (1 - hole))], dim=1)
        elif self.vae is not None:
            # diffusers encodes the masked image for a U-Net that does not look at it too, and draws this noise.
            is_list = isinstance(call.generator, (list, tuple))
            num_masked = call.num_images if is_list else max(len(images), len(holes))
            self.draw_noise(call, (num_masked, *shape[1:]))
        known = None
        if puts_back and image_latents is not None:
            known = KnownRegion(image_latents, noise, mask)
        return self.run(call, start, timesteps, added_channels=added_channels, known=known, window=window)

    def keep(self, call: Call, made: torch.Tensor, images: torch.Tensor, holes: torch.Tensor) -> torch.Tensor:
        """Give the pictures that were made the kept pixels of the given ones, bit for bit.

        Args:
            call (`Call`): Checked.
            made (`torch.Tensor` of shape `(num_images, 3, any, any)`): In [0, 1]; the upper left part is used.
            images (`torch.Tensor` of shape `(num_given, 3, height, width)`): As given.
            holes (`torch.Tensor` of shape `(num_given, 1, height, width)`): 1 where was painted, else 0.

        Returns:
            `torch.Tensor` of shape `(num_images, 3, height, width)`: float32, in [0, 1], on the CPU.
        """
        height, width = images.shape[-2:]
        numbers = (call.num_prompts, call.num_images_per_prompt)
        original, hole = one_for_each(images, *numbers, "image"), one_for_each(holes, *numbers, "mask_image")
        return restore_known_pixels(made[..., :height, :width], original, hole, self.vae_scale_factor)
