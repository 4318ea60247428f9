"""The embedded served model: OpenAI chat completions from continuous batching, each row with its own steering."""
