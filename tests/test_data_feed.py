"""Streamed and resident feeds give the same examples, whatever the windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.data.arrays import epoch_order, from_arrays, take
from jaxtrain.data.feed import MAX_MEMBERS, Resident, Streamed, make_feed
from jaxtrain.errors import RequestError

N, BATCH = 130, 8


@pytest.fixture(scope="module")
def data():
    image = np.random.default_rng(0).integers(0, 256, (N, 4, 4), dtype=np.uint8)
    return from_arrays(image, np.arange(N) % 3, val_share=0.2, test=(image[:31], np.arange(31) % 3))


@pytest.fixture(params=[1, 20 * BATCH * 3, 1 << 20], ids=["window 1", "window 3", "window epoch"])
def streamed(data, request):
    feed = Streamed(data, window_bytes=request.param)  # an example has 20 bytes: 16 pixels and a label
    yield feed
    feed.close()


def _batches(feed, key, epoch, lengths):
    """The batches of an epoch taken in chunks of these lengths, cut where the feed says."""
    step, batches = 0, []
    while limit := feed.limit(step, BATCH):
        num_steps = min(limit, lengths[len(batches) % len(lengths)])
        arrays, order, first = feed.chunk(key, epoch, step, num_steps, BATCH)
        for i in range(num_steps):
            indices = jax.lax.dynamic_slice(order, ((first + i) * BATCH,), (BATCH,))
            batches.append(jax.tree.map(np.asarray, jax.jit(take)(arrays, indices)))
        step += num_steps
    return batches


@pytest.mark.parametrize("lengths", [[1], [2, 5], [100]])
def test_streamed_batches_equal_resident_batches(data, streamed, lengths):
    key, resident = jax.random.key(3), Resident(data)
    for epoch in (0, 1, 5):
        ours, theirs = (_batches(f, key, epoch, lengths) for f in (streamed, resident))
        assert len(ours) == len(theirs) == data.num_train // BATCH
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_members_and_jumps_do_not_disturb_each_other(data, streamed):
    keys, resident = [jax.random.key(s) for s in range(2)], Resident(data)
    for member, epoch, step in [(0, 0, 3), (1, 0, 3), (0, 1, 0), (1, 0, 4), (0, 0, 9), (1, 7, 12)]:
        seen = []
        for feed in (streamed, resident):
            arrays, order, first = feed.chunk(keys[member], epoch, step, 1, BATCH)
            seen.append(np.asarray(take(arrays, order[first * BATCH : (first + 1) * BATCH]).image))
        np.testing.assert_array_equal(*seen)


def test_every_window_has_the_same_shape(data, streamed):
    key = jax.random.key(0)
    chunks = [streamed.chunk(key, 0, s, 1, BATCH)[:2] for s in range(data.num_train // BATCH)]
    assert len({str(jax.tree.map(jnp.shape, c)) for c in chunks}) == 1


@pytest.mark.parametrize("batch_size", [1, 7, 64, N + 31])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_spans_cover_each_example_once(data, streamed, batch_size, split):
    start, stop = getattr(data, split)
    for feed in (streamed, Resident(data)):
        seen, pieces = [], list(feed.spans(start, stop, batch_size))
        for number, (arrays, lo, hi) in enumerate(pieces):
            assert number == len(pieces) - 1 or (hi - lo) % batch_size == 0
            for at in range(lo, hi, batch_size):
                index = at + jnp.arange(batch_size)
                batch = take(arrays, index, (index < hi).astype(jnp.float32))
                seen.append(np.asarray(batch.image)[np.asarray(batch.weight) == 1])
        expected = take(Resident(data).arrays, jnp.arange(start, stop)).image
        np.testing.assert_array_equal(np.concatenate(seen), expected)


def test_spans_pieces_have_one_shape_for_all_splits(data, streamed):
    pieces = [a for split in (data.train, data.val, data.test) for a, _, _ in streamed.spans(*split, 7)]
    assert len({str(jax.tree.map(jnp.shape, a)) for a in pieces}) == 1
    assert list(streamed.spans(5, 5, 7)) == list(Resident(data).spans(5, 5, 7)) == []


def test_the_order_is_computed_once_an_epoch(data, monkeypatch):
    computed = []
    monkeypatch.setattr("jaxtrain.data.feed.compiled_order", lambda *a: computed.append(a) or epoch_order(*a))
    keys = [jax.random.key(s) for s in range(2)]
    for feed in (Resident(data), Streamed(data, window_bytes=1)):
        computed.clear()
        for epoch in range(2):
            for step in range(3):
                for key in keys:
                    feed.chunk(key, epoch, step, 1, BATCH)
        assert len(computed) == 4
        feed.close()


def test_memory_of_members_is_bounded(data):
    feed = Resident(data)
    for seed in range(MAX_MEMBERS + 5):
        feed.chunk(jax.random.key(seed), 0, 0, 1, BATCH)
    assert len(feed._orders) == MAX_MEMBERS


def test_asking_beyond_the_limit_is_an_error(data, streamed):
    for feed in (streamed, Resident(data)):
        with pytest.raises(ValueError, match="limit"):
            feed.chunk(jax.random.key(0), 0, 0, feed.limit(0, BATCH) + 1, BATCH)


class _Device:
    platform = "gpu"

    def __init__(self, free):
        self.free = free

    def memory_stats(self):
        return {"bytes_limit": self.free + 10, "bytes_in_use": 10}


@pytest.mark.parametrize(("free", "kind", "why"), [(10_000, Resident, "less than"), (6_000, Streamed, "more than")])
def test_auto_streams_what_takes_over_half_of_the_free_memory(data, monkeypatch, free, kind, why):
    monkeypatch.setattr("jaxtrain.data.feed.put", lambda data, device: None)  # the device is made up
    monkeypatch.setattr("jaxtrain.data.feed.jax.device_put", lambda x, device: x)
    feed = make_feed(data, device=_Device(free))  # 161 examples of 20 bytes: 3,220
    assert type(feed) is kind and why in feed.why
    feed.close()


def test_the_mode_decides_and_is_checked(data):
    for mode, kind in [("never", Resident), ("always", Streamed), ("auto", Resident)]:
        feed = make_feed(data, mode)
        assert type(feed) is kind and feed.why
        feed.close()
    with pytest.raises(RequestError, match="stream is 'sometimes'"):
        make_feed(data, "sometimes")  # pyright: ignore[reportArgumentType]
