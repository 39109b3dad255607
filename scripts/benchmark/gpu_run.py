"""A run of the part `gpu`: its processes, its clock, and what is compiled already."""

import dataclasses
import os
import statistics
import tempfile
import time
from typing import IO, Any

from benchmark.worker import Worker, WorkerError

ROUNDS = 3
_ENVIRONMENT = {
    'jax': {
        'JAX_NUM_CPU_DEVICES': '1',
        # The other process needs some of the memory.
        'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
        'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.6',
    },
    # It only looks up what a model is made of.
    'torch': {'JAX_PLATFORMS': 'cpu'},
}


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled network.

    Attributes:
        work: 'training' or 'inference'.
        model: its name in vit_jax.
        size: of the square images.
        batch: number of images; halved until they fit.
        dtype: of the computation.
        attention: auto, xla or cudnn.
        network: 'vit_jax'; 'plain' or 'timm', see baselines.py.
    """

    work: str
    model: str
    size: int
    batch: int
    dtype: str = 'bfloat16'
    attention: str = 'auto'
    network: str = 'vit_jax'

    @property
    def process(self) -> str:
        """Names the process that has it."""
        return 'torch' if self.network == 'timm' else 'jax'


class Run:
    """What rows are measured with.

    Args:
        limit: seconds, of everything.
        window: seconds of a timed run.
        log: what the processes write.
    """

    def __init__(self, limit: float, window: float, log: IO):
        self._end = self._row_end = time.monotonic() + limit
        self._window, self._log = window, log
        self._workers: dict[str, Worker] = {}
        self._prepared: dict[Program, dict[str, Any]] = {}
        # The real loop has the step that was measured alone, compiled once.
        self._cache = tempfile.TemporaryDirectory()

    def __enter__(self) -> 'Run':
        return self

    def __exit__(self, *exception) -> None:
        for one in self._workers.values():
            one.end()
        self._cache.cleanup()

    def left(self) -> float:
        """Returns the seconds that are left."""
        return self._end - time.monotonic()

    def give(self, seconds: float) -> None:
        """Limits the row that follows."""
        self._row_end = min(self._end, time.monotonic() + seconds)

    def call(self, process: str, name: str, **arguments: Any) -> Any:
        """Calls a method of a process, which is started where there is none.

        Raises:
            WorkerError: the method failed, or the row's time is up.
        """
        worker = self._workers.get(process)
        if worker is None or worker.ended:
            self._prepared = {
                program: facts
                for program, facts in self._prepared.items()
                if program.process != process
            }
            cache = os.environ.get('JAX_COMPILATION_CACHE_DIR', self._cache.name)
            environment = {
                # One GPU, if there are several.
                'CUDA_VISIBLE_DEVICES': os.environ.get(
                    'CUDA_VISIBLE_DEVICES', '0'
                ).partition(',')[0],
                'JAX_COMPILATION_CACHE_DIR': cache,
                **_ENVIRONMENT[process],
            }
            worker = Worker(f'benchmark.{process}_process', environment, self._log)
            self._workers[process] = worker
        return worker.call(name, self._row_end - time.monotonic(), **arguments)

    def prepare(self, program: Program) -> dict[str, Any]:
        """Compiles a program unless it is; returns facts about it.

        Where a batch does not fit into the memory, it is halved.
        """
        if program in self._prepared:
            worker = self._workers[program.process]
            if not worker.ended:
                return self._prepared[program]
        settings = dataclasses.asdict(program)
        if program.process == 'torch':
            del settings['attention'], settings['network']
        while True:
            try:
                facts = self.call(
                    program.process, 'prepare', key=repr(program), **settings
                )
            except WorkerError as error:
                if 'RESOURCE_EXHAUSTED' not in str(error) or settings['batch'] < 2:
                    raise
                settings['batch'] //= 2
                continue
            self._prepared[program] = facts
            return facts

    def batch(self, program: Program) -> int:
        """Returns how many images fit, as far as was tried."""
        return self._prepared.get(program, {}).get('batch', program.batch)

    def rates(self, *programs: Program) -> list[list[float]]:
        """Returns images per second of timed runs, alternating between programs."""
        rates: list[list[float]] = [[] for _ in programs]
        for _ in range(ROUNDS):
            for program, found in zip(programs, rates, strict=True):
                found.append(
                    self.call(
                        program.process,
                        'rate',
                        key=repr(program),
                        seconds=self._window,
                    )
                )
        return rates

    def share(
        self, program: Program, facts: dict[str, Any], rates: list[float]
    ) -> dict[str, Any]:
        """Returns rates as a result, with their share of the peak of this device.

        A training step counts as three forward passes.
        """
        peak = self.call('jax', 'peak', dtype=program.dtype)
        rate = statistics.median(rates)
        flops = facts['flops'] * (3 if program.work == 'training' else 1)
        flops *= rate / facts['batch']
        return {
            'rate': rate,
            'rate_range': [min(rates), max(rates)],
            'teraflops': flops / 1e12,
            'matmul_peak_teraflops': peak / 1e12,
            'peak_share': flops / peak,
            **facts,
        }

    def ratio(self, ours: Program, theirs: Program) -> dict[str, Any]:
        """Returns a comparison of two programs as a result."""
        mine, others = self.rates(ours, theirs)
        ratios = [a / b for a, b in zip(mine, others, strict=True)]
        return {
            'rate': statistics.median(mine),
            'against': statistics.median(others),
            'ratio': statistics.median(ratios),
            'ratio_range': [min(ratios), max(ratios)],
        }
