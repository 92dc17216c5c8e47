"""Real photographs for the demo and the tests, from PyPI packages whose code is neither imported nor needed.

- astronaut.png (512 x 512, scikit-image): Eileen Collins, by NASA, https://flic.kr/p/r9qvLn; public domain.
- china.jpg (640 x 427, scikit-learn): the Summer Palace, by danielbuechele, CC BY 2.0,
  https://www.flickr.com/photos/danielbuechele/6061409035/
- flower.jpg (640 x 427, scikit-learn): a dahlia, by vultilion, CC BY 2.0,
  https://www.flickr.com/photos/vultilion/6056698931/

Authors and licences as the packages state them: skimage/data/_fetchers.py, sklearn/datasets/images/README.txt
"""

import sys
from pathlib import Path

from local.stack.errors import StackError

INSTALLED = Path(sys.prefix) / "photographs"  # by local/install.sh
PLACES = {
    "astronaut.png": "skimage/data",
    "china.jpg": "sklearn/datasets/images",
    "flower.jpg": "sklearn/datasets/images",
}


def photographs() -> dict[str, Path]:
    """The photographs' files by name; `StackError` if one is not installed."""
    found = {name: INSTALLED / folder / name for name, folder in PLACES.items()}
    for path in found.values():
        if not path.is_file():
            raise StackError(f"The photograph {path} is missing.", "Run `make install`.")
    return found
