"""scikit-learn's handwritten digits: 1,797 real 8x8 images with 17 grey levels, shipped inside its wheel."""

import numpy as np
from sklearn.datasets import load_digits

from orchestrator.spec.data import Digits
from workers.data.arrays import Arrays


def load(spec: Digits) -> Arrays:  # noqa: ARG001  (every data set's loader takes its spec)
    """All images as training images: there is no published split."""
    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    return Arrays(pixels, labels.astype(np.int64), None, None, classes=10)
