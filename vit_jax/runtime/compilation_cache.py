"""Compiled programs are kept between starts, as downloads are: in the user's cache.

The second start of a run, a resume, and every later `predict` skip most of the time
that compiling takes. What is loaded is the program that was compiled, bit for bit.
Commands call `enable`; importing this package or calling it from other programs does
not: those decide for themselves by JAX's own settings.
"""

import logging
import os
import pathlib

log = logging.getLogger(__name__)

# What --compile_cache says for none.
OFF = 'off'
# Smaller programs compile about as fast as they are read.
_MIN_SECONDS = 0.2
# What was used longest ago makes room for what is new.
_MAX_BYTES = 4 * 2**30


def enable(where: str | None = None) -> pathlib.Path | None:
    """Lets JAX keep what it compiles; a backend that cannot is left as it is.

    Args:
        where: a folder, or 'off'. None: the folder that JAX has been told already, by
            JAX_COMPILATION_CACHE_DIR or in the program; or else `compiled` in the
            user's cache, which VIT_JAX_CACHE moves.

    Returns:
        The folder; None without one: switched off, or it cannot be written to.

    Raises:
        ValueError: the folder that was named cannot be written to.
    """
    import jax

    if where == OFF:
        jax.config.update('jax_enable_compilation_cache', False)
        return None
    known = jax.config.jax_compilation_cache_dir
    if where is None and known:
        return pathlib.Path(known)
    if where is None:
        from vit_jax.files import fetch

        folder = fetch.cache_folder() / 'compiled'
    else:
        folder = pathlib.Path(where).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f'{folder} cannot be written to')
    except OSError as error:
        if where is not None:
            raise ValueError(
                f'--compile_cache={where}: {error}. Name a folder that can be written '
                f'to, or {OFF}.'
            ) from error
        log.debug('Nothing that is compiled is kept: %s', error)
        return None
    jax.config.update('jax_compilation_cache_dir', str(folder))
    for name, value in (
        ('jax_persistent_cache_min_compile_time_secs', _MIN_SECONDS),
        ('jax_compilation_cache_max_size', _MAX_BYTES),
    ):
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    return folder
