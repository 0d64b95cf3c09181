"""From photos and a teacher to a student."""
