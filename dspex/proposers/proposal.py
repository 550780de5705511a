"""What a proposer hands over: a new member of one Variable's pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from dspex.program.demos import DemoSet, DemoSource, Nearest
from dspex.telemetry.events import Json


def _no_details() -> dict[str, Json]:
    return {}


@dataclass(frozen=True)
class Proposal:
    """One new member of a Text or Demos pool.

    Attributes:
        variable: Full name of the Variable.
        member: The text or the demonstration source.
        proposer: Who wrote it, for example ``labelled`` or ``lm``.
        details: Figures for the log.
    """

    variable: str
    member: str | DemoSource
    proposer: str
    details: Mapping[str, Json] = field(default_factory=_no_details)

    @property
    def fixed(self) -> bool:
        """Whether every input sees the same prompt."""
        return not isinstance(self.member, Nearest)

    @property
    def digest(self) -> str:
        """Hash of the member's content."""
        if isinstance(self.member, str):
            return sha256(self.member.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return self.member.hash

    def as_json(self) -> Json:
        """The member as the log keeps it; of a pool of nearest demonstrations, the training data, only the size."""
        if isinstance(self.member, str):
            return self.member
        if isinstance(self.member, DemoSet):
            return self.member.to_json()
        member = self.member
        return {
            "kind": "nearest",
            "name": member.name,
            "k": member.k,
            "spread": member.spread,
            "pool": len(member.pool),
        }
