"""The command line: `rekindle demo | show | ls | verify | prune | pin | fork | ...`."""

from __future__ import annotations


def main() -> int:
    """Run the command that the command line names; returns the exit status."""
    from rekindle.cli.app import run

    return run()
