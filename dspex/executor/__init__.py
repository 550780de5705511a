"""The one way in which dspex calls a language model, and what runs programs around it."""
