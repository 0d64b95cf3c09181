"""Programs that measure on a device, apart from the Python agent: one folder a runner."""
