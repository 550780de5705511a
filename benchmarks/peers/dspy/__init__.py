"""One typed question-and-answer call, on dspex and on DSPy."""
