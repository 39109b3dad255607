"""The process of the part `gpu` that holds PyTorch: timm's networks."""

from typing import Any

from benchmark import worker


class Networks:
    """Methods that are called from outside; arguments and results are JSON."""

    def __init__(self):
        self._sides = {}

    def prepare(
        self,
        key: str,
        work: str,
        model: str,
        size: int,
        batch: int,
        dtype: str,
    ) -> dict[str, Any]:
        """Compiles a network of timm by `torch.compile`, and runs it a few times."""
        from benchmark import baselines, sides
        from vit_jax import models

        config = models.get_config(model)
        timm = baselines.Timm(config, sides.NUM_CLASSES, size, batch, dtype)
        step = timm.train if work == 'training' else timm.infer
        run = sides.several(step, timm.wait)
        self._sides[key] = sides.Side(timm.name, '', work, run), batch
        return {'batch': batch, 'network': timm.name}

    def rate(self, key: str, seconds: float) -> float:
        """Returns images per second of a timed run."""
        side, batch = self._sides[key]
        side.measure(seconds)
        return batch / side.seconds[-1]


if __name__ == '__main__':
    worker.serve(Networks())
