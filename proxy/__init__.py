"""An OpenAI-compatible proxy that recovers over-refused requests and leaves warranted refusals alone."""
