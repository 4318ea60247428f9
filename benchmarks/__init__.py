"""Measures served models and proxies over HTTP: over-refusal, safety, and how well refusals are recognised."""
