"""Options of the compiler, XLA, that make the training step better where it runs.

They are given with the step alone, so that they hold for whoever compiles it, and leave
alone what else a program compiles.
"""

import functools
import os

import jax

# The library that XLA has multiplied matrices with on CPUs since jaxlib 0.10.2 makes
# inference faster, but the training step larger (docs/benchmarks.md). Empty: none of
# its kinds of fusions.
_ON_CPU = {'xla_cpu_experimental_ynn_fusion_type': ''}


def options() -> dict[str, str | bool]:
    """Returns `compiler_options` for `jax.jit`; without those that XLA_FLAGS names."""
    if jax.default_backend() != 'cpu':
        return {}
    flags = os.environ.get('XLA_FLAGS', '')
    return {k: v for k, v in _known().items() if f'--{k}=' not in flags}


@functools.cache
def _known() -> dict[str, str | bool]:
    """Returns what this version has; another one may not."""

    def is_known(name: str) -> bool:
        program = jax.jit(lambda x: x, compiler_options={name: _ON_CPU[name]})
        try:
            program.lower(0.0).compile()
        except jax.errors.JaxRuntimeError:
            return False
        return True

    return {name: value for name, value in _ON_CPU.items() if is_known(name)}
