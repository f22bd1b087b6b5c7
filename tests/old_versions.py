"""A version 0 of our format, which never was: what a later version will find of the present one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rekindle import files, manifest, migrations
from rekindle.migrations import Migration


def _manifest(content: dict[str, Any]) -> dict[str, Any]:
    """Version 0 called components parts."""
    return {("components" if key == "parts" else key): value for key, value in content.items()}


def _document(component: str, content: Any) -> Any:
    """Version 0 had no hoisted nodes, and so no object around the root."""
    return {"root": content}


@contextmanager
def version_0() -> Iterator[None]:
    """Have a way from version 0 to version 1."""
    migrations.MIGRATIONS[0] = Migration(manifest=_manifest, document=_document)
    try:
        yield
    finally:
        del migrations.MIGRATIONS[0]


def make_old(path: Path) -> Path:
    """Write a checkpoint of the present version, in a directory, as version 0 would have it."""
    content = json.loads((path / manifest.NAME).read_bytes())
    for part in content["components"].values():
        file = path / part["document"]
        text = json.dumps(json.loads(file.read_bytes())["root"]).encode()
        file.write_bytes(text)
        content["files"][part["document"]] = {"bytes": len(text), "blake3": files.digest(text)}
    content["parts"] = content.pop("components")
    content |= {"version": 0, "digest": ""}
    content["digest"] = content.pop("digest") or "0" * 64
    text = json.dumps(content, indent=2).encode()
    digest = files.digest(text).encode()
    (path / manifest.NAME).write_bytes(text.replace(b"0" * 64, digest))
    return path
