"""Make `sample.npz`, the embedded sample of Fashion-MNIST, from the four original idx files.

    python experiments/data/fashion_mnist/make_sample.py FOLDER

FOLDER contains train-images-idx3-ubyte.gz and its three companions: Debian's package dataset-fashion-mnist puts them in
/usr/share/datasets/fashion-mnist; torchvision's FashionMNIST downloads them to <root>/FashionMNIST/raw.

The sample is class-balanced: of the 60,000 training images the first 1,000 of each class, in the original order, and
all 10,000 test images. The file is a zip of .npy arrays, so it loads with numpy and without pickle.
"""

import gzip
import sys
from pathlib import Path

import numpy as np

PER_CLASS = 1000
TARGET = Path(__file__).with_name("sample.npz")


def read_idx(path: Path) -> np.ndarray:
    """An idx file of unsigned bytes: two zero bytes, type 8, the number of dimensions, the dimensions, the data."""
    data = gzip.decompress(path.read_bytes())
    zero, kind, dimensions = int.from_bytes(data[:2], "big"), data[2], data[3]
    if zero or kind != 8:
        raise SystemExit(f"{path} is not an idx file of unsigned bytes")
    shape = np.frombuffer(data, ">u4", dimensions, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def main(folder: Path) -> None:
    images, labels = read_idx(folder / "train-images-idx3-ubyte.gz"), read_idx(folder / "train-labels-idx1-ubyte.gz")
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == label)[:PER_CLASS] for label in range(10)]))
    np.savez_compressed(
        TARGET,
        train_images=images[chosen],
        train_labels=labels[chosen],
        test_images=read_idx(folder / "t10k-images-idx3-ubyte.gz"),
        test_labels=read_idx(folder / "t10k-labels-idx1-ubyte.gz"),
    )
    print(f"{TARGET}: {len(chosen):,} training images, {TARGET.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
