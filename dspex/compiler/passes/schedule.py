"""Schedules: what may run together, and what keeps its order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

from dspex.compiler.ir.effects import acting
from dspex.compiler.ir.nodes import Graph, Input, Map, Node, Ref, Region, operands, rebuilt, regions
from dspex.compiler.passes.sharing import OUTSIDE, Sharing

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["Schedule"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Keeps the source order of the nodes that act on the world, and of those that read what such nodes may change.

    Each acting node of a region is `after` the acting node before it, unless a path of values or of `after` leads there
    anyway; a node that holds one acts as a whole. A value that can be changed in place is exposed from the first acting
    node on that is given it, or gives it: a node that reads it is `after` the acting node before it, and the acting
    node that comes next is `after` its readers. A `map` whose region does not act is not `ordered`. All other nodes are
    ordered by the values that they read alone. Idempotent.

    Attributes:
        schemas: The classes behind the graph's names of schemas; a value of one that is missing can be changed.
    """

    schemas: Mapping[str, type[BaseModel]] = field(default_factory=dict[str, "type[BaseModel]"])
    name: str = "schedule"

    def run(self, graph: Graph) -> Graph:
        acts = acting(graph.body)
        sharing = Sharing(graph, self.schemas)
        # Groups of values in the order in which they are exposed.
        exposed: dict[int, None] = {OUTSIDE: None}

        def scheduled(region: Region) -> Region:
            # How many of the region's acting nodes have ended for sure once a node has ended. What is read inside a
            # node does not count, since the region that reads it may not run.
            ended: dict[int, int] = {}
            nodes: list[Node] = []
            last, count = 0, 0
            # Nodes that have read since the last acting node: what is exposed, and what may be exposed later.
            due: dict[int, None] = {}
            readers: dict[int, list[int]] = {}
            for given in region.nodes:
                acts_here, known = given.id in acts, len(exposed)
                if acts_here:
                    exposed.update(dict.fromkeys(sharing.exposed_at_once(given)))
                node = rebuilt(given, lambda item: item, scheduled) if regions(given) else given
                if isinstance(node, Input):
                    nodes.append(node)
                    continue
                waits = [*(value.node for value in operands(node) if isinstance(value, Ref)), *node.after]
                more: list[int] = []
                if acts_here:
                    exposed.update(dict.fromkeys(sharing.exposes(node)))
                    for group in islice(exposed, known, None):
                        due.update(dict.fromkeys(readers.pop(group, ())))
                    more = [number for number in due if number not in waits]
                    due.clear()
                before = max((ended.get(number, 0) for number in (*waits, *more)), default=0)
                read = sharing.reads(node)
                if before < count and (acts_here or not read.isdisjoint(exposed)):
                    more.insert(0, last)
                    before = count
                if acts_here:
                    count += 1
                    last, before = node.id, count
                else:
                    for group in read:
                        if group in exposed:
                            due[node.id] = None
                        else:
                            readers.setdefault(group, []).append(node.id)
                    if isinstance(node, Map) and node.ordered:
                        node = replace(node, ordered=False)
                if more:
                    node = replace(node, after=(*node.after, *more))
                ended[node.id] = before
                nodes.append(node)
            return Region(tuple(nodes), region.output)

        return replace(graph, body=scheduled(graph.body))
