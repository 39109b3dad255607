"""Runs the notebooks and stores them with their results, so that they read on the web.

    python scripts/notebooks.py --write          all of them, some minutes
    python scripts/notebooks.py --write inside_a_vit

The code is the same in every language: it is run once, and its results are stored in
each. What the machine says on the way (standard error) is left out. Without --write it
only says whether running gives what is stored: the same kinds of results in each cell.
Numbers differ between machines in their last digits. A test does so as well.
"""

import argparse
import os
import pathlib
import platform
import re
import sys
import tempfile

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).parents[1] / 'notebooks'
LANGUAGES = ('en', 'zh')
NAMES = ('finetune', 'inside_a_vit')


class Kernels(AsyncKernelManager):
    """Starts this Python, whatever kernels are installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """How it is started."""
        argv = [sys.executable, '-m', 'ipykernel_launcher', '-f', '{connection_file}']
        return KernelSpec(argv=argv, language='python')


def run(path: pathlib.Path, folder: pathlib.Path, environment: dict[str, str]):
    """Returns the notebook as running it in a folder leaves it."""
    notebook = nbformat.read(path, as_version=4)
    # Without ports, which others might take; names of sockets must be short.
    with tempfile.TemporaryDirectory(prefix='vit_jax-') as sockets:
        client = NotebookClient(
            notebook,
            km=Kernels(
                transport='ipc', connection_file=os.path.join(sockets, 'kernel.json')
            ),
            timeout=300,
            resources={'metadata': {'path': str(folder)}},
        )
        client.execute(env=environment, cleanup_kc=True)
    for cell in notebook.cells:
        if cell.cell_type == 'code':
            cell.outputs = [_anywhere(output, folder) for output in _kept(cell.outputs)]
    return notebook


def _anywhere(output, folder: pathlib.Path):
    """Returns an output without the names of this machine and of its folders."""
    if 'text' in output:
        text = output.text.replace(f'{folder}/', '').replace(platform.node(), 'host')
        output.text = re.sub(r'\x1b\[\d+m', '', text)
    return output


def results(notebook) -> list[list[str]]:
    """Returns of each cell of code what kinds of results it shows, in their order.

    Not the text itself: whichever digit is taken for another follows from numbers.
    """
    return [
        [
            '+'.join(sorted(output.get('data', ['text'])))
            for output in _kept(cell.outputs)
        ]
        for cell in notebook.cells
        if cell.cell_type == 'code'
    ]


def store(executed, path: pathlib.Path) -> None:
    """Writes the results of a notebook that has run into the one in a file."""
    notebook = nbformat.read(path, as_version=4)
    for cell, ran in zip(notebook.cells, executed.cells, strict=True):
        if cell.cell_type == 'code':
            cell.outputs = _kept(ran.outputs)
            cell.execution_count = ran.execution_count
    nbformat.write(notebook, path)


def _kept(outputs: list) -> list:
    """Returns outputs without standard error; pieces of one stream are put together."""
    kept: list = []
    for output in outputs:
        if output.get('name') == 'stderr':
            continue
        if kept and output.get('name') == kept[-1].get('name') == 'stdout':
            kept[-1].text += output.text
        else:
            kept.append(nbformat.from_dict(output))
    return kept


def main() -> int:
    """Runs the notebooks from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('names', nargs='*', default=NAMES, metavar='NAME')
    parser.add_argument('--write', action='store_true', help='store the results')
    args = parser.parse_args()
    others = 0
    for name in args.names:
        paths = [FOLDER / language / f'{name}.ipynb' for language in LANGUAGES]
        with tempfile.TemporaryDirectory() as folder:
            places = {'TMPDIR': folder, 'TFDS_DATA_DIR': f'{folder}/data'}
            executed = run(paths[0], pathlib.Path(folder), {**os.environ, **places})
        for path in paths:
            if args.write:
                store(executed, path)
            elif results(nbformat.read(path, as_version=4)) != results(executed):
                others += 1
                print(f'{path}: running it gives something else; --write stores it')
    return int(others > 0)


if __name__ == '__main__':
    sys.exit(main())
