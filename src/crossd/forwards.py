"""Forwards for volumes as things to keep: copied, pickled, and made into plain modules."""

import inspect
import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn


def code_of(graph: fx.Graph) -> tuple[str, dict[str, Any]]:
    """The text of a graph's forward, and what it names that is not a module."""
    code = graph.python_code("self")
    names = {name: v for name, v in code.globals.items() if not inspect.ismodule(v)}
    return code.src, names


class Forward:
    """A forward for volumes as text, so that networks can be copied and pickled.

    Args:
        texts: The code in evaluation (False) and in training (True).
        names: Functions that it calls by names of their own.
        image_axes: The number of axes that the module's first tensor has on images.
    """

    def __init__(self, texts: dict[bool, str], names: dict[str, Any], image_axes: int = 4) -> None:
        self.texts, self.names, self.image_axes = texts, names, image_axes
        self._compile()

    def _compile(self) -> None:
        self.functions = {}
        for training, text in self.texts.items():
            space: dict[str, Any] = {"torch": torch, "math": math, "operator": operator}
            space.update(self.names)
            exec(text, space)
            self.functions[training] = space["forward"]

    def __call__(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Run it as the forward of a module."""
        return self.functions[module.training](module, *args, **kwargs)

    def plain(self, module: nn.Module) -> nn.Module:
        """Make a module of torch alone that does on volumes what `module` does."""
        if self.texts[False] != self.texts[True]:
            raise ValueError("its forward in training is another one: register a rule for it")
        return plain_module(module, self.functions[False])

    def __deepcopy__(self, memo: Any) -> "Forward":
        return self

    def __reduce__(self) -> Any:
        return Forward, (self.texts, self.names, self.image_axes)


class Written:
    """A forward for volumes that a rule gives as a function of the module and its arguments.

    Args:
        function: Importable by its name, and traceable by torch.fx.
        plain_form: Makes the plain module, where torch.fx cannot trace the function.
        image_axes: As in `Forward`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        plain_form: Callable[[Any], nn.Module] | None = None,
        image_axes: int = 4,
    ) -> None:
        self.function, self.plain_form, self.image_axes = function, plain_form, image_axes

    def __call__(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Run it as the forward of a module."""
        return self.function(module, *args, **kwargs)

    def plain(self, module: nn.Module) -> nn.Module:
        """Make a module of torch alone that does on volumes what `module` does."""
        return (self.plain_form or self._traced)(module)

    def _traced(self, module: nn.Module) -> nn.Module:
        return plain_module(module, self.function)


class AsksTraining(fx.Tracer):
    """A tracer for which `self.training` is asked when the code runs, not when it is traced.

    Its name is in the pickles of plain modules whose forward hands on `self.training`: torch.fx
    traces their code anew when they are read.
    """

    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Follow no module: each is called by name."""
        return True

    def trace(self, root: Any, concrete_args: Any = None) -> fx.Graph:
        """See `torch.fx.Tracer.trace`."""
        training = root.training
        try:
            graph = super().trace(root, concrete_args)
        finally:
            root.training = training
        asked = [node for node in graph.nodes if node.target == "training"]
        for node in asked:
            if not node.users:
                graph.erase_node(node)
        graph._tracer_cls = AsksTraining if any(node.users for node in asked) else None
        return graph

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """See `torch.fx.Tracer.create_args_for_root`."""
        function, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        asked: Any = self.create_proxy("get_attr", "training", (), {})
        self.root.training = asked
        return function, args


class _Plain(AsksTraining):
    """Traces a forward that is not the module's own.

    Args:
        forward: Takes the module first.
    """

    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.forward = forward

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        return super().create_args_for_root(self.forward, is_module, concrete_args)


def plain_module(module: nn.Module, forward: Callable[..., Any]) -> fx.GraphModule:
    """Make a torch.fx module that has what `module` has and does what `forward` says.

    Args:
        module: Gives the modules, parameters and buffers, under their names.
        forward: A function of the module and its arguments that torch.fx can trace. It may hand
            on `self.training`, but not branch on it.
    """
    return fx.GraphModule(module, _Plain(forward).trace(module), type(module).__name__)
