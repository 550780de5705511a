"""Google's Gemini protocol: `generate`, with `request` and `answer`."""
