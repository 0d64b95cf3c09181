"""The proof of a bundle: gates, verify, explain, golden photos."""
