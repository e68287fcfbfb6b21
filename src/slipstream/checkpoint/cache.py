"""Where fetched models and rebuilt tokenizers are kept between runs.

One folder, the platform's own cache folder unless ``SLIPSTREAM_CACHE`` names another. Deleting it
is always safe: everything in it can be fetched or computed again.
"""

import os
from pathlib import Path

from platformdirs import user_cache_dir


def cache_dir() -> Path:
    """The cache folder (not created): ``$SLIPSTREAM_CACHE``, else the platform's convention."""
    chosen = os.environ.get("SLIPSTREAM_CACHE")
    return Path(chosen).expanduser() if chosen else Path(user_cache_dir("slipstream", False))
