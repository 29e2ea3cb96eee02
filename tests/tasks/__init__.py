"""The tasks with real models, out of packages."""
