"""Wire types of a language-model call, independent of any provider."""
