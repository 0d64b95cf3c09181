"""What proves an export right."""
