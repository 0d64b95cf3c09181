"""What every stage shares: errors, files, photos, and the formats between stages."""
