"""Handlers that run inside TorchServe workers.

Each archive carries them as the package `handlers`. They import the standard library, numpy, Pillow and what
their runtime needs, but nothing of torchmar.
"""
