"""Traced networks in files: .pt2 of torch.export, and .onnx; writing them, and running them.

Only torch is needed for .pt2; the libraries of ONNX are imported when one is written or run.
"""

import importlib.util
import inspect
import os
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config
from torch.utils._pytree import tree_leaves

from crossd.errors import InputError

SUFFIXES = (".pt2", ".onnx")

LARGEST = 2**31
"""Bytes of an .onnx file: the most that its format, protobuf, holds."""

METADATA = "crossd"
"""Key of the JSON in an .onnx file's metadata; in a .pt2 the name of an extra file, with .json."""

_NOT_ONE = re.compile(r"L\['\w+'\]\.size\(\)\[0\] (!=|>) 1")

Shape = tuple[int | str | None, ...]
Run = Callable[[Tensor], list[Tensor]]


def trace(net: nn.Module, example: Tensor, free_size: bool) -> ExportedProgram:
    """Trace a network with a free batch and, where its code allows it, free spatial axes."""
    axes = range(2, example.dim()) if free_size else ()
    shape = {0: Dim.DYNAMIC, **dict.fromkeys(axes, Dim.AUTO)}
    first = next(iter(inspect.signature(net.forward).parameters.values()), None)
    if first is not None and first.kind is first.VAR_POSITIONAL:
        net = _OfOneInput(net).train(net.training)
    with _lengths_of_one():
        program = torch.export.export(net, (example,), dynamic_shapes=(shape,), strict=False)
    # Asking how a convolution's input lies in memory, newer torch notes that the batch was not
    # one, and would refuse single images. No answer depends on it; `crossd.export` tries them.
    checks: list[str] = getattr(program, "_guards_code", [])
    checks[:] = [check for check in checks if not _NOT_ONE.fullmatch(check)]
    return program


class _OfOneInput(nn.Module):
    """A network whose forward takes any arguments, as rewritten ones do, as one of one input."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> object:
        return self.net(x)


def _lengths_of_one() -> AbstractContextManager[None]:
    """Treat lengths of 1 as any other; else a small image's last maps would fix the size."""
    config: Any = _config
    context: AbstractContextManager[None] = config.patch(backed_size_oblivious=True)
    return context


def shapes(program: ExportedProgram, names: Sequence[str]) -> tuple[Shape, tuple[Shape, ...]]:
    """Give the shapes of a program's one input and of its outputs.

    Free axes of the input have the names that are given for all of its axes. They stand where an
    output is as long, and None where a length follows from others.
    """
    signature = program.graph_signature
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    given = values[str(signature.user_inputs[0])].shape
    known = {str(n): name for n, name in zip(given, names, strict=True) if not isinstance(n, int)}

    def shape(value: Tensor) -> Shape:
        return tuple(n if isinstance(n, int) else known.get(str(n)) for n in value.shape)

    outputs = [values[str(name)] for name in signature.user_outputs]
    return shape(values[str(signature.user_inputs[0])]), tuple(map(shape, outputs))


def write(program: ExportedProgram, path: Path, input_shape: Shape, metadata: str) -> int | None:
    """Write a program with a text in the format of the path's ending, one of the `SUFFIXES`.

    Returns the version of ONNX's operators, whose free axes get the names in the shape of the
    input; None for .pt2.
    """
    if path.suffix == ".onnx":
        return _write_onnx(program, path, input_shape, metadata)
    torch.export.save(program, path, extra_files={f"{METADATA}.json": metadata})
    return None


def _write_onnx(program: ExportedProgram, path: Path, input_shape: Shape, metadata: str) -> int:
    import onnx

    size = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    if size >= LARGEST:
        raise InputError(f"the network has {size:,} bytes, of which .onnx holds 2 GiB: write .pt2")
    count = len(program.graph_signature.user_outputs)
    free = {axis: name for axis, name in enumerate(input_shape) if isinstance(name, str)}
    with _lengths_of_one():  # operators are taken apart, and traced, once more
        made = torch.onnx.export(
            program,
            input_names=["input"],
            output_names=["output"] if count == 1 else [f"output_{i}" for i in range(count)],
            dynamic_shapes=(free,),
            dynamo=True,
            verbose=False,
        )
    assert made is not None
    model = made.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, metadata
    onnx.save(model, path)
    return next(each.version for each in model.opset_import if each.domain == "")


def require_libraries(path: Path) -> None:
    """Check that what writes the file is installed.

    Raises:
        InputError: "writing ..." naming what is missing, and how to get it.
    """
    if path.suffix == ".onnx":
        missing = [name for name in ("onnx", "onnxscript") if not _installed(name)]
        if missing:
            raise InputError(
                f"writing {path} needs {' and '.join(missing)}: pip install 'crossd[onnx]'"
            )


def can_run(path: Path) -> bool:
    """Tell whether what runs the file is installed."""
    return path.suffix != ".onnx" or _installed("onnxruntime")


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def runner(path: Path) -> Run:
    """Read a file and return a function from an input to the list of outputs."""
    if path.suffix == ".pt2":
        return program_runner(torch.export.load(os.fspath(path)))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails raises; it shall not be printed as well
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(x: Tensor) -> list[Tensor]:
        return [torch.from_numpy(y) for y in session.run(None, {name: x.numpy()})]

    return run


def program_runner(program: ExportedProgram) -> Run:
    """Return a function from an input to the list of a program's outputs."""
    module = program.module()

    def run(x: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return tree_leaves(module(x))

    return run
