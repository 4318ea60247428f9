"""``rass detector``: trains the detectors that ship and converts guard models."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import cast

__all__ = ["add_arguments", "run"]

# Name, module with add_arguments(parser) and run(args) -> int, help. One without its module is left out.
_TRAINED = (
    ("refusal", "rass.detector_training.refusal_command", "fit the weights of the refusal detector"),
    ("boundary", "rass.detector_training.boundary_command", "train the boundary detector that reads text alone"),
)
_ACTIONS = (
    ("export", "rass.detector_training.boundary_export_command", "convert a guard model into an ONNX detector"),
    ("answers", "rass.detector_training.boundary_answers_command", "score answer-harm baselines on labelled answers"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rass detector``; imports nothing heavy."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    train = actions.add_parser("train", help="train a detector that ships")
    _plug_in(train.add_subparsers(dest="detector", required=True, metavar="DETECTOR"), _TRAINED)
    _plug_in(actions, _ACTIONS)


def run(args: argparse.Namespace) -> int:
    """Run the chosen command; returns its exit code."""
    return cast(Callable[[argparse.Namespace], int], args.run_detector)(args)


def _plug_in(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], table: Sequence[tuple[str, str, str]]
) -> None:
    for name, module_name, text in table:
        if importlib.util.find_spec(module_name) is not None:
            module = importlib.import_module(module_name)
            command = commands.add_parser(name, help=text, description=module.__doc__)
            command.formatter_class = argparse.RawDescriptionHelpFormatter
            module.add_arguments(command)
            command.set_defaults(run_detector=module.run)
