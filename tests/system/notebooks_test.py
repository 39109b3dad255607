"""The notebooks, in both languages: stored with what running them gives."""

import json
import pathlib
import re

import nbformat
import processes
import pytest

import notebooks

FOLDER, LANGUAGES, NAMES = notebooks.FOLDER, notebooks.LANGUAGES, notebooks.NAMES
PATHS = [
    FOLDER / language / f'{name}.ipynb' for language in LANGUAGES for name in NAMES
]
# Chinese characters and punctuation.
CHINESE = re.compile('[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]')


def cells(path: pathlib.Path, kind: str) -> list[dict]:
    notebook = json.loads(path.read_text())
    return [cell for cell in notebook['cells'] if cell['cell_type'] == kind]


def title(path: pathlib.Path) -> str:
    return f'{path.parent.name}-{path.stem}'


def test_all_are_tested():
    assert sorted(FOLDER.rglob('*.ipynb')) == sorted(PATHS)


@pytest.mark.parametrize('path', PATHS, ids=title)
def test_stored_with_results(path):
    """So that they read on the web; without what tells of a machine."""
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
    counts = [c['execution_count'] for c in notebook['cells'] if 'outputs' in c]
    assert counts == [*range(1, len(counts) + 1)]
    assert all(cell['metadata'] == {} for cell in notebook['cells'])
    outputs = [o for cell in notebook['cells'] for o in cell.get('outputs', [])]
    assert len([o for o in outputs if 'image/png' in o.get('data', {})]) >= 5
    text = ''.join(''.join(o.get('text', [])) for o in outputs)
    assert not re.search(r'/tmp|/home|/root|\x1b|xla_cpu|Traceback', text)
    assert path.stat().st_size < 600_000


@pytest.mark.parametrize('name', NAMES)
def test_both_languages_show_the_same_results(name):
    english, chinese = (
        nbformat.read(FOLDER / language / f'{name}.ipynb', as_version=4)
        for language in LANGUAGES
    )
    shown = [
        [c.outputs for c in n.cells if c.cell_type == 'code']
        for n in (english, chinese)
    ]
    assert shown[0] == shown[1]


@pytest.mark.parametrize('name', NAMES)
def test_both_languages_have_the_same_code(name):
    english, chinese = (FOLDER / language / f'{name}.ipynb' for language in LANGUAGES)
    code = [[c['source'] for c in cells(path, 'code')] for path in (english, chinese)]
    assert code[0] == code[1]
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
    'name', ['inside_a_vit', pytest.param('finetune', marks=pytest.mark.slow)]
)
def test_running_gives_what_is_stored(name, tmp_path):
    """The same kinds of results; the last digits of numbers are those of a machine."""
    environment = processes.environment(
        TFDS_DATA_DIR=str(tmp_path / 'data'),
        IPYTHONDIR=str(tmp_path / 'ipython'),
        TMPDIR=str(tmp_path),
    )
    path = FOLDER / 'en' / f'{name}.ipynb'
    executed = notebooks.run(path, tmp_path, environment)
    stored = nbformat.read(path, as_version=4)
    assert notebooks.results(executed) == notebooks.results(stored)
