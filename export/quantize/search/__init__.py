"""Which ranges win and which layers stay in float."""
