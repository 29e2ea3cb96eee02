"""Handlers that run inside TorchServe workers.

They are packed into each archive as the package `handlers`, and import the standard library,
numpy, Pillow and what their runtime needs, and nothing of torchmar.
"""
