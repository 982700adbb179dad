"""Layers and networks in Flax Linen.

Imports only `types` and `errors` besides itself. `BatchNorm`, `Dropout` and `Conv` stand where Flax's would, with the
semantics of the papers; any other Linen module goes beside them.
"""

from jaxtrain.models.batch_norm import BatchNorm, is_own_batch_stats, reset_batch_stats
from jaxtrain.models.conv import Conv, avg_pool, global_avg_pool, global_max_pool, max_pool
from jaxtrain.models.dropout import Dropout
from jaxtrain.models.init import activation, initializer
from jaxtrain.models.inspect import LayerRow, check_model, model_table
from jaxtrain.models.networks import CNN, MLP, Airbench, Linear, ResNet
from jaxtrain.models.whitening import PatchWhitening

__all__ = [
    "CNN",
    "MLP",
    "Airbench",
    "BatchNorm",
    "Conv",
    "Dropout",
    "LayerRow",
    "Linear",
    "PatchWhitening",
    "ResNet",
    "activation",
    "avg_pool",
    "check_model",
    "is_own_batch_stats",
    "global_avg_pool",
    "global_max_pool",
    "initializer",
    "max_pool",
    "model_table",
    "reset_batch_stats",
]
