"""The memory of the machine and of this process."""

import time

import jax
import numpy as np

from vit_jax.runtime import machine, memory


def test_the_memory_of_the_machine(tmp_path, monkeypatch):
    before = machine.resident()
    total = memory.available(jax.devices()[0])
    assert 0 < before < total < 2**50
    assert machine.resident('VmHWM') >= before
    held = np.ones(2**25)  # 256 MiB
    assert machine.resident() > before + 200 * 2**20
    # What this process holds is not lost to it, whatever others took meanwhile.
    monkeypatch.setattr(machine, '_GROUPS', ())
    meminfo = tmp_path / 'meminfo'
    meminfo.write_text('MemAvailable:    1024 kB\n')
    monkeypatch.setattr(machine, '_MACHINE', meminfo)
    assert memory.available(jax.devices()[0]) > before + 200 * 2**20
    del held
    if machine.restart_peak():
        assert machine.resident('VmHWM') < total
        assert machine.resident('VmHWM') < before + 200 * 2**20
    monkeypatch.undo()
    assert 2**20 < machine.free_memory() < 2**50
    assert machine.free_memory(held=1) <= machine.physical_memory()


def test_how_long_this_process_has_run():
    begin = machine.seconds_running()
    time.sleep(0.05)
    assert 0.04 < machine.seconds_running() - begin < 5
    assert 0 < begin < 24 * 3600
