"""A recipe and the flags beside it, from the command line to a configuration."""

import importlib.util
import inspect
import pathlib
import re
import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from vit_jax import config as config_lib

# What `hosts.connect` takes; its default is None's meaning.
_HOSTS = {
    'coordinator_address': 'Of several hosts: host:port of process 0. Slurm, Open MPI '
    'and TPU pods need none of these flags.',
    'num_processes': 'Of several hosts: how many processes there are.',
    'process_id': 'Of several hosts: which one this is, from 0.',
    'coordinator_timeout': 'Seconds within which all hosts must be there (300).',
    'heartbeat_timeout': 'Seconds without a sign of life until a host is lost, and the '
    'others end (100).',
}
_FLAGS = ('workdir', 'dry_run', 'compile_cache', *_HOSTS)
_FLAG = re.compile(r'--?config(?:=(.*))?$', re.DOTALL)
_KEY = re.compile(r'--?config\.([\w.]+)(?:=(.*))?$', re.DOTALL)


def find_recipe(name: str) -> pathlib.Path:
    """Returns the file of a recipe: a path, or the name of an installed one.

    Raises:
        ValueError: there is neither.
    """
    path = pathlib.Path(name).expanduser()
    if path.is_file():
        return path
    installed = {
        recipe.name: recipe
        for folder in importlib.import_module('vit_jax.configs').__path__
        for recipe in sorted(pathlib.Path(folder).glob('*.py'))
        if recipe.stem not in ('__init__', 'models')
    }
    for candidate in (path.name, f'{path.name}.py'):
        # configs/vit.py from outside the checkout means the installed one as well.
        if candidate in installed and path.parent.name in ('', 'configs'):
            return installed[candidate]
    raise ValueError(
        f'There is no recipe {name}. Give the path of a file with a get_config(), or '
        f'one of {", ".join(installed)}.' + config_lib.nearest(path.name, installed)
    )


def load_recipe(reference: str) -> ConfigDict:
    """Returns the configuration of FILE.py or FILE.py:ARGUMENT.

    Raises:
        ValueError: no such recipe, or it does not take this argument.
    """
    name, colon, argument = reference.partition(':')
    path = find_recipe(name)
    spec = importlib.util.spec_from_file_location(f'recipe_{path.stem}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    arguments = [argument] if colon else []
    try:
        inspect.signature(module.get_config).bind(*arguments)
    except TypeError as error:
        raise ValueError(
            f'--config={reference}: the recipe has another number of arguments '
            f'({error}). Its argument stands after a colon, as in vit.py:b16,cifar10.'
        ) from error
    return module.get_config(*arguments).lock()


def parse(argv: Sequence[str]) -> tuple[ConfigDict, flags.FlagValues]:
    """Returns the configuration and the other flags of a command line.

    Args:
        argv: the program's name and its arguments.

    Raises:
        ValueError: something is missing, unknown or of the wrong type; one line.
    """
    reference, rest = _take_config(list(argv))
    if reference is None and not {'--help', '--helpshort', '-h'} & set(rest):
        raise ValueError(
            '--config is missing. Name a recipe, as in --config=configs/quickstart.py '
            'or --config=configs/vit.py:b16,cifar10.'
        )
    config = load_recipe(reference) if reference else config_lib.default().lock()
    rest, none_keys = _take_none_and_gone(config, rest)

    values = flags.FlagValues()
    flags.DEFINE_string(
        'workdir', None, 'The run directory; a stopped run goes on.', flag_values=values
    )
    flags.DEFINE_bool(
        'dry_run',
        False,
        'Say what the run would take (memory, time, which knobs to turn), and make no '
        'run directory.',
        flag_values=values,
    )
    flags.DEFINE_string(
        'compile_cache',
        None,
        "Where compiled programs are kept for later starts: a folder, or 'off'; "
        "default: JAX_COMPILATION_CACHE_DIR, or the user's cache.",
        flag_values=values,
    )
    for name, text in _HOSTS.items():
        define = flags.DEFINE_integer
        if name == 'coordinator_address':
            define = flags.DEFINE_string
        define(name, None, text, flag_values=values)
    flags.DEFINE_bool(
        'help', False, 'Show this help.', short_name='h', flag_values=values
    )
    try:
        config_flags.DEFINE_config_dict(
            'config', config, flag_values=values, sys_argv=rest
        )
        unused = values(rest)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(_flag_error(config, rest, error)) from error
    if values.help:
        print(f'{__doc__}\n{values.get_help(include_special_flags=False)}')
        raise SystemExit(0)
    if unused:
        raise ValueError(
            f'What is {" ".join(unused)}? Every setting is one word like '
            '--config.batch=64; quote values with spaces or brackets: '
            "'--config.pp.size=(384, 512)'."
        )
    if not values.workdir:
        raise ValueError('--workdir is missing: where the run keeps what it makes.')
    config = values.config
    with config.ignore_type():
        for key in none_keys:
            config.update_from_flattened_dict({key: None})
    return config, values


def _take_config(argv: list[str]) -> tuple[str | None, list[str]]:
    """Returns the value of --config, and the other arguments."""
    for i, argument in enumerate(argv):
        if match := _FLAG.match(argument):
            if match[1] is not None:
                return match[1], argv[:i] + argv[i + 1 :]
            if i + 1 < len(argv):
                return argv[i + 1], argv[:i] + argv[i + 2 :]
    return None, argv


def _take_none_and_gone(
    config: ConfigDict, argv: list[str]
) -> tuple[list[str], list[str]]:
    """Takes out settings to None, and the original's keys without meaning here.

    ml_collections reads None as a string or not at all; the caller sets these keys.
    """
    known = config_lib.flatten(config)
    rest, none_keys = [], []
    words = iter(argv)
    for word in words:
        match = _KEY.match(word)
        key, value = (match[1], match[2]) if match else (None, None)
        if key in config_lib.GONE:
            print(f'--config.{key}: {config_lib.GONE[key]}', file=sys.stderr)
            continue
        if key in config_lib.OPTIONAL and value is None:
            value = next(words, None)  # --config.key VALUE, in two words
            word = word if value is None else f'{word}={value}'
        if key in config_lib.OPTIONAL and value in ('None', 'none'):
            none_keys += [key] if key in known else []
        elif key in known and value == 'None':
            raise ValueError(
                f'--config.{key} cannot be None; only '
                f'{", ".join(sorted(config_lib.OPTIONAL))} can.'
            )
        else:
            rest.append(word)
    return rest, none_keys


def _flag_error(config: ConfigDict, argv: Sequence[str], error: Exception) -> str:
    """Returns one line for what absl and ml_collections raise."""
    known = config_lib.flatten(config)
    for argument in argv:
        match = _KEY.match(argument)
        key = re.sub(r'^no(?=config)', '', match[1]) if match else None
        if key and not any(k == key or k.startswith(f'{key}.') for k in known):
            return f'There is no key config.{key}.{config_lib.nearest(key, known)}'
    if isinstance(error, flags.UnrecognizedFlagError):
        wanted = config_lib.nearest(error.flagname, ('config', *_FLAGS, *known))
        return f'There is no flag --{error.flagname}.{wanted}'
    return ' '.join(str(error).split())
