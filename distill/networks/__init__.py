"""The networks of a training run: students, frozen teachers, features."""
