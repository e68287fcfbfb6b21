"""Lets the tests of this room and of those above import `adapter_worlds`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
