"""python -m vit_jax: the commands, with a line each."""

import sys

from vit_jax.command_line import terminal
from vit_jax.words.suggest import did_you_mean
from vit_jax.words.tables import text_lines

# In the order in which one meets them.
COMMANDS = {
    'main': 'train, or fine-tune: --config=RECIPE --workdir=DIR',
    'predict': 'what a model says of photos',
    'evaluate': 'how good a model is on images with labels',
    'compare': 'whether one model is better than another, or chance',
    'report': 'one page about a run, to be shared',
    'visualize': 'what a model has learned, and where it looks',
    'features': 'features of images, to a file',
    'few_shot': 'how good the features are with few images',
    'convert': "weights in other formats and others' names",
    'export': 'a model that runs without this library',
    'summary': 'what happens to an image, layer by layer',
    'models': 'the published models, and where their weights are',
}


def main(argv: list[str] | None = None) -> int:
    """Lists the commands; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    names = [a for a in arguments if not a.startswith('-')]
    lines = text_lines([[f'python -m vit_jax.{k}', v] for k, v in COMMANDS.items()], 2)
    if not names:
        print('Vision Transformers in JAX. The commands; each answers --help:\n')
        print('\n'.join(lines))
        return 0
    name = names[0]
    if name in COMMANDS:
        print(f'vit_jax: type python -m vit_jax.{name}', file=sys.stderr)
    else:
        hint = did_you_mean(name, COMMANDS) or ' python -m vit_jax lists the commands.'
        print(f'vit_jax: there is no command {name!r}.{hint}', file=sys.stderr)
    return 2


if __name__ == '__main__':
    sys.exit(terminal.run(main))
