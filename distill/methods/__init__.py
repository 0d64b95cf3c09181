"""The distillation methods, one published method a file."""
