"""1,797 handwritten digits of 8x8 pixels, embedded in the package: real data where there is no network.

Imports nothing of jaxtrain but its neighbours here. The data is the test part of "Optical Recognition of Handwritten
Digits" by E. Alpaydin and C. Kaynak (UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49), licence
CC BY 4.0, in the order in which scikit-learn has it (`load_digits`); changed in form only. The surprise: it is stored
with 17 grey levels, 0 to 16, and given with 256, so that it is prepared as any other image is.
"""

from pathlib import Path

import numpy as np

from jaxtrain.data.folder import Source

DIGIT_NAMES = tuple("0123456789")


def digits() -> Source:
    """Images u8[1437, 8, 8], labels, and a test split of 360.

    A pixel is round(255 v / 16) for the published v in 0 to 16. The published set has no test split of its own: 36 of
    each digit are the test split here, the same ones for ever, for their indices are stored beside the images. (They
    were drawn once by `numpy.random.default_rng(0)`, digit by digit, without replacement.)
    """
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as stored:
        image, label, test_index = stored["image"], stored["label"].astype(np.int32), stored["test_index"]
    image = ((image.astype(np.uint16) * 255 + 8) // 16).astype(np.uint8)
    in_test = np.zeros(len(label), bool)
    in_test[test_index] = True
    return Source(image[~in_test], label[~in_test], (image[in_test], label[in_test]), DIGIT_NAMES)


def digits_28() -> Source:
    """`digits`, enlarged to 28x28 by linear interpolation: MNIST's form, for a program that expects MNIST."""
    small = digits()
    test = None if small.test is None else (_enlarge(small.test[0]), small.test[1])
    return Source(_enlarge(small.image), small.label, test, small.class_names)


def _enlarge(image: np.ndarray, side: int = 28) -> np.ndarray:
    """u8[N, side, side] from u8[N, n, n], in integers, so that it is the same everywhere."""
    n = image.shape[1]
    # Centre of new pixel i on the old grid is (i + 1/2) n / side - 1/2; times 2 side that is a whole number.
    unit = 2 * side
    position = np.clip((2 * np.arange(side) + 1) * n - side, 0, (n - 1) * unit)
    weight = np.maximum(unit - np.abs(position[:, None] - unit * np.arange(n)), 0)  # [side, n], rows sum to unit
    enlarged = np.einsum("ih,jw,nhw->nij", weight, weight, image.astype(np.int64), optimize=True)
    return ((enlarged + unit**2 // 2) // unit**2).astype(np.uint8)
