import csv
import itertools

import pytest
import web

from vit_jax import checkpoint, models
from vit_jax.checkpoint import augreg
from vit_jax.command_line import recipe
from vit_jax.files import fetch
from vit_jax.models.zoo.google_files import PUBLISHED

B16 = 'B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0'
COLUMNS = (
    *('name', 'ds', 'epochs', 'lr', 'aug', 'wd', 'do', 'sd'),
    *('best_val', 'final_val', 'final_test'),
    *('adapt_ds', 'adapt_lr', 'adapt_steps', 'adapt_resolution'),
    *('adapt_final_val', 'adapt_final_test', 'params', 'infer_samples_per_sec'),
    *('filename', 'adapt_filename'),
)


def test_a_name_tells_the_training():
    assert augreg.parse(B16) == augreg.Training(
        'ViT-B_16', 'i21k', 300, 0.001, 'medium1', 0.1, 0.0, 0.0
    )
    found = augreg.parse(
        'R26_S_32-i1k-100ep-lr_1e-05-aug_none-wd_0.03-do_0.1-sd_0.1'
        '--oxford_iiit_pet-steps_0k-lr_0.003-res_224.npz'
    )
    assert (found.model, found.data, found.epochs) == ('R26+ViT-S_32', 'i1k', 100)
    assert (found.lr, found.dropout, found.stochastic_depth) == (1e-5, 0.1, 0.1)
    assert found.fine_tuning == augreg.FineTuning('oxford_iiit_pet', 0, 0.003, 224)


def test_every_name_of_the_grammar():
    names = [
        f'{key}-{data}-300ep-lr_0.001-aug_{aug}-wd_{wd}-do_{do}-sd_{do}'
        for key, data, aug, wd, do in itertools.product(
            models.AUGREG_NAMES,
            ('i1k', 'i21k', 'i21k_30'),
            augreg.AUGMENTATIONS,
            ('0.03', '0.1'),
            ('0.0', '0.1'),
        )
        if 'norep' not in key and 'testing' not in key
    ]
    assert len({augreg.parse(name) for name in names}) == len(names)


def test_the_registry_follows_the_grammar():
    files = [row for row in PUBLISHED if '/augreg/' in row.path]
    assert len(files) > 40
    for row in files:
        training = augreg.parse(row.path.rpartition('/')[2])
        assert training.model == row.model
        on_i21k = training.data == 'i21k' and training.fine_tuning is None
        assert row.num_classes == (21843 if on_i21k else 1000)
        if training.fine_tuning:
            assert training.fine_tuning.resolution == row.image_size
    recommended = {
        f'vit_models/augreg/{name}.npz' for name in augreg.RECOMMENDED.values()
    }
    assert recommended <= {row.path for row in files}


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        (B16.replace('B_16', 'B_61'), "Unknown model of AugReg 'B_61'. Did you mean"),
        (B16.replace('medium1', 'medium3'), "'aug_medium3' is no augmentation; exp"),
        (B16.replace('300ep', '300'), "'300' is no epochs; expected NUMBERep"),
        (B16.replace('wd_0.1', 'wd_x'), "'wd_x' is no weight decay; expected wd_NUM"),
        (B16.replace('i21k', 'i22k'), "'i22k' is no data; expected i1k or i21k or"),
        (B16.replace('-sd_0.0', ''), 'found 6 fields .* expected 7: data, epochs'),
        (f'{B16}--cifar100-steps_10k-lr_0.01', 'found 3 fields .*, expected 4'),
        (f'{B16}--cifar100-steps_10k-lr_0.01-res_big', "'res_big' is no resolution"),
    ],
)
def test_wrong_names(name, message):
    with pytest.raises(ValueError, match=message):
        augreg.parse(name)
    assert augreg.source(name) == {}


def write_index(folder):
    """Writes an index in which the second of three B_16 is the best on i21k."""
    rows = []
    for ds, aug, val in (
        ('i21k', 'none', 0.4),
        ('i21k', 'light1', 0.6),
        ('i21k', 'strong2', 0.5),
        ('i1k', 'medium1', 0.9),
    ):
        name = f'B_16-{ds}-300ep-lr_0.001-aug_{aug}-wd_0.1-do_0.0-sd_0.0'
        rows.append(dict.fromkeys(COLUMNS, '') | {
            'name': 'B/16', 'ds': ds, 'final_val': val, 'filename': name,
            'adapt_filename': f'{name}--cifar100-steps_10k-lr_0.01-res_224',
        })  # fmt: skip
    with (folder / 'index.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


BEST = 'B_16-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0'


def test_recommended(tmp_path):
    assert augreg.recommended('B_16', tmp_path / 'nowhere') == B16
    assert augreg.recommended('B_8').startswith('B_8-i21k-300ep-lr_0.001-aug_medium2')
    write_index(tmp_path)
    assert augreg.recommended('B_16', tmp_path) == BEST
    assert augreg.recommended('L_16', tmp_path) == augreg.RECOMMENDED['L_16']
    with pytest.raises(ValueError, match="Unknown model of AugReg 'B_61'"):
        augreg.recommended('B_61')


def test_an_index_that_is_none(tmp_path, caplog):
    (tmp_path / 'index.csv').write_text('a,b\n1,2\n')
    assert augreg.recommended('B_16', tmp_path) == B16
    assert 'not the index of AugReg' in caplog.text


def test_recipe_takes_the_index_of_the_folder(tmp_path):
    write_index(tmp_path)
    command = ['main', '--workdir=x', '--config=augreg.py:B_16']
    config, _ = recipe.parse([*command, f'--config.pretrained_dir={tmp_path}'])
    assert config.pretrained == f'{tmp_path}/{BEST}.npz'
    config, _ = recipe.parse(command)
    assert config.pretrained == f'./{B16}.npz'


def test_recipe_checks_whole_names():
    name = f'{B16}--imagenet2012-steps_20k-lr_0.03-res_384.npz'
    command = ['main', '--workdir=x']
    config, _ = recipe.parse([*command, f'--config=augreg.py:{name}'])
    assert config.pretrained == f'./{name}'
    with pytest.raises(ValueError, match='no augmentation'):
        recipe.parse(
            [*command, f'--config=augreg.py:{name.replace("medium1", "huge")}']
        )


def test_index_as_a_table(tmp_path, monkeypatch):
    pytest.importorskip('pandas')
    write_index(tmp_path)
    found = checkpoint.get_augreg_df(tmp_path)
    assert tuple(found.columns) == COLUMNS
    assert found.final_val.max() == 0.9
    # And from the web.
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    monkeypatch.setenv(fetch.CACHE_VARIABLE, str(tmp_path / 'cache'))
    with web.serving() as server:
        server.files['/vit_models/augreg/index.csv'] = (
            tmp_path / 'index.csv'
        ).read_bytes()
        monkeypatch.setenv(fetch.GCS_VARIABLE, server.url)
        assert checkpoint.get_augreg_df().equals(found)
        assert augreg.recommended('B_16', augreg.BUCKET) == BEST
        server.files.clear()
        with pytest.raises(ValueError, match='no such file'):
            checkpoint.get_augreg_df(f'{server.url}/elsewhere')


def test_class_names():
    assert augreg.class_names(B16, 21843)[0] == 'organism, being'
    assert augreg.class_names('ViT-B_16', 1000)[0] == 'tench, Tinca tinca'
    assert augreg.class_names('ViT-B_16', 10) is None
    # TFDS learns the names of CIFAR-100's classes from its download.
    cifar = f'{B16}--cifar100-steps_10k-lr_0.01-res_224'
    assert augreg.class_names(cifar, 100) is None
    pets = f'{B16}--oxford_iiit_pet-steps_0k-lr_0.01-res_224'
    assert augreg.class_names(pets, 37)[0] == 'Abyssinian'
    assert augreg.class_names(pets, 10) is None
    unknown = f'{B16}--some_dataset-steps_0k-lr_0.01-res_224'
    assert augreg.class_names(unknown, 37) is None
