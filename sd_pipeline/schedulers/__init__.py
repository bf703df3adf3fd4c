"""Noise schedules and the forward and reverse processes."""
