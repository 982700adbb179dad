"""What the machine can do at most, as a contestant of `peers/`: matrix products and copies.

    python benchmarks/limit.py --data data

An "epoch" multiplies f32 matrices of 2048 x 2048 (on a GPU as XLA does by default, in TF32) and copies 256 MB. The
seconds that it answers with are those of the products; the flops and the bandwidth are given beside them.
"""

import argparse
import json
import resource
import sys
import time

SIZE, REPEATS = 2048, 6
COPIED = 2**28


def main() -> None:
    """Answer each line on stdin, as a contestant does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gpu", action="store_true")
    args, _ = parser.parse_known_args()
    multiply, copy = on_gpu() if args.gpu else on_cpu()
    multiply()
    copy()
    print(json.dumps({"ready": 0.0}), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        multiply()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        copying = time.perf_counter()
        copy()
        copying = time.perf_counter() - copying
        answer = {"wall": wall, "cpu": cpu, "flops": REPEATS * 2 * SIZE**3, "bandwidth": 2 * COPIED / copying}
        print(json.dumps(answer), flush=True)
    print(json.dumps({"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}), flush=True)


def on_cpu():
    """By NumPy's BLAS, which is as fast on a matrix as anything here."""
    import numpy as np

    a = np.random.default_rng(0).standard_normal((SIZE, SIZE), dtype=np.float32)
    out, source = np.empty_like(a), np.ones(COPIED // 4, np.float32)
    target = np.empty_like(source)

    def multiply() -> None:
        for _ in range(REPEATS):
            np.matmul(a, a, out=out)

    return multiply, lambda: np.copyto(target, source)


def on_gpu():
    """By JAX."""
    import jax
    import jax.numpy as jnp

    a, source = jax.random.normal(jax.random.key(0), (SIZE, SIZE)), jnp.ones(COPIED // 4)

    @jax.jit
    def products(a):
        return jax.lax.fori_loop(0, REPEATS, lambda _, b: a @ b, a)

    copied = jax.jit(lambda x: x + 1)
    return lambda: jax.block_until_ready(products(a)), lambda: jax.block_until_ready(copied(source))


if __name__ == "__main__":
    main()
