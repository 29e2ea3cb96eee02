"""Handlers that run inside TorchServe workers.

They are guests: packed into each archive as the package `handlers`, they import the standard library,
numpy, Pillow and what their runtime needs, and nothing of torchmar.
"""
