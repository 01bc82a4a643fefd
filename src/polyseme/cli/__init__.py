"""The command line: `polyseme study`, `demo`, `runs`, `show`, `sites`, `zoo`, `diagnose`, `calibrate`."""


def main() -> int:
    """Entry point of the `polyseme` script; returns the exit status."""
    from polyseme.cli.main import run

    return run()


__all__ = ["main"]
