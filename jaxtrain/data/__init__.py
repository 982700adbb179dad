"""Data: sources, checks, splits, preprocessing, and how the training loop gets examples.

Imports nothing of jaxtrain but `types`, `config` and `errors`.
"""

from jaxtrain.data.arrays import Arrays, Data, DataInfo, compiled_order, epoch, epoch_order, from_arrays, put, take
from jaxtrain.data.feed import Feed, Resident, Streamed, make_feed, memory_left, streams
from jaxtrain.data.folder import read_image
from jaxtrain.data.preprocess import Preprocess, fit_preprocess, normalise
from jaxtrain.data.sources import cache_dir, load_data

__all__ = [
    "Arrays",
    "Data",
    "DataInfo",
    "Feed",
    "Preprocess",
    "Resident",
    "Streamed",
    "cache_dir",
    "compiled_order",
    "epoch",
    "epoch_order",
    "fit_preprocess",
    "from_arrays",
    "load_data",
    "make_feed",
    "memory_left",
    "normalise",
    "put",
    "read_image",
    "streams",
    "take",
]
