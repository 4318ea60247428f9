"""``rass-detect``: scores logs, evaluates and explains the detectors.

Exit codes: 0 done, 1 done but some lines could not be scored (each has an error object in its place) or a run-time
failure, 2 bad usage or input. Heavy imports happen inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from typing import cast

__all__ = ["main"]

# Name, module with add_arguments(parser) and run(args) -> int, help. One without its module is left out.
_COMMANDS = (
    ("refusal", "detectors.refusal_command", "say of each answer on standard input whether it refuses"),
    ("boundary", "detectors.boundary_command", "say of each request on standard input on which side it lies"),
    ("evaluate", "detectors.evaluate_command", "score the refusal detector on labelled answers"),
    ("explain", "detectors.explain_command", "show the words that decided a verdict"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``rass-detect COMMAND``; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="rass-detect",
        description="Detect refusals in answers, and on which side of the safety boundary requests lie.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module_name, text in _COMMANDS:
        if importlib.util.find_spec(module_name) is not None:
            module = importlib.import_module(module_name)
            command = commands.add_parser(name, help=text, description=module.__doc__)
            command.formatter_class = argparse.RawDescriptionHelpFormatter
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    try:
        return cast(Callable[[argparse.Namespace], int], args.run)(args)
    except BrokenPipeError:
        # The reader (`head`, a pager) has gone. What is still buffered must not raise again when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
