"""Where the activation detectors get a request's coordinates from: the engine that serves the model."""

from __future__ import annotations

from detectors.bundle import Bundle
from detectors.coordinates import CoordinateReader, reader_over
from proxy.settings import Settings
from proxy.steering import DialectName
from proxy.upstream.post import READ_PATH, PostOverUpstream
from proxy.upstream.protocol import Upstream
from proxy.wires.completions import COMPLETIONS

TOKENIZE_PATH = "/tokenize"
_PURPOSE = "reading"


def choose_reader(
    settings: Settings, bundle: Bundle | None, upstream: Upstream, api_key: str | None
) -> CoordinateReader:
    """Return what reads coordinates through ``upstream``: vLLM captures activations, others must read themselves."""
    if settings.dialect is not DialectName.VLLM_LENS or bundle is None:
        return reader_over(PostOverUpstream(upstream, READ_PATH, api_key, purpose=_PURPOSE))
    from detectors.captures import CapturingReader, answer_bytes

    longest = settings.detectors.capture_tokens
    return CapturingReader(
        bundle,
        tokenize=PostOverUpstream(upstream, TOKENIZE_PATH, api_key, purpose=_PURPOSE),
        complete=PostOverUpstream(
            upstream, COMPLETIONS.path, api_key, purpose=_PURPOSE, max_bytes=answer_bytes(bundle, longest)
        ),
        max_tokens=longest,
    )
