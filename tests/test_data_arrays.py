"""Laws of the split, the checks, `take` and the order of an epoch."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.data.arrays import Arrays, compiled_order, digest, epoch, epoch_order, from_arrays, put, take
from jaxtrain.data.split import split_indices
from jaxtrain.errors import RequestError

SIZES = [7, 40, 113, 20]


def _labelled(sizes=SIZES):
    label = np.repeat(np.arange(len(sizes)), sizes)
    label = np.random.default_rng(0).permutation(label)
    image = np.random.default_rng(1).integers(0, 256, (len(label), 5, 4, 3), dtype=np.uint8)
    return image, label


@pytest.mark.parametrize("share", [0.05, 0.1, 1 / 3, 0.5, 0.95])
@pytest.mark.parametrize("seed", [0, 1])
def test_split_is_disjoint_covering_and_stratified(share, seed):
    _, label = _labelled()
    train, val = split_indices(label.astype(np.int32), share, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, val])), np.arange(len(label)))
    counts = np.bincount(label[val], minlength=len(SIZES))
    assert (np.abs(counts - np.array(SIZES) * share) < 1).all()
    assert (counts >= 1).all() and (np.bincount(label[train]) >= 1).all()


def test_split_depends_on_its_seed_only():
    _, label = _labelled()
    first, again, other = (split_indices(label, 0.2, seed)[1] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert len(first) == len(other) and (first != other).any()


def test_regression_split_covers():
    train, val = split_indices(np.zeros((10, 2), np.float32), 0.25, 0)
    assert len(val) == 2 and set(train) | set(val) == set(range(10))


def test_examples_keep_their_labels_through_the_split():
    label = np.tile(np.arange(3), 20)
    image = np.repeat((label * 50 + np.arange(60) % 7).astype(np.uint8)[:, None], 6, axis=1)
    data = from_arrays(image, label, test=(image[:9] + 1, label[:9]), val_share=0.2)
    assert (data.num_train, data.num_val, data.num_test) == (48, 12, 9)
    assert (data.train, data.val, data.test) == ((0, 48), (48, 60), (60, 69))
    np.testing.assert_array_equal(data.image[:, 0] // 50, data.label)
    np.testing.assert_array_equal(data.image[60:], image[:9] + 1)
    np.testing.assert_array_equal(np.sort(data.image[:60, 0]), np.sort(image[:, 0]))


def test_forms_as_stored():
    grey, colour = np.zeros((6, 4, 5), np.uint8), np.zeros((6, 4, 5, 3))
    features, label = np.zeros((6, 4), np.float16), np.array([0, 1] * 3)
    forms = [from_arrays(x, label) for x in (grey, colour, features)]
    assert [d.info.stored_shape for d in forms] == [(4, 5, 1), (4, 5, 3), (4,)]
    assert [d.info.stored_dtype for d in forms] == ["uint8", "float32", "float32"]
    assert all(str(d.image.dtype) == d.info.stored_dtype for d in forms)
    assert forms[0].label.dtype == np.int32 and forms[0].info.num_classes == 2 and forms[0].info.num_targets is None
    target = from_arrays(grey, np.zeros(6))
    assert target.label.shape == (6, 1) and target.info.num_targets == 1 and target.info.num_classes is None
    assert from_arrays(grey, label, class_names=["a", "b", "c"]).info.num_classes == 3


def test_digest_identifies_the_data_set_and_not_the_split():
    image, label = _labelled()
    same = {from_arrays(image, label, val_share=s, split_seed=n).info.sha256 for s, n in [(0.1, 0), (0.3, 1)]}
    changed = image.copy()
    changed[3, 2, 1, 0] ^= 1
    others = [(changed, label), (image.astype(np.float32), label), (image[:-1], label[:-1])]
    assert len(same | {from_arrays(*other).info.sha256 for other in others}) == 4
    assert digest(np.zeros((2, 3), np.uint8)) != digest(np.zeros((3, 2), np.uint8))


IMAGE = np.zeros((6, 4, 4), np.float32)
NAN = np.where(np.arange(96).reshape(6, 4, 4) == 53, np.nan, 1.0)
LABEL = np.array([0, 1, 2, 0, 1, 2])

REFUSED = {
    "different number": (dict(labels=LABEL[:5]), "6 images and 5 labels"),
    "label -1": (dict(labels=np.array([0, 1, 2, -1, 1, 2])), r"labels\[3\] is -1; classes are 0 to 2"),
    "label too large": (dict(labels=LABEL, num_classes=2), r"labels\[2\] is 2; classes are 0 to 1"),
    "label wraps in int32": (dict(labels=LABEL + 2**32, num_classes=3), r"labels\[0\] is"),
    "huge labels": (dict(labels=LABEL * 1000), "there would be 2001 classes for 6"),
    "labels [N, 1]": (dict(labels=LABEL[:, None]), r"\(6, 1\).*labels\[:, 0\]"),
    "one-hot": (dict(labels=np.eye(6, dtype=int)), "argmax"),
    "text labels": (dict(labels=np.array(list("abcabc"))), "dtype <U1"),
    "classes of floats": (dict(labels=LABEL / 2, num_classes=3), "labels.astype"),
    "target NaN": (dict(labels=np.array([0, 1, np.nan, 0, 1, 2])), r"labels\[2, 0\] is nan"),
    "NaN": (dict(images=NAN), r"images\[3, 1, 1, 0\] is nan"),
    "infinite": (dict(images=np.where(np.isnan(NAN), -np.inf, NAN)), r"images\[3, 1, 1, 0\] is -inf"),
    "overflow": (dict(images=np.where(np.isnan(NAN), 1e300, NAN)), "is inf"),
    "integers": (dict(images=IMAGE.astype(int)), "dtype int64.*astype"),
    "objects": (dict(images=IMAGE.astype(object)), "dtype object"),
    "no axis": (dict(images=IMAGE[:, 0, 0]), r"shape \(6,\)"),
    "no examples": (dict(images=IMAGE[:0], labels=LABEL[:0]), "no examples"),
    "no pixels": (dict(images=IMAGE[:, :0]), "no examples|shape"),
    "share 0": (dict(val_share=0.0), "val_share is 0.0"),
    "share 1": (dict(val_share=1), "val_share is 1"),
    "lone class": (dict(labels=np.array([0, 1, 2, 0, 1, 1])), "class 2 has 1 example"),
    "one class": (dict(labels=LABEL * 0), "at least 2"),
    "names": (dict(class_names=["a"], num_classes=3), "1 class names were given for 3"),
    "test shape": (dict(test=(IMAGE[:, :3], LABEL)), r"float32\[4, 4, 1\].*float32\[3, 4, 1\]"),
    "test dtype": (dict(test=(IMAGE.astype(np.uint8), LABEL)), "same shape and dtype"),
    "test labels": (dict(test=(IMAGE, LABEL + 1)), r"there is|test labels\[2\] is 3"),
    "test kind": (dict(test=(IMAGE, LABEL / 2)), "training labels are int32"),
    "test number": (dict(test=(IMAGE, LABEL[:2])), "6 images and 2 test labels"),
    "components": (dict(num_components=3), "num_components is 3 and preprocess"),
    "too many components": (dict(num_components=17, preprocess="pca"), "1 to 16"),
    "preprocess": (dict(preprocess="scale"), "preprocess is 'scale'"),
    "ragged": (dict(images=[[1], [1, 2]]), "images are no array"),
    "labels all negative": (dict(labels=LABEL - 9), r"labels\[0\] is -9; classes are 0 to 0"),
    "no targets": (dict(labels=np.zeros((6, 0))), r"shape \(6, 0\)"),
    "share that is text": (dict(val_share="a"), "val_share is 'a'"),
    "seed below 0": (dict(split_seed=-1), "split_seed is -1; give a whole number from 0 on"),
    "seed of every run another": (dict(split_seed=None), "split_seed is None; expected a whole number"),
    "half a class": (dict(num_classes=3.5), "num_classes is 3.5; expected a whole number"),
    "half a component": (dict(num_components=2.5, preprocess="pca"), "num_components is 2.5; expected a whole"),
    "names in one text": (dict(class_names="abc"), "class_names is 'abc'; expected a list of names"),
    "name that is no text": (dict(class_names=["\ud800", "b", "c"]), "which is no UTF-8"),
    "half a test": (dict(test=(IMAGE,)), r"test is 1 things; expected a pair \(images, labels\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arrays_are_refused_in_one_sentence(case):
    change, message = REFUSED[case]
    arguments = dict(images=IMAGE, labels=LABEL, num_classes=3 if case == "test labels" else None) | change
    with pytest.raises(RequestError, match=message) as error:
        from_arrays(**arguments)
    assert "\n" not in str(error.value)


def test_epoch_order_is_a_permutation_that_differs_between_epochs_and_keys():
    key, other = jax.random.key(0), jax.random.key(1)
    orders = [np.asarray(compiled_order(k, e, 101)) for k in (key, other) for e in range(3)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(101))
    assert len({o.tobytes() for o in orders}) == 6


def test_epoch_order_under_vmap_is_each_members_own():
    keys = jax.random.split(jax.random.key(0), 3)
    rows = jax.jit(jax.vmap(lambda key: epoch_order(key, 2, 101)))(keys)
    np.testing.assert_array_equal(rows, np.stack([compiled_order(k, 2, 101) for k in keys]))


def test_epoch_order_is_traced_once_for_all_epochs():
    traced = jax.jit(chex.assert_max_traces(epoch_order, 1), static_argnums=2)
    for number in range(3):
        traced(jax.random.key(number), number, 101)


def test_take_gathers_normalises_and_weighs():
    image, label = _labelled()
    data = from_arrays(image, label)
    batch = take(put(data), jnp.array([3, 0, 10_000]), jnp.array([1.0, 1.0, 0.0]))
    mean, scale = data.preprocess.shift, data.preprocess.scale
    np.testing.assert_allclose(batch.image, (data.image[[3, 0, -1]].astype(np.float32) - mean) * scale, rtol=1e-6)
    np.testing.assert_array_equal(batch.label, data.label[[3, 0, -1]])
    np.testing.assert_array_equal(batch.weight, [1, 1, 0])
    assert take(put(data), jnp.arange(4)).weight.sum() == 4


@pytest.mark.parametrize("preprocess", ["standardize", "pca"])
def test_take_under_vmap_is_take_row_by_row(preprocess):
    data = from_arrays(*_labelled(), preprocess=preprocess)
    arrays, indices = put(data), jnp.arange(12).reshape(3, 4) * 7
    rows = jax.jit(jax.vmap(take, (None, 0)))(arrays, indices)
    one_by_one = [jax.jit(take)(arrays, row) for row in indices]
    chex.assert_trees_all_close(rows, jax.tree.map(lambda *x: jnp.stack(x), *one_by_one), rtol=1e-5, atol=1e-5)


def test_epoch_gives_the_batches_of_the_compiled_loop():
    data, key = from_arrays(*_labelled()), jax.random.key(5)
    arrays, order = put(data), compiled_order(key, 3, data.num_train)
    batches = list(epoch(data, key, 3, batch_size=25))
    assert len(batches) == data.num_train // 25
    for b, batch in enumerate(batches):
        chex.assert_trees_all_equal(batch, jax.jit(take)(arrays, order[b * 25 : (b + 1) * 25]))


@pytest.mark.parametrize("batch_size", [0, 1000])
def test_epoch_refuses_a_batch_that_is_never_full(batch_size):
    data = from_arrays(*_labelled())
    with pytest.raises(RequestError, match=f"batch_size is {batch_size}; give 1 to {data.num_train}"):
        epoch(data, jax.random.key(0), 0, batch_size)


def test_image_shape_is_what_the_network_gets():
    image, label = _labelled()
    for kind, shape in [("unit", (5, 4, 3)), ("whiten", (60,))]:
        data = from_arrays(image, label, preprocess=kind)
        assert data.image_shape == shape == take(put(data), jnp.arange(2)).image.shape[1:]
    assert from_arrays(image, label, preprocess="pca", num_components=7).image_shape == (7,)


def test_arrays_is_a_pytree_of_arrays():
    arrays = put(from_arrays(*_labelled()))
    assert isinstance(arrays, Arrays) and all(isinstance(x, jax.Array) for x in jax.tree.leaves(arrays))
