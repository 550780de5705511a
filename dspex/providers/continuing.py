"""Choices as the continuation of a raw prompt: as plain texts, and as a grammar of llama.cpp."""

from __future__ import annotations

from functools import lru_cache

__all__ = ["grammar", "lead"]


def lead(prompt: str | None) -> str:
    """What stands between the end of `prompt` and a choice."""
    return " " if prompt and not prompt[-1].isspace() else ""


@lru_cache(maxsize=512)
def grammar(choices: tuple[str, ...], before: str) -> str:
    """A grammar, in llama.cpp's dialect of BNF, of exactly `choices`, each after `before`."""
    return "root ::= " + " | ".join(_literal(before + choice) for choice in dict.fromkeys(choices))


def _literal(text: str) -> str:
    out: list[str] = []
    for character in text:
        if character in '"\\':
            out.append("\\" + character)
        elif character < " " or character == "\x7f":
            out.append(f"\\x{ord(character):02X}")
        else:
            out.append(character)
    return '"' + "".join(out) + '"'
