"""The offline pipeline: probes a model's safety boundary, builds steering vectors and exports a validated bundle."""

__version__ = "0.1.0"
