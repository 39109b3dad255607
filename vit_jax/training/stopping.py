"""What ends a run: its last step, patience with val, or a signal."""

from collections.abc import Mapping

from vit_jax.runtime import hosts
from vit_jax.training.plan import Plan


class Stopping:
    """Says after each step whether the run ends there.

    Args:
        plan: of the run.
    """

    def __init__(self, plan: Plan):
        config = plan.config
        self._total = config.total_steps
        self._patience = config.early_stop * config.eval_every
        self._shared_signal = hosts.SharedSignal(plan.mesh)

    def is_last(self, step: int, best: Mapping[str, float] | None) -> bool:
        """Returns whether nothing is left to do after a step.

        Args:
            step: steps applied.
            best: the 'step' of the weights that are best on val; None without.
        """
        return step >= self._total or stops_early(step, best, self._patience)

    def signal(self, step: int, signum: int | None) -> int | None:
        """Returns the signal on which all hosts stop at this step, or None.

        To be asked at every step.

        Args:
            step: steps applied.
            signum: what this host got.
        """
        return self._shared_signal(step, signum)


def stops_early(step: int, best: Mapping[str, float] | None, patience: int) -> bool:
    """Returns whether val has not got better for too long.

    Args:
        step: steps applied.
        best: the 'step' of the best weights; None without.
        patience: in steps; 0 has no end.
    """
    return bool(patience and best) and step - best['step'] >= patience
