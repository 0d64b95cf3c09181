"""A bundle as a module for an app: model, preprocessing, typed API, and a self-test."""
