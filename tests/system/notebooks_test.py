"""The notebooks run, in both languages, and are stored without what running leaves."""

import json
import os
import pathlib
import re
import sys
import tempfile

import nbformat
import processes
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

FOLDER = processes.ROOT / 'notebooks'
LANGUAGES = ('en', 'zh')
NAMES = ('finetune', 'inside_a_vit')
PATHS = [
    FOLDER / language / f'{name}.ipynb' for language in LANGUAGES for name in NAMES
]
# Chinese characters and punctuation.
CHINESE = re.compile('[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]')


class Kernels(AsyncKernelManager):
    """Starts this Python, whatever kernels are installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, '-m', 'ipykernel_launcher', '-f', '{connection_file}']
        return KernelSpec(argv=argv, language='python')


def cells(path: pathlib.Path, kind: str) -> list[dict]:
    notebook = json.loads(path.read_text())
    return [cell for cell in notebook['cells'] if cell['cell_type'] == kind]


def title(path: pathlib.Path) -> str:
    return f'{path.parent.name}-{path.stem}'


def test_all_are_tested():
    assert sorted(FOLDER.rglob('*.ipynb')) == sorted(PATHS)


@pytest.mark.parametrize('path', PATHS, ids=title)
def test_stored_without_results(path):
    notebook = json.loads(path.read_text())
    nbformat.validate(notebook)
    assert notebook['metadata'] == {
        'kernelspec': {
            'display_name': 'Python 3',
            'language': 'python',
            'name': 'python3',
        },
        'language_info': {'name': 'python'},
    }
    for cell in notebook['cells']:
        assert cell['metadata'] == {}
        assert cell.get('outputs', []) == []
        assert cell.get('execution_count') is None


@pytest.mark.parametrize('name', NAMES)
def test_both_languages_have_the_same_code(name):
    english, chinese = (FOLDER / language / f'{name}.ipynb' for language in LANGUAGES)
    assert cells(english, 'code') == cells(chinese, 'code')
    orders = [
        [
            (cell['cell_type'], cell['id'])
            for cell in json.loads(path.read_text())['cells']
        ]
        for path in (english, chinese)
    ]
    assert orders[0] == orders[1]


@pytest.mark.parametrize('path', PATHS, ids=title)
def test_each_text_is_in_its_language(path):
    for kind in ('code', 'markdown'):
        chinese = kind == 'markdown' and path.parent.name == 'zh'
        for cell in cells(path, kind):
            text = ''.join(cell['source'])
            assert bool(CHINESE.search(text)) == chinese, text


@pytest.mark.parametrize('name', NAMES)
def test_both_languages_have_the_same_formulas_code_and_links(name):
    found = []
    for language in LANGUAGES:
        text = ''.join(
            ''.join(cell['source'])
            for cell in cells(FOLDER / language / f'{name}.ipynb', 'markdown')
        )
        # Their order follows the sentence, which is not the same in both.
        links = re.findall(r'\]\(([^)]+)\)', text)
        formulas = re.findall(r'\$\$.+?\$\$', text)
        blocks = re.findall(r'^```.+?^```', text, re.DOTALL | re.MULTILINE)
        found.append([sorted(links), formulas, blocks])
    assert found[0] == found[1]


@pytest.mark.parametrize('path', PATHS, ids=title)
def test_links_lead_somewhere(path):
    text = ''.join(''.join(cell['source']) for cell in cells(path, 'markdown'))
    local = [link for link in re.findall(r'\]\(([^)]+)\)', text) if '://' not in link]
    assert local
    for link in local:
        assert (path.parent / link).exists(), link


@pytest.mark.parametrize(
    'path',
    [
        FOLDER / 'en/inside_a_vit.ipynb',
        pytest.param(FOLDER / 'en/finetune.ipynb', marks=pytest.mark.slow),
        pytest.param(FOLDER / 'zh/inside_a_vit.ipynb', marks=pytest.mark.slow),
        pytest.param(FOLDER / 'zh/finetune.ipynb', marks=pytest.mark.slow),
    ],
    ids=title,
)
def test_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    environment = processes.environment(
        TFDS_DATA_DIR=str(tmp_path / 'data'),
        IPYTHONDIR=str(tmp_path / 'ipython'),
        TMPDIR=str(tmp_path),
    )
    # Without ports, which others might take; names of sockets must be short.
    with tempfile.TemporaryDirectory(prefix='vit_jax-') as sockets:
        client = NotebookClient(
            notebook,
            km=Kernels(
                transport='ipc', connection_file=os.path.join(sockets, 'kernel.json')
            ),
            timeout=300,
            resources={'metadata': {'path': str(tmp_path)}},
        )
        client.execute(env=environment, cleanup_kc=True)
    code = [cell for cell in notebook.cells if cell.cell_type == 'code']
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    outputs = [output for cell in code for output in cell.outputs]
    figures = [output for output in outputs if 'image/png' in output.get('data', {})]
    assert len(figures) >= 5
    # Nothing is complained of, but for a progress bar that Jupyter may lack.
    complaints = ''.join(
        output.text for output in outputs if output.get('name') == 'stderr'
    )
    assert not re.search('Error|Traceback|fork', complaints), complaints
    lines = [line for line in complaints.splitlines() if 'Warning' in line]
    assert all('TqdmWarning' in line for line in lines), complaints
