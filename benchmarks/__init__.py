"""How fast a model is served: torchmar against stock TorchServe, other servers, and no server at all."""
