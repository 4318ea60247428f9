"""What an exception out of litellm is about, and what of it may be told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from traceback import walk_tb

__all__ = ["about_credentials", "described", "root_of", "status_of"]

_MAX_MESSAGE_CHARS = 1000
_LITELLM_NAMES = re.compile(r"^(litellm\.\w+: |\w+Exception - )+")
_TRACEBACK = "\nTraceback (most recent call last)"
# What runs while credentials are looked for and used, and at no other time.
_OF_CREDENTIALS = re.compile(r"(botocore|google\.auth|google\.oauth2)(\.|$)|litellm\.llms\.vertex_ai\.vertex_llm_base$")


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that litellm gives an error, its own or a provider's."""
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def about_credentials(error: BaseException) -> bool:
    """Whether an error, or one that it comes from, says that there are no credentials, or that they are not taken."""
    if status_of(error) in (401, 403):
        return True
    for each in _chain(error):
        modules = (frame.f_globals.get("__name__", "") for frame, _ in walk_tb(each.__traceback__))
        if any(_OF_CREDENTIALS.match(module) for module in (type(each).__module__, *modules)):
            return True
    return False


def root_of(error: BaseException) -> str:
    """Return the name of the type of what an error comes from."""
    return type(list(_chain(error))[-1]).__name__


def described(error: Exception) -> str:
    """Return an error's message without the names that litellm puts before it, and the trace that it puts after it."""
    text = str(getattr(error, "message", "")) or str(error) or type(error).__name__
    return _LITELLM_NAMES.sub("", text.partition(_TRACEBACK)[0])[:_MAX_MESSAGE_CHARS]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it comes from, the root last."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__
