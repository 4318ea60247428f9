"""Detectors: what an answer is, where a request lies, and the bundles that say so. Imports nothing of ours."""
