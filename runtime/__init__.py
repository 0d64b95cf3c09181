"""From a bundle and a device to a result."""
