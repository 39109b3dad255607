"""What can be read off a traced or compiled program without running it."""

import math
import re
from typing import Any

import jax

COLLECTIVES = (
    'all-reduce',
    'all-gather',
    'reduce-scatter',
    'all-to-all',
    'collective-permute',
)


def facts_of(compiled: Any) -> dict[str, Any]:
    """Returns the memory a program takes, and how often it calls cuDNN's attention."""
    calls = compiled.as_text().count('custom_call_target="__cudnn$fmha')
    return {'memory_bytes': peak_memory(compiled), 'cudnn_attention_calls': calls}


def temporary_memory(compiled: Any) -> int:
    """Returns bytes that a compiled function holds besides arguments and results."""
    return compiled.memory_analysis().temp_size_in_bytes


def peak_memory(compiled: Any) -> int:
    """Returns bytes on the device while a compiled function runs."""
    found = compiled.memory_analysis()
    return (
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        - found.alias_size_in_bytes
        + found.temp_size_in_bytes
    )


def matmul_flops(jaxpr: Any) -> int:
    """Returns the operations of all matrix products and convolutions, executed once.

    Element-wise work does not count, as is usual.
    """
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == 'dot_general':
            ((inner, _), _) = equation.params['dimension_numbers']
            shape = equation.invars[0].aval.shape
            inner = math.prod(shape[axis] for axis in inner)
            total += 2 * inner * equation.outvars[0].aval.size
        elif equation.primitive.name == 'conv_general_dilated':
            kernel = equation.invars[1].aval
            out = equation.params['dimension_numbers'].rhs_spec[0]
            inner = kernel.size // kernel.shape[out]
            total += 2 * inner * equation.outvars[0].aval.size
        times = equation.params.get('length', 1)
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, 'eqns')
        ):
            if hasattr(value, 'eqns'):
                total += times * matmul_flops(value)
    return total


def executed_collectives(hlo: str) -> dict[str, dict[str, int]]:
    """Returns how often each collective runs and how many bytes it gives, in a step.

    What stands in a loop counts as often as the loop runs: XLA writes down its trip
    count. An asynchronous one counts where it starts.

    Args:
        hlo: the text of a compiled program.
    """
    # Computations are blocks from `[ENTRY] %name (…) -> … {` to `}`, not indented.
    bodies: dict[str, list[str]] = {}
    entry = name = ''
    for text in hlo.splitlines():
        if match := re.match(r'(ENTRY )?%?([\w.\-]+) .*\{$', text):
            name = match[2]
            entry = name if match[1] else entry
            bodies[name] = []
        elif name:
            bodies[name].append(text)
    found: dict[str, dict[str, int]] = {}

    def visit(name: str, times: int) -> None:
        for text in bodies[name]:
            kind = re.search(rf'= (.*?) ({"|".join(COLLECTIVES)})(?:-start)?\(', text)
            if kind:
                kept = found.setdefault(kind[2], {'count': 0, 'bytes': 0})
                kept['count'] += times
                kept['bytes'] += times * hlo_bytes(kind[1])
            trips = 1
            if ' while(' in text:
                known = re.search(r'known_trip_count.{1,12}?"(\d+)"', text)
                trips = int(known[1]) if known else 1
            for attribute in ('body', 'calls', 'to_apply', 'branch_computations'):
                called = re.search(rf'{attribute}=\{{?([^,}}\s]+(?:, %[^,}}]+)*)', text)
                for callee in called[1].split(', ') if called else ():
                    visit(callee.lstrip('%'), times * trips)

    visit(entry, 1)
    return found


def hlo_bytes(shape: str) -> int:
    """Returns the size of an array or tuple as HLO writes it: f32[2,3]{1,0}."""
    total = 0
    for kind, bits, sizes in re.findall(r'\b([a-z]+)(\d+)\w*\[([\d,]*)\]', shape):
        del kind
        sizes = [int(size) for size in sizes.split(',') if size]
        total += math.prod(sizes) * int(bits) // 8
    return total
