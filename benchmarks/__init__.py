"""Measures how fast a model is served: by torchmar, stock TorchServe, other servers, and no server."""
