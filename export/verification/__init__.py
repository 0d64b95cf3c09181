"""Proof that an exported model is the student, and the likely cause when it is not."""
