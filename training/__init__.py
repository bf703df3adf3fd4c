"""Training, run from a checkout. It may import sd_pipeline; nothing imports it."""
