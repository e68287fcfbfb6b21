"""Where fetched models and rebuilt tokenizers are kept between runs.

One folder, `machine.cache_dir`: the platform's own cache folder unless ``SLIPSTREAM_CACHE`` names
another. Deleting it is always safe: everything in it can be fetched or computed again.
"""

from slipstream.machine import cache_dir

__all__ = ["cache_dir"]
