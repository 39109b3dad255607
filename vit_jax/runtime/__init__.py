"""The machine: hosts, devices, compiler, memory, signals."""
