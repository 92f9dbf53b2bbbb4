"""Tracing a forward with torch.fx in the course of its recorded runs, so that values are known."""

import inspect
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from crossd.recording import Frames
from crossd.trial import Mismatch

SIMPLE = (bool, int, float, str, type(None))


class Untraceable(Mismatch):
    """A forward that cannot be traced or translated."""


class _Proxy(fx.Proxy):
    """A proxy that knows what it stands for in each of the runs."""

    tracer: "RunTracer"

    def __len__(self) -> int:
        return self.tracer.length(self)

    def __index__(self) -> int:
        return int(self.tracer.agreed(self, operator.index))

    def __getattr__(self, k: str) -> "_Attribute":
        return _Attribute(self, k)


class _Attribute(fx.proxy.Attribute, _Proxy):
    """An attribute or method of a proxy."""


class RunTracer(fx.Tracer):
    """Traces a module in the course of its recorded call, so that it knows every value."""

    proxy_buffer_attributes = True

    def __init__(self, frames: Frames, training: bool) -> None:
        super().__init__()
        self.frames = frames
        self.training, self.branches = training, False
        module = frames[0].module  # looked up here: asking a module that is traced gives a proxy
        self.state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self.values: dict[fx.Node, list[Any]] = {}
        self.ahead = [iter(frame.inner) for frame in frames]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Follow no module: each is called by name."""
        return True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Give proxies that know their values."""
        return _Proxy(node, self)

    def create_proxy(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Note the value of every new node in each of the runs."""
        proxy = super().create_proxy(kind, target, *args, **kwargs)
        if proxy.node not in self.values:
            with torch.no_grad():
                self.values[proxy.node] = [
                    self._value(proxy.node, run) for run in range(len(self.frames))
                ]
        return proxy

    def _value(self, node: fx.Node, run: int) -> Any:
        args, kwargs = map_arg((node.args, node.kwargs), lambda n: self.values[n][run])
        if node.target == "training":
            return self.training
        if node.op == "get_attr":
            return self.state[str(node.target)]
        if node.op == "call_module":
            inner = next(self.ahead[run], None)
            if inner is None or inner.module is not self.root.get_submodule(str(node.target)):
                raise Untraceable("it calls other modules when traced")
            return inner.output
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if node.op == "call_function":
            return node.target(*args, **kwargs)  # type: ignore[operator]
        raise Untraceable(f"unexpected {node.op}")

    def agreed(self, proxy: fx.Proxy, of: Callable[[Any], Any]) -> Any:
        """Give something of a value that depends neither on the size of the images nor on them."""
        values = self.values[proxy.node]
        if isinstance(values[0], Tensor):
            raise Untraceable("it branches on what is in the image")
        found = [of(value) for value in values]
        if any(value != found[0] for value in found) or self._sized(proxy.node):
            raise Untraceable("it branches on the size of the image")
        return found[0]

    def length(self, proxy: fx.Proxy) -> int:
        """Give the length of a value, the same for images of every size."""
        lengths = {len(value) for value in self.values[proxy.node]}
        if len(lengths) > 1:
            raise Untraceable("it goes through something as long as the image is large")
        return lengths.pop()

    def _sized(self, node: fx.Node) -> bool:
        """Tell whether a value was computed from a size that changes with the image."""
        own = self.values[node]
        if isinstance(own[0], Tensor) or (
            len(tree_leaves(own[0])) and isinstance(tree_leaves(own[0])[0], Tensor)
        ):
            return False
        if any(value != own[0] for value in own):
            return True
        return any(self._sized(parent) for parent in node.all_input_nodes)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Settle a condition that does not depend on the image."""
        self.branches = self.branches or obj.node.target == "training"
        return bool(self.agreed(obj, bool))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Go through something whose length does not depend on the image."""
        proxy: Any = obj
        return iter([proxy[index] for index in range(self.length(obj))])

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """Give tensors as proxies, everything else as it was in the runs."""
        signature = inspect.signature(root_fn)
        bound = [signature.bind(self.root, *f.args, **f.kwargs) for f in self.frames]
        for one in bound:
            one.apply_defaults()
        asked: Any = self.create_proxy("get_attr", "training", (), {})
        self.root.training = asked
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for name, parameter in list(signature.parameters.items())[1:]:
            values = [one.arguments[name] for one in bound]
            variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if variable and not values[0]:
                continue
            if parameter.kind is parameter.VAR_KEYWORD:
                raise Untraceable(f"it takes arguments by keywords that it does not name: **{name}")
            target = f"*{name}" if variable else name
            default: tuple[Any, ...] = ()
            if parameter.default is not parameter.empty:
                default = (parameter.default if isinstance(parameter.default, SIMPLE) else None,)
            node = self.create_node("placeholder", target, default, {})
            self.values[node] = values
            known: Any = self.proxy(node)
            if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(values[0])):
                if not isinstance(values[0], SIMPLE):
                    raise Untraceable(f"it takes {type(values[0]).__name__} as {name!r}")
                node.meta["constant"], known = values[0], values[0]
            if variable:
                args += list(known)
            elif parameter.kind is parameter.KEYWORD_ONLY:
                kwargs[name] = known
            else:
                args.append(known)
        return (lambda: root_fn(self.root, *args, **kwargs)), []
