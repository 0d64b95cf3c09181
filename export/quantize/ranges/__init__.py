"""Ranges of tensors, from calibration photos to scales."""
