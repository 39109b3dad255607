"""The parts of a run: plan, state, step, loop, results."""
