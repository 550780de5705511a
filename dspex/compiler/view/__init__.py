"""Pictures of a graph: Mermaid text, and a page that needs nothing from elsewhere."""

from __future__ import annotations
