"""Generation: one denoising loop, and a thin class for each way into it."""
