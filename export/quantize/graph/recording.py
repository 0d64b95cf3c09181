"""Runs a graph and hands some of its values to a function on the way."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import Tensor, fx

See = Callable[[fx.Node, Tensor], Tensor | None]
"""Gets a node and its value; what it gives back takes the value's place for all that follows."""
SeeInputs = Callable[[fx.Node, Mapping[fx.Node, Any]], None]
"""Gets a node that is about to run, and all values so far. They may be written over afterwards."""


class Recorder(fx.Interpreter):
    """Runs a graph module as it is, and shows values of chosen nodes.

    Args:
        graph_module: To run, with `run(images)`.
        names: Nodes that are shown, as far as the graph has them.
        see: Called after each of them has run. It must not keep a value of a graph that writes over
            its tensors (`in_place`).
        see_inputs: Called before each of them runs.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        names: Collection[str],
        *,
        see: See | None = None,
        see_inputs: SeeInputs | None = None,
    ) -> None:
        super().__init__(graph_module)
        self.names = frozenset(names)
        self.see, self.see_inputs = see, see_inputs

    def run_node(self, n: fx.Node) -> object:
        """Runs one node."""
        is_shown = n.name in self.names
        if is_shown and self.see_inputs is not None:
            self.see_inputs(n, self.env)
        value = super().run_node(n)
        if not is_shown or self.see is None:
            return value
        assert isinstance(value, Tensor)
        changed = self.see(n, value)
        return value if changed is None else changed
