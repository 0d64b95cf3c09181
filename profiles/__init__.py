"""Facts about devices, one a file."""
