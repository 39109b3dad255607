"""The report of a run: what it says, and how a real browser shows it."""

import html
import json
import os
import pathlib
import re
import shutil

import pytest
from conftest import make_photos, tiny_config

from vit_jax import evaluate, models, train
from vit_jax.report import __main__ as report
from vit_jax.report import contents

# Names that would break a page that does not escape them, or its layout.
CLASSES = ('<b>cat & dog<b>', 'dog' + 'o' * 60 + 'g', 'e\'el "x"')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('report')
    photos = make_photos(folder / 'photos', classes=CLASSES, train=8, test=5)
    config = tiny_config(photos, base_lr=0.0)  # so that it makes mistakes
    train.train_and_evaluate(config, folder / 'run')
    return folder / 'run'


def written(capsys, *arguments, code: int = 0) -> str:
    """Returns the page that the command writes."""
    assert report.main([*map(str, arguments)]) == code
    return pathlib.Path(capsys.readouterr().out.strip()).read_text()


def text_of(page: str) -> str:
    """Returns what is written on a page."""
    page = re.sub(r'(?s)<(style|svg).*?</\1>', ' ', page)
    return html.unescape(re.sub(r'\s+', ' ', re.sub(r'<[^>]+>', ' ', page)))


def test_it_says_what_evaluate_says(run, capsys):
    text = text_of(written(capsys, run))
    assert evaluate.main([str(run), '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    assert f'{found["accuracy"]:.2%} accuracy on test[60%:]' in text
    assert f'{found["loss"]:.4f} loss' in text
    assert f'{found["calibration_error"]:.2%} expected calibration error' in text
    record = json.loads((run / 'run.json').read_text())
    for row in record['results']:
        accuracy = f'{row["accuracy"]:.2%} {row["loss"]:.4f} {row["num_examples"]}'
        shown = f'{row["parameters"]} {row["role"]} {accuracy} {row["step"]} '
        assert f'{shown}{row["split"]}' in text
    assert record['starts'][0]['versions']['jax'] in text
    for fingerprint in record['fingerprints'].values():
        assert fingerprint in text
    assert 'total_steps 4 None' in text
    assert 'wrong' not in text


def test_mistakes_have_photo_and_attention(run, capsys):
    page = written(capsys, run)
    num_mistakes = int(re.search(r'(\d+) of 6\s+images are mistaken', page)[1])
    mistakes = page.partition('id="mistakes"')[2].partition('</section>')[0]
    assert mistakes.count('src="data:image/jpeg;base64,') == 2 * num_mistakes > 0
    assert html.escape(CLASSES[0]) in page
    assert '<b>cat' not in page


def test_the_first_sentence_and_the_images_of_each_class(run, capsys):
    page = written(capsys, run)
    text = text_of(page)
    assert re.search(
        r'right one of 3 classes for \d+\.\d\d% of the 6 images of test\[60%:\]', text
    )
    assert re.search(r'expect \d+\.\d\d% to \d+\.\d\d%: the 95 % confidence', text)
    images = page.partition('<h2>The images</h2>')[2].partition('</section>')[0]
    assert 'learned from 24 others' in text_of(images)
    assert text_of(images).count('8 to learn from') == 3
    judged = map(int, re.findall(r'(\d+) to judge', text_of(images)))
    assert sum(judged) == images.count('<img ') == 6


def test_nothing_tells_where_files_lie(run, capsys):
    page = written(capsys, run)
    assert str(run.parent) not in page
    assert str(run.parent.parent) not in page
    assert '\N{HORIZONTAL ELLIPSIS}/photos' in page


def test_files_that_were_left_out(tmp_path, capsys):
    photos = make_photos(tmp_path / 'photos', train=8, test=5)
    (photos / 'train' / 'cat' / 'page.png').write_text('<html>404</html>')
    config = tiny_config(photos, skip_corrupt=True, total_steps=2)
    train.train_and_evaluate(config, tmp_path / 'run')
    text = text_of(written(capsys, tmp_path / 'run'))
    assert '1 file is no image.' in text
    assert 'page.png' in text.partition('Left out')[2]


def test_each_photo_has_a_scale_of_its_own(run, monkeypatch):
    """The brightest patch of each is as bright as can be."""
    seen = []
    under = contents._under
    monkeypatch.setattr(
        contents,
        '_under',
        lambda photo, heat: (seen.append(heat), under(photo, heat))[1],
    )
    assert report.main([str(run)]) == 0
    assert seen
    assert all(heat.max() == 1 for heat in seen)


def test_a_run_under_way(run, tmp_path, capsys):
    part = tmp_path / 'part'
    part.mkdir()
    for name in ('config.json', 'metrics.jsonl'):
        shutil.copy(run / name, part)
    record = json.loads((run / 'run.json').read_text())
    del record['summary'], record['results']
    (part / 'run.json').write_text(json.dumps(record))
    text = text_of(written(capsys, part))
    assert 'This run has not finished.' in text
    assert 'told of 4 of 4 steps' in text
    assert 'Results' not in text


def test_the_photos_are_gone(run, tmp_path, capsys):
    moved = tmp_path / 'run'
    shutil.copytree(run, moved)
    card = json.loads((moved / 'model.json').read_text())
    card['source']['dataset'] = '/nowhere/photos'
    (moved / 'model.json').write_text(json.dumps(card))
    assert report.main([str(moved), '--out', str(tmp_path / 'a' / 'r.html')]) == 1
    out, error = capsys.readouterr()
    assert 'without judging the model again' in error
    text = text_of(pathlib.Path(out.strip()).read_text())
    assert 'The model was not judged again' in text
    assert '\N{HORIZONTAL ELLIPSIS}/photos' in text
    assert 'What it has learned' in text


def test_a_mixer_has_no_attention(photos, tmp_path, capsys):
    mixer = models.get_config('Mixer-B_16').to_dict() | {
        'model_name': 'small',
        'patches': {'size': (8, 8)},
        'num_blocks': 1,
        'hidden_dim': 8,
        'tokens_mlp_dim': 4,
        'channels_mlp_dim': 8,
    }
    config = tiny_config(photos, base_lr=0.0)
    config.model = type(config.model)(mixer)
    train.train_and_evaluate(config, tmp_path / 'run')
    text = text_of(written(capsys, tmp_path / 'run'))
    assert 'small has no attention' in text


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'no model is named'),
        (['{tmp}'], 'not a run directory, it has no run.json'),
        (['{run}/model.npz'], 'not a run directory'),
        (['{run}', '--dataset', '/nowhere'], '/nowhere'),
        (['{run}', '--split', 'tset'], 'Did you mean test'),
    ],
)
def test_bad_input(run, tmp_path, capsys, arguments, message):
    places = {'run': run, 'tmp': tmp_path}
    written(capsys, run)
    before = (run / 'report.html').stat().st_mtime
    assert report.main([a.format(**places) for a in arguments]) == 2
    out, error = capsys.readouterr()
    assert not out
    assert error.startswith('report: ')
    assert message in error
    assert (run / 'report.html').stat().st_mtime == before


def browser_path() -> str:
    """Returns the Chromium of this machine; without one, skips, but not in CI."""
    for name in ('chromium', 'chromium-browser', 'google-chrome', 'chrome'):
        if path := shutil.which(name):
            return path
    if os.environ.get('CI'):
        pytest.fail('CI needs Chromium for the test of the report')
    pytest.skip('there is no Chromium here')


# What sticks out to the right, but for what is in a box that scrolls.
OVERFLOWING = """() => [...document.querySelectorAll('body *')].filter(element => {
  if (element.closest('.scroll, pre, svg') &&
      !element.matches('.scroll, pre, svg')) return false;
  const box = element.getBoundingClientRect();
  return box.right > document.documentElement.clientWidth + 0.5 || box.left < -0.5;
}).map(element => element.outerHTML.slice(0, 200))"""


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', [320, 390, 1280])
def test_in_a_browser(run, capsys, tmp_path, width, scheme):
    sync_api = pytest.importorskip('playwright.sync_api')
    path = tmp_path / 'report.html'
    written(capsys, run, '--out', path)
    told, asked = [], []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path(), args=['--no-sandbox']
        )
        page = browser.new_page(
            viewport={'width': width, 'height': 800}, color_scheme=scheme
        )
        page.on('console', lambda message: told.append(message.text))
        page.on('pageerror', lambda error: told.append(str(error)))
        page.on('request', lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        for summary in page.query_selector_all('summary'):
            summary.click()  # what is folded must fit as well
        assert page.evaluate('document.documentElement.scrollWidth') <= width
        assert page.evaluate(OVERFLOWING) == []
        broken = '[...document.images].filter(i => !i.naturalWidth).length'
        assert page.evaluate(broken) == 0
        small = page.query_selector('.mistake img').bounding_box()
        page.click('.mistake .open')
        large = page.query_selector('.mistake img').bounding_box()
        assert large['width'] >= min(1.5 * small['width'], width - 40)
        assert page.evaluate('document.documentElement.scrollWidth') <= width
        page.click('.mistake .close')
        assert (
            page.query_selector('.mistake img').bounding_box()['width']
            == (small['width'])
        )
        light = page.evaluate(
            'getComputedStyle(document.body).backgroundColor.match(/\\d+/g)[0] > 128'
        )
        assert light == (scheme == 'light')
        browser.close()
    assert told == []
    assert [url for url in asked if not url.startswith('data:')] == [path.as_uri()]
