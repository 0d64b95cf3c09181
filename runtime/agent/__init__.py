"""The agent: what runs on the device, and how it is packed into one file."""
