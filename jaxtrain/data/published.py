"""The published data sets: files, checksums, mirrors, class names.

Imports nothing. The surprise: checksums are of two kinds, of the file as it is downloaded, and of what is in it, by
which a copy from anywhere is recognised.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class IdxFile:
    """A file of an IDX data set as its authors published it: the .gz by size and MD5, its content by SHA-256."""

    name: str
    size: int
    md5: str
    sha256: str


@dataclass(frozen=True)
class IdxSet:
    """Training images, training labels, test images, test labels."""

    files: tuple[IdxFile, ...]
    mirrors: tuple[str, ...]
    class_names: tuple[str, ...]


_NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _files(*rows: tuple[int, str, str]) -> tuple[IdxFile, ...]:
    return tuple(IdxFile(name, *row) for name, row in zip(_NAMES, rows, strict=True))


_MNIST = _files(
    (9912422, "f68b3c2dcbeaaa9fbdd348bbdeb94873", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    (28881, "d53e105ee54ea40749a09fcbcd1e9432", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    (1648877, "9fb629c4189551a2d022fa330f9573f3", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    (4542, "ec29112dd5afa0611ce80d1b7f02629c", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
)

_FASHION_MNIST = _files(
    (26421880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d", "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
    (29515, "25c81989df183df01b3e8a0aad5dffbe", "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    (4422102, "bef4ecab320f06d8554ea6380940ec79", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
    (5148, "bb300cfdad3c16e7a12a480ee83cd310", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
)

# These checksums were compared with real copies of the published files. The mirrors could not be tried (this was
# written where none can be reached): the code that talks to them is tested against a server on the loopback.
IDX_SETS = {
    "mnist": IdxSet(
        _MNIST,
        ("https://storage.googleapis.com/cvdf-datasets/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/"),
        tuple("0123456789"),
    ),
    "fashion_mnist": IdxSet(
        _FASHION_MNIST,
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        tuple("T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")),
    ),
}

# Neither this mirror nor the archive's own size and MD5 could be tried; the six batches in it were (`cifar.SHA256`).
CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR10_SIZE = 170052171
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR10_MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)
