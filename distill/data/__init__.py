"""From photos to augmented views and labels."""
