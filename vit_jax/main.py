"""The command line: python -m vit_jax.main --config=RECIPE --workdir=DIR.

A recipe is a file with a `get_config()`, named by its path, or by the name of one
that is installed: `--config=vit.py:b16,cifar10` works from any folder. What stands
after the colon is handed to `get_config`. Any key is set by `--config.key=value`,
keys that may be None also to None.
"""

import importlib.util
import logging
import os
import sys
from collections.abc import Sequence

from ml_collections import ConfigDict

from vit_jax import config as config_lib
from vit_jax.command_line import terminal
from vit_jax.command_line.recipe import HOSTS, parse
from vit_jax.runtime import compilation_cache
from vit_jax.words.suggest import did_you_mean

log = logging.getLogger('vit_jax')
# What config.trainer can be: functions of (config, workdir), by module and name.
TRAINERS = {
    'train': ('vit_jax.train', 'train_and_evaluate'),
    'inference_time': ('vit_jax.training.inference_time', 'inference_time'),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what the command line says; returns the exit code.

    0: the run is complete. 2: what was asked for is not possible. 130, 143: stopped
    by SIGINT or SIGTERM, saved, and ready to go on. 1: anything else, such as a full
    disk; of a dry run, that the memory is not enough.
    """
    screen = logging.StreamHandler()
    # Libraries log, some with tracebacks, what they also raise.
    for library in ('absl', 'asyncio', 'huggingface_hub'):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    logging.basicConfig(format='%(message)s', level=logging.WARNING, handlers=[screen])
    log.setLevel(logging.INFO)
    try:
        config, options = parse(sys.argv if argv is None else argv)
        _check_trainer(config, options.dry_run)
        compilation_cache.enable(options.compile_cache)
        # Only now, so that a slip on the command line is answered at once.
        from vit_jax.runtime import hosts

        given = {name: getattr(options, name) for name in HOSTS}
        hosts.connect(**{k: value for k, value in given.items() if value is not None})
        if not hosts.is_first():
            screen.setLevel(logging.WARNING)
        what = 'Forecasting' if options.dry_run else 'Preparing'
        log.info('%s the run in %s …', what, options.workdir)
        if options.dry_run:
            from vit_jax.forecast import forecast
            from vit_jax.runtime import machine

            before = machine.seconds_running()
            found = forecast.forecast(config, options.workdir, before)
            print(found.text())
            return 0 if found.fits else 1
        module, name = TRAINERS[config.trainer]
        getattr(importlib.import_module(module), name)(config, options.workdir)
    except ValueError as error:
        if os.environ.get('VIT_JAX_TRACEBACK'):
            raise
        print(f'vit_jax: {error}', file=sys.stderr)
        return _ended(2)
    except BrokenPipeError:  # `| head`: see terminal.py
        raise
    except (FloatingPointError, OSError) as error:
        print(f'vit_jax: {error}', file=sys.stderr)
        return _ended(1)
    except KeyboardInterrupt:
        return _ended(130)
    except Exception as error:
        _ended(1, error)
        raise
    return 0


def _check_trainer(config: ConfigDict, dry_run: bool) -> None:
    """Raises a ValueError unless there is such a trainer, and this is its recipe."""
    trainer = config.get('trainer', 'train')
    if trainer not in TRAINERS:
        raise ValueError(
            f'config.trainer is {trainer!r}; it can be one of {", ".join(TRAINERS)}.'
            + did_you_mean(trainer, TRAINERS)
        )
    if trainer == 'train':
        config_lib.complete(config)
        known, wanted = (
            set(config_lib.flatten(c)) for c in (config, config_lib.default())
        )
        if missing := sorted(wanted - known):
            raise ValueError(
                f"config.trainer is 'train', but the recipe has no key "
                f'{", ".join(missing)}. A recipe for training starts from '
                'vit_jax.config.default().'
            )
    elif dry_run:
        raise ValueError(
            '--dry_run says what training would take; with config.trainer = '
            f'{trainer!r} nothing is trained. Leave the flag out.'
        )


def _ended(code: int, error: Exception | None = None) -> int:
    """Returns the exit code of a failure; one of several hosts ends with it here."""
    if (hosts := sys.modules.get('vit_jax.runtime.hosts')) is not None:
        hosts.end(code, error)
    return code


if __name__ == '__main__':
    sys.exit(terminal.run(main))
