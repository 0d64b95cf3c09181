"""Proof that an exported model is the student: references, gates, and the likely cause when it is not."""
