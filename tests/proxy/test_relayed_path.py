"""Which requests a listed path stands for."""

from __future__ import annotations

import pytest

from proxy.relayed_path import RelayedPath


@pytest.mark.parametrize("text", ["POST /v1/embeddings", "GET /v1/models/*", "DELETE /a/b.c/d-e"])
def test_a_listed_path_is_written_as_it_was_read(text):
    assert str(RelayedPath.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["/v1/x", "GET v1", "GET /", "GET /*", "GET /v1/*/x", "get /v1", "GET /v1/../x", "GET /./x", "GET /v1/", ""]
)
def test_what_is_no_listed_path(text):
    with pytest.raises(ValueError, match="no listed path"):
        RelayedPath.parse(text)


@pytest.mark.parametrize("path", ["/v1/models/a", "/v1/models/Owner/name", "/v1/models/a:b@1.5", "/v1/models/模型"])
def test_a_wildcard_stands_for_what_comes_below(path):
    assert RelayedPath.parse("GET /v1/models/*").matches("GET", path)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models",
        "/v1/models/",
        "/v1/models/..",
        "/v1/models/../rass/read",
        "/v1/models/a/../../rass/read",
        "/v1/models/.",
        "/v1/models//a",
        "/v1/models/a/",
        "/v1/models/a\\..\\b",
        "/v1/models/%2e%2e/x",
        "/v1/models/a?b",
        "/v1/models/a#b",
        "/v1/models/a;b",
        "/v1/models/a\nb",
        "/v1/modelsx",
        "/V1/models/a",
    ],
)
def test_and_for_nothing_else(path):
    assert not RelayedPath.parse("GET /v1/models/*").matches("GET", path)


def test_the_method_counts():
    assert not RelayedPath.parse("POST /v1/embeddings").matches("GET", "/v1/embeddings")
    assert RelayedPath.parse("POST /v1/embeddings").matches("POST", "/v1/embeddings")
