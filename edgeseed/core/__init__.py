"""What every stage shares: errors, files, photos, and the formats that stages hand to one another."""
