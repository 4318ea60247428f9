"""Steering dialects: how each engine is told to steer one request, and how it says that it did. One file a dialect."""

from detectors.dialects import DialectName
from proxy.steering.dialect import Dialect, SteeredRequest
from proxy.steering.native import Native
from proxy.steering.none import NoSteering

__all__ = ["Dialect", "DialectName", "Native", "NoSteering", "SteeredRequest"]
