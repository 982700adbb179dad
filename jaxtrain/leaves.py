"""The leaves of a pytree by path: on the host and back, described, hashed, compared.

Imports `errors` only. The fact that surprises: on a CPU `device_get` gives a view of a buffer that may be donated a
moment later, so what goes to the disk is copied first.
"""

import hashlib
import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.errors import RequestError

PyTree = Any
Record = dict[str, Any]
"""What a checkpoint says of a leaf: spec (f32[784,256]), dtype and shape as stored, sha256, and impl if it is a key."""

_SHORT = {"bfloat": "bf", "float": "f", "uint": "u", "int": "i", "complex": "c"}


class Mismatch(RequestError):
    """The checkpoint is whole, but of another tree than the one asked for."""


def digest(tree: PyTree) -> str:
    """SHA-256 of all leaves in the order of their paths: equal for equal bits, on any device and any version of JAX.

    For each leaf, sorted by path, the line `["params/Dense_0/kernel", "float32", [784, 256]]` as JSON and then the
    bytes, row by row and little-endian; a PRNG key has its key data.
    """
    leaves = named_leaves(tree)
    total = hashlib.sha256()
    for path, array in sorted(to_host(leaves, copy=False).items()):
        total.update(json.dumps([path, str(array.dtype), list(array.shape)]).encode() + b"\n")
        total.update(raw_bytes(array))
    return total.hexdigest()


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """path -> leaf, in the tree's order. Paths as in params/Dense_0/kernel."""
    leaves: dict[str, Any] = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        if path in leaves:
            raise RequestError(f"two leaves have the path {path}; rename one (does a name hold a '/'?)")
        if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
            raise RequestError(f"leaf {path} is {leaf!r:.60}, a {type(leaf).__name__}; it must be an array")
        leaves[path] = leaf
    return leaves


def is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def to_host(leaves: dict[str, Any], *, copy: bool = True) -> dict[str, np.ndarray]:
    """path -> NumPy array; copied, because on a CPU `device_get` returns a view of a buffer that may be donated."""
    raw = {path: jax.random.key_data(leaf) if is_key(leaf) else leaf for path, leaf in leaves.items()}
    host = {path: np.array(leaf, copy=copy or None) for path, leaf in jax.device_get(raw).items()}
    for path, array in host.items():
        if array.dtype.hasobject or array.dtype.kind in "USMm":
            raise RequestError(f"leaf {path} has dtype {array.dtype}; it must hold numbers or booleans")
    return host


def to_device(array: np.ndarray, record: Record) -> Any:
    if "impl" in record:
        return jax.random.wrap_key_data(jnp.array(array), impl=record["impl"])
    # float64 with x64 off stays in NumPy: a silent cast is no exact restore.
    return jnp.array(array) if jax.dtypes.canonicalize_dtype(array.dtype) == array.dtype else array


def kind_of(leaf: Any) -> Record:
    impl = {"impl": str(jax.random.key_impl(leaf))} if is_key(leaf) else {}
    return {"spec": spec(leaf), **impl}


def described(array: np.ndarray) -> Record:
    sha256 = hashlib.sha256(raw_bytes(array)).hexdigest()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "sha256": sha256}


def raw_bytes(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def empty(record: Record) -> np.ndarray:
    """An array of no elements, which Orbax refuses to hold."""
    return np.zeros(record["shape"], jnp.dtype(record["dtype"]))


def spec(leaf: Any) -> str:
    """f32[784,256], bool[], bf16[3], key<fry>[8]."""
    dtype = re.sub(r"^(bfloat|float|uint|int|complex)(?=\d+$)", lambda word: _SHORT[word[0]], str(leaf.dtype))
    return f"{dtype}[{','.join(map(str, leaf.shape))}]"


def check_fit(records: dict[str, Record], wanted: dict[str, str]) -> list[str]:
    """The wanted paths, if the checkpoint holds these leaves and no other."""
    held = {path: record["spec"] for path, record in records.items()}
    differ = sorted(path for path in held.keys() | wanted.keys() if held.get(path) != wanted.get(path))
    if not differ:
        return list(wanted)
    path, more = differ[0], f" (and {len(differ) - 1} more leaves differ)" if len(differ) > 1 else ""
    if path not in wanted:
        raise Mismatch(f"the checkpoint has {path} {held[path]}, the config has no such leaf{more}")
    if path not in held:
        raise Mismatch(f"the checkpoint has no {path}, the config wants {wanted[path]}{more}")
    raise Mismatch(f"the checkpoint has {path} {held[path]}, the config wants {wanted[path]}{more}")


def under(records: dict[str, Record], prefixes: list[str]) -> list[str]:
    """Paths that are a prefix or lie under one."""
    for prefix in prefixes:
        if not any(f"{path}/".startswith(f"{prefix}/") for path in records):
            held = ", ".join(sorted({path.split("/")[0] for path in records}))
            raise RequestError(f"the checkpoint holds nothing under {prefix!r}; it holds {held or 'nothing'}")
    return [path for path in records if any(f"{path}/".startswith(f"{prefix}/") for prefix in prefixes)]


def nested(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        *parents, name = path.split("/")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = array
    return tree
