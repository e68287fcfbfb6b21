"""Benchmarks' raw results as JSON files that can be published: no path tells whose machine it was.

The scripts in ``benchmarks/`` write through `write_record`; the user's home becomes ``~``, the
repository ``.`` and any other folder above a file loses its name.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ABSOLUTE = re.compile(r"(?<![\w.:~…/-])/(?:[\w.@+-]+/)*([\w.@+-]+)")
PLAIN = ("/dev/null",)  # the same everywhere


def write_record(result: Mapping[str, Any], path: Path, root: Path) -> None:
    """Writes `result` without paths of this machine; `root` is the repository's folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(without_paths(result, root), indent=1, ensure_ascii=False)
    path.write_text(text + "\n")


def without_paths(value: Any, root: Path, home: Path | None = None) -> Any:
    """The same value with every absolute path in its texts made relative or cut to its name.

    >>> without_paths(["/home/me/code/build/a.gguf", "/opt/python"], Path("/home/me/code"))
    ['./build/a.gguf', '…/python']
    """
    home = home or Path.home()
    if isinstance(value, Mapping):
        return {
            without_paths(key, root, home): without_paths(item, root, home)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_paths(item, root, home) for item in value]
    return _told(value, root, home) if isinstance(value, str) else value


def _told(text: str, root: Path, home: Path) -> str:
    for folder, name in ((root, "."), (home, "~")):
        if folder != Path(folder.anchor):
            text = re.sub(rf"(?<![\w.~-]){re.escape(str(folder))}(?![\w.-])", name, text)
    return ABSOLUTE.sub(lambda found: found[0] if found[0] in PLAIN else f"…/{found[1]}", text)
