"""Anthropic's protocol: `messages`, with `request`, `answer` and `batch`; `claude` is what is known of the models."""
