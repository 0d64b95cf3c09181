"""Kinds of device, one a file."""
