"""Checks of the data, before any network: scale, splits, balance, leaks, labels that the image gives away.

Imports data and `subject`. The fact that surprises: a leak makes nothing fail. Scores only become better than they
will ever be again, so it has to be looked for.
"""

import hashlib

import numpy as np

from jaxtrain.checks.checkup import Finding, grade, skipped, worst
from jaxtrain.checks.subject import Subject

NUM_SEEN = 2000  # examples of a split for statistics
NUM_HASHED = 200_000  # examples compared with one another, at most
NUM_FEATURES = 4096  # features looked at one by one, at most
SHARE_LEAKED = 0.01  # of a held-out split; above it the check fails


def input_scale(subject: Subject) -> Finding:
    """Mean, deviation and range of the images as the network gets them."""
    image = _inputs(subject, subject.data.train)
    mean, deviation = float(image.mean()), float(image.std())
    constant = float((np.ptp(image, axis=0) == 0).mean())
    size = np.hypot(mean, deviation)
    verdict = worst(
        grade(size, 3, 20),
        "pass" if deviation > 0.05 else "warn" if deviation > 5e-3 else "fail",
    )
    verdict = worst(verdict, grade(constant, 0.6, 0.999))
    value = f"mean {mean:.3g}, std {deviation:.3g}, {image.min():.3g} to {image.max():.3g}"
    return Finding(
        verdict,
        f"{value}, {constant:.0%} of the features constant",
        "mean near 0, std near 1, features that vary",
        "Normalise the input (data.preprocess='standardize'): initial weights and learning rates are made for inputs"
        " of size 1, and pixels of 0 to 255 saturate or explode the first layer.",
    )


def splits_alike(subject: Subject) -> Finding:
    """Whether training, validation and test images have the same mean and deviation."""
    images = {name: _inputs(subject, getattr(subject.data, name)) for name in ("train", "val", "test")}
    train, others = (
        images.pop("train"),
        {name: image for name, image in images.items() if len(image)},
    )
    deviation = max(float(train.std()), 1e-12)
    shifts = {name: abs(float(image.mean() - train.mean())) / deviation for name, image in others.items()}
    ratios = {name: abs(np.log(max(float(image.std()), 1e-12) / deviation)) for name, image in others.items()}
    verdict = worst(
        grade(max(shifts.values()), 0.5, 3),
        grade(max(ratios.values()), np.log(2), np.log(10)),
    )
    told = [
        f"{name}: mean off by {shifts[name]:.2g} std, std x {image.std() / deviation:.2g}"
        for name, image in others.items()
    ]
    return Finding(
        verdict,
        "; ".join(told),
        "the same mean and std in every split",
        "Bring all splits to the same units and source: a network that sees other numbers in evaluation than in"
        " training is scored on another task.",
    )


def pixels_in_place(subject: Subject) -> Finding:
    """Whether a pixel resembles its neighbour more than pixels further away."""
    shape = subject.data.image.shape[1:]
    if len(shape) != 3 or min(shape[:2]) < 8:
        return skipped("Only images [H, W, C] of 8 pixels and more have neighbours to compare.")
    image = _stored(subject, subject.data.train).astype(np.float32)
    image -= image.mean()
    across, down = _likeness(image), _likeness(image.swapaxes(1, 2))
    excess = max(max(lags[1:]) - lags[0] for lags in (across, down))
    return Finding(
        grade(excess, 0.05, np.inf),
        f"correlation of neighbours {across[0]:.2f} across, {down[0]:.2f} down; further away at most"
        f" {max(across[1:] + down[1:]):.2f}",
        "neighbours most alike",
        "Look at the images as pictures: where distant pixels are more alike than neighbours, axes were confused in a"
        " reshape (channels first or last, rows and columns), and convolutions see noise.",
    )


def label_balance(subject: Subject) -> Finding:
    """How often each class occurs, and whether the splits agree."""
    data, classes = subject.data, subject.data.info.num_classes
    if classes is None:
        return _target_scale(data.label[: data.num_train])
    shares = {name: _shares(data.label[slice(*getattr(data, name))], classes) for name in ("train", "val", "test")}
    train, others = (
        shares["train"],
        [share for name, share in shares.items() if name != "train" and share.any()],
    )
    unseen = sum(int(((train == 0) & (share > 0)).sum()) for share in others)
    empty, apart = (
        int((train == 0).sum()),
        max(np.abs(share - train).sum() / 2 for share in others),
    )
    ratio = train.max() / train[train > 0].min()
    verdict = worst(
        grade(ratio, 10, np.inf),
        grade(apart, 0.2, 0.5),
        grade(unseen, 0, 0),
        grade(empty, 0, classes - 2),
    )
    missing = f", {empty} classes absent" if empty else ""
    return Finding(
        verdict,
        f"{train.min():.1%} to {train.max():.1%} a class{missing}; splits differ in {apart:.1%} of the labels",
        f"about {1 / classes:.1%} each, alike in all splits",
        "Collect, weight or resample the rare classes and split at random within each class (judge by more than"
        " accuracy): one who always says the largest class is right in its share of cases.",
    )


def duplicates(subject: Subject) -> Finding:
    """Images that occur again, within the training split and across the splits."""
    data = subject.data
    codes = _codes(data.image, subject.seed)
    train, val, test = (codes[slice(*getattr(data, name))] for name in ("train", "val", "test"))
    train, val, test = (split[split != 0] for split in (train, val, test))
    repeated = len(train) - len(np.unique(train))
    leaks = {
        "val in train": np.isin(val, train),
        "test in train": np.isin(test, train),
        "test in val": np.isin(test, val),
    }
    shares = [float(leak.mean()) for leak in leaks.values() if len(leak)]
    few_values = data.image[0].size < 16  # of so few features, equal ones need not be the same thing
    verdict = worst(
        grade(max(shares), 0, np.inf if few_values else SHARE_LEAKED),
        grade(repeated / max(len(train), 1), 0.01, np.inf),
    )
    found = ", ".join(f"{int(leak.sum())} {name}" for name, leak in leaks.items() if len(leak))
    part = "" if len(data.label) <= NUM_HASHED else f" (of {NUM_HASHED:,} examples compared)"
    return Finding(
        verdict,
        f"{repeated} within train, {found}{part}",
        f"none across splits (fail above {SHARE_LEAKED:.0%})",
        "Remove the copies, or keep all copies of an image in one split: a held-out image that was trained on measures"
        " memory, and the score is too good.",
    )


def conflicting_labels(subject: Subject) -> Finding:
    """Identical images with different labels."""
    data = subject.data
    if data.info.num_classes is None:
        return skipped("Targets of a regression may differ for equal inputs: that is noise, not a mistake.")
    codes = _codes(data.image, subject.seed)
    seen = np.flatnonzero(codes)
    pairs = np.unique(np.stack([codes[seen], data.label[seen].astype(np.uint64)]), axis=1)
    images, counts = np.unique(pairs[0], return_counts=True)
    conflicts = int((counts > 1).sum())
    return Finding(
        grade(
            conflicts / max(len(images), 1),
            0,
            np.inf if data.image[0].size < 16 else 0.01,
        ),
        f"{conflicts} of {len(images):,} different images",
        "none",
        "Look at these examples and correct their labels: no network can be right on both, and the loss cannot reach"
        " zero.",
    )


def label_in_a_feature(subject: Subject) -> Finding:
    """How well the best single pixel or feature tells the class."""
    classes = subject.data.info.num_classes
    if classes is None:
        return skipped("There are no classes that a single feature could tell.")
    rows = _rows(subject, subject.data.train)
    image, label = (
        subject.data.image[rows].reshape(len(rows), -1),
        subject.data.label[rows],
    )
    chosen = np.random.default_rng(subject.seed).permutation(image.shape[1])[:NUM_FEATURES]
    told = [_told_by(image[:, index], label, classes) for index in chosen]
    best, majority = max(told), float(_shares(label, classes).max())
    # Of a few features one may well decide between two classes; of an image's pixels none decides between many.
    surely = image.shape[1] >= 64 and classes > 2
    return Finding(
        grade(best if best - majority > 0.2 else 0.0, 0.9, 0.97 if surely else np.inf),
        f"the best of {len(told):,} features alone tells {best:.0%} of the labels (number {chosen[np.argmax(told)]})",
        "below 90 %",
        "Look at this feature and take it out if it was made from the label (an identifier, a mark, a date): in use it"
        " will not be there.",
    )


def _rows(subject: Subject, split: tuple[int, int]) -> np.ndarray:
    first, stop = split
    return np.sort(np.random.default_rng(subject.seed).permutation(stop - first)[:NUM_SEEN]) + first


def _stored(subject: Subject, split: tuple[int, int]) -> np.ndarray:
    return subject.data.image[_rows(subject, split)]


def _inputs(subject: Subject, split: tuple[int, int]) -> np.ndarray:
    """As the network gets them, without augmentation; at most `NUM_SEEN`."""
    stored = _stored(subject, split)
    return subject.prepared(stored) if len(stored) else stored


def _likeness(image: np.ndarray) -> list[float]:
    """Correlation of pixels 1, 2, ... columns apart, up to half the width."""
    lags = range(1, image.shape[2] // 2 + 1)
    pairs = [(image[:, :, :-lag], image[:, :, lag:]) for lag in lags]
    return [float((a * b).mean() / max(np.sqrt((a * a).mean() * (b * b).mean()), 1e-12)) for a, b in pairs]


def _shares(label: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(label, minlength=classes) / max(len(label), 1)


def _target_scale(target: np.ndarray) -> Finding:
    """What balance is to classes: targets that vary, and are not far from 0 in units of their deviation."""
    mean, deviation = target.mean(0), target.std(0)
    off = float(np.max(np.abs(mean) / np.maximum(deviation, 1e-12)))
    constant = bool((deviation <= 1e-6 * np.maximum(np.abs(mean), 1e-6)).any())
    return Finding(
        worst(
            "fail" if constant else "pass",
            grade(off, 10, np.inf),
            grade(float(deviation.max()), 100, np.inf),
        ),
        f"targets' mean {mean[0]:.3g}, std {deviation[0]:.3g}" + (" (the first)" if len(mean) > 1 else ""),
        "targets that vary, near mean 0 and std 1",
        "Standardize the targets with the training split's mean and std (and undo it in use): a network begins near 0,"
        " and spends its steps on the offset.",
    )


def _codes(image: np.ndarray, seed: int) -> np.ndarray:
    """u64[N], equal for equal images; 0 for those left out, where there are too many to compare."""
    rows = np.random.default_rng(seed).permutation(len(image))[:NUM_HASHED]
    codes = np.zeros(len(image), np.uint64)
    for row in rows:
        digest = hashlib.blake2b(image[row].tobytes(), digest_size=8).digest()
        codes[row] = int.from_bytes(digest, "little") or 1
    return codes


def _told_by(feature: np.ndarray, label: np.ndarray, classes: int) -> float:
    """Share of labels that are right if each value of the feature gets its most frequent class."""
    levels, code = np.unique(feature, return_inverse=True)
    if len(levels) > 32:  # so many values that each is nearly an example of its own
        code = code * 32 // len(levels)
    table = np.bincount(code * classes + label, minlength=32 * classes).reshape(-1, classes)
    return float(table.max(1).sum() / len(label))
