"""From Numba's compiled kernels to a library: the same code that the JIT runs, behind a plain C interface.

Each kernel's optimised module is taken as it is and not optimised again, so a library's results equal the JIT's bit for
bit when both are compiled for the same processor. A wrapper in front turns addresses and lengths into Numba's arrays.
"""
# Numba and llvmlite have no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.np import arrayobj

from dspex.core.native import stamp
from dspex.core.native.library import Contents, Entry, seal, symbol

_LONG: Final = ir.IntType(64)
_BYTES: Final = ir.IntType(8).as_pointer()
_LINK: Final = ("-shared", "-nostartfiles", "-s", "-Wl,-z,defs", "-Wl,-z,noexecstack", "-Wl,--build-id=none")


class Unfit(Exception):
    """A kernel that no library can hold: its types have no C form, or it needs what libm and libc do not have."""


def linker() -> str | None:
    """A program that links shared objects, or None."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def library(kernels: Mapping[str, tuple[str, Any]], level: str) -> bytes:
    """The file of a library.

    Args:
        kernels: For each kernel its module and what Numba compiled it to.
        level: The processor's name in the library's contents.

    Raises:
        Unfit: for a kernel whose types have no C form, or when linking fails, with what the linker said.
        FileNotFoundError: when there is no linker.
    """
    entries: dict[str, Entry] = {}
    with global_compiler_lock:
        codegen = cpu_target.target_context.codegen()
        whole = llvm.parse_assembly(str(codegen._create_empty_module("dspex")))
        whole.link_in(llvm.parse_assembly(_runtime()))
        for name, (module, result) in sorted(kernels.items()):
            entries[name] = entry(module, result.signature)
            whole.link_in(_module(symbol(name), result))
        for function in whole.functions:
            if not function.is_declaration and not function.name.startswith("dspex_"):
                function.linkage = "internal"
        machine = _machine(codegen)
        _sweep(whole, machine)
        whole.verify()
        compiled = machine.emit_object(whole)
    modules = {entry.module: stamp.digest(entry.module) for entry in entries.values()}
    built = {name: version(name) for name in ("numba", "llvmlite")}
    return seal(_linked(compiled), Contents(level, built, modules, entries))


def _runtime() -> str:
    """LLVM code of the two functions of Numba's runtime that kernels mention."""
    module = ir.Module("runtime")
    module.triple = llvm.get_process_triple()
    # Arrays from outside own no memory of Numba's, so this is never called; but the code that would call it is there.
    freed = ir.Function(module, ir.FunctionType(ir.VoidType(), [_BYTES]), "NRT_MemInfo_call_dtor")
    ir.IRBuilder(freed.append_basic_block()).ret_void()
    # (dimensions, shape, strides, new dimensions, new shape, new strides, bytes of an item, is in Fortran's order)
    longs, number = _LONG.as_pointer(), ir.IntType(32)
    takes = [_LONG, longs, longs, _LONG, longs, longs, _LONG, number]
    function = ir.Function(module, ir.FunctionType(number, takes), "numba_attempt_nocopy_reshape")
    _, _, _, dimensions, shape, strides, size, fortran = function.args
    builder = ir.IRBuilder(function.append_basic_block())
    with builder.if_then(builder.icmp_signed("!=", fortran, number(0))):
        builder.ret(number(0))
    stride = cgutils.alloca_once_value(builder, size)
    with cgutils.for_range(builder, dimensions) as loop:
        axis = builder.sub(builder.sub(dimensions, _LONG(1)), loop.index)
        builder.store(builder.load(stride), builder.gep(strides, [axis]))
        builder.store(builder.mul(builder.load(stride), builder.load(builder.gep(shape, [axis]))), stride)
    builder.ret(number(1))
    return cgutils.normalize_ir_text(str(module))


def _linked(compiled: bytes) -> bytes:
    program = linker()
    if program is None:
        raise FileNotFoundError("no cc, gcc or clang was found to link with")
    # No TemporaryDirectory: a process that ends would clear it, with a warning, while the linker is at work in it.
    place = tempfile.mkdtemp(prefix="dspex-link-")
    try:
        source, made = Path(place) / "kernels.o", Path(place) / "kernels.so"
        source.write_bytes(compiled)
        command = [program, *_LINK, "-o", str(made), str(source), "-lm", "-lc"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise Unfit(f"linking failed: {done.stderr.strip()}")
        return made.read_bytes()
    finally:
        shutil.rmtree(place)


def _machine(codegen: Any) -> Any:
    """The JIT's target, but for code that may stand at any address."""
    target = llvm.Target.from_triple(llvm.get_process_triple())
    return target.create_target_machine(
        cpu=codegen._get_host_cpu_name(), features=codegen._tm_features, opt=3, reloc="pic", codemodel="default"
    )


def _module(name: str, result: Any) -> Any:
    """One kernel's optimised module with its wrapper; everything but the wrapper is internal."""
    module = result.library._get_module_for_linking().clone()
    module.link_in(llvm.parse_assembly(_wrapper(name, result)))
    for each in (*module.functions, *module.global_variables):
        if not each.is_declaration and each.name != name:
            each.linkage = "internal"
    _sweep(module, _machine(cpu_target.target_context.codegen()))
    return module


def _sweep(module: Any, machine: Any) -> None:
    """Drop what nothing calls, Numba's wrappers for Python above all."""
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(0)))


def _sort(kind: Any) -> str:
    """A scalar's or an array's form, as in `Entry.arguments`."""
    if isinstance(kind, types.Array):
        if kind.layout != "C" or not kind.mutable:
            raise Unfit(f"array of layout {kind.layout}")
        return f"{_sort(kind.dtype)}[{kind.ndim}]"
    if kind is types.boolean:
        return "b1"
    if isinstance(kind, types.Integer) and kind.bitwidth in (8, 32, 64):
        return f"{'i' if kind.signed else 'u'}{kind.bitwidth // 8}"
    if isinstance(kind, types.Float):
        return f"f{kind.bitwidth // 8}"
    if isinstance(kind, types.NamedTuple) and kind.instance_class.__name__ == "ParamTable":
        return "table"
    raise Unfit(f"{kind}")


def entry(module: str, signature: Any) -> Entry:
    """How a kernel that Numba compiled for `signature` is called.

    Raises:
        Unfit: for types that have no C form.
    """
    returned = signature.return_type
    result = "" if returned is types.none else _sort(returned)
    if result.endswith("]") or result == "table":
        raise Unfit(f"returns {returned}")
    return Entry(module, tuple(_sort(kind) for kind in signature.args), result)


def _wrapper(name: str, result: Any) -> str:
    """LLVM code of `int32 name(arguments…, result*)`, which returns Numba's status: 0 for success."""
    context, signature = cpu_target.target_context, result.signature
    module = ir.Module(f"wrapper of {name}")
    module.triple = llvm.get_process_triple()
    passed: list[Any] = []
    for kind in signature.args:
        if isinstance(kind, types.Array):
            passed += [_BYTES, *[_LONG] * kind.ndim]
        elif isinstance(kind, types.NamedTuple):
            passed.append(_LONG.as_pointer())
        else:
            passed.append(context.get_data_type(kind))
    returned = signature.return_type
    if returned is not types.none:
        passed.append(context.get_data_type(returned).as_pointer())
    function = ir.Function(module, ir.FunctionType(ir.IntType(32), passed), name)
    builder = ir.IRBuilder(function.append_basic_block())
    given = iter(function.args)
    values: list[Any] = []
    for kind in signature.args:
        if isinstance(kind, types.Array):
            data = next(given)
            values.append(_array(context, builder, kind, data, [next(given) for _ in range(kind.ndim)]))
        elif isinstance(kind, types.NamedTuple):
            values.append(_table(context, builder, kind, next(given)))
        else:
            values.append(context.data_model_manager[kind].from_data(builder, next(given)))
    callee = context.declare_function(module, result.fndesc)
    status, value = context.call_conv.call_function(builder, callee, returned, signature.args, values)
    if returned is not types.none:
        builder.store(context.data_model_manager[returned].as_data(builder, value), next(given))
    builder.ret(status.code)
    return cgutils.normalize_ir_text(str(module))


def _array(context: Any, builder: Any, kind: Any, data: Any, shape: list[Any]) -> Any:
    array = context.make_array(kind)(context, builder)
    size = ir.Constant(_LONG, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    strides: list[Any] = [size]
    for length in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    arrayobj.populate_array(
        array,
        data=builder.bitcast(data, array.data.type),
        shape=shape,
        strides=strides,
        itemsize=size,
        meminfo=None,
    )
    return array._getvalue()


def _table(context: Any, builder: Any, kind: Any, packed: Any) -> Any:
    """The tuple of arrays whose addresses and lengths stand in `packed`, in turns."""
    arrays: list[Any] = []
    for position, each in enumerate(kind.types):
        address, length = (
            builder.load(builder.gep(packed, [ir.Constant(_LONG, 2 * position + half)])) for half in (0, 1)
        )
        arrays.append(_array(context, builder, each, builder.inttoptr(address, _BYTES), [length]))
    return context.make_tuple(builder, kind, arrays)
