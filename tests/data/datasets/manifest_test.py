"""Lists of images with labels, as people and their programs write them."""

import pathlib

import pytest
from folder_test import jpeg, make, names

from vit_jax import data


class TestManifest:
    def write(self, root: pathlib.Path, text: str) -> pathlib.Path:
        make(root, *[f'images/{i}.jpg' for i in range(40)], '41.jpg')
        path = root / 'list.csv'
        path.write_text(text, encoding='utf-8')
        return path

    def test_with_splits(self, tmp_path):
        path = self.write(
            tmp_path,
            '\ufeffLabel, path ,Split,note\n'
            'dog,images/1.jpg,train,x\n'
            '"cat, small",images/2.jpg,TRAIN,\n'
            '\n'
            f'dog,{tmp_path}/images/3.jpg,val,\n'
            'dog,41.jpg,test,"two\nlines"\n',
        )
        dataset = data.open_manifest(path)
        assert dataset.class_names == ('cat, small', 'dog')
        assert dataset.splits == {'train': 2, 'validation': 1, 'test': 1}
        source = dataset.source('train+val+test')
        found = {
            pathlib.Path(example['name']).name: example['label']
            for example in (source[i] for i in range(4))
        }
        assert found == {'1.jpg': 1, '2.jpg': 0, '3.jpg': 1, '41.jpg': 1}
        assert source[3]['image'] == jpeg()

    def test_without_splits(self, tmp_path):
        rows = [f'images/{i}.jpg,{"ab"[i % 2]}' for i in range(40)]
        path = self.write(tmp_path, '\n'.join(['path,label', *rows]))
        dataset = data.open_manifest(path, holdout=0.2)
        assert dataset.splits == {'train': 24, 'validation': 8, 'test': 8}
        labels = [dataset.source('val')[i]['label'] for i in range(8)]
        assert sorted(labels) == [0] * 4 + [1] * 4
        path.write_text('\n'.join(['path,label', *reversed(rows)]))
        again = data.open_manifest(path, holdout=0.2)
        assert names(again.source('train')) == names(dataset.source('train'))

    @pytest.mark.parametrize(
        ('text', 'message'),
        [
            ('', r'columns \(none\), expected path, label'),
            ('images/1.jpg,cat\n', r'columns images/1\.jpg, cat, expected'),
            ('path,label\nimages/1.jpg,a\nimages/2.jpg\n', r'row 3: found 1 values'),
            ('path,label\nimages/1.jpg,\n', r'row 2: found no label'),
            ('path,label\n ,a\n', r'row 2: found no path'),
            ('path,label,split\nimages/1.jpg,a,more\n', r"row 2: .* split 'more'"),
            ('path,label,split\nimages/1.jpg,a,\n', r"row 2: .* split ''"),
            ('path,label\nimages/99.jpg,a\n', r"row 2: the file 'images/99.jpg'"),
            (
                'path,label,split\nimages/1.jpg,a,train\nimages/2.jpg,b,test\n',
                r"class 'b' in test \(row 3\)",
            ),
            ('path,label\n', 'found no images'),
        ],
    )
    def test_errors_name_the_row(self, tmp_path, text, message):
        path = self.write(tmp_path, text)
        with pytest.raises(ValueError, match=message):
            data.open_manifest(path)


TABLE = 'path,label\n' + ''.join(f'images/{i}.jpg,{"ab"[i % 2]}\n' for i in range(8))


@pytest.mark.parametrize(
    ('content', 'row'),
    [
        (TABLE.replace(',a\n', ',"a\n', 1), 2),
        (TABLE.replace(',b\n', ',"b\n', 1) + TABLE[11:] * 2000, 3),
        (TABLE.replace('images/2', '"images/2', 1), 4),
    ],
)
def test_an_open_quotation_mark_is_named(tmp_path, content, row):
    make(tmp_path, *[f'images/{i}.jpg' for i in range(8)])
    path = tmp_path / 'list.csv'
    path.write_text(content)
    with pytest.raises(ValueError, match=rf'list\.csv, row {row}: a quotation mark'):
        data.open_manifest(path)


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le'])
@pytest.mark.parametrize('separator', [',', ';', '\t'])
@pytest.mark.parametrize('end', ['\n', '\r\n'])
def test_what_spreadsheets_write(tmp_path, encoding, separator, end):
    make(tmp_path, *[f'images/{i}.jpg' for i in range(8)])
    path = tmp_path / 'list.csv'
    content = TABLE.replace('b\n', 'Äpfel\n').replace(',', separator)
    path.write_bytes(content.replace('\n', end).encode(encoding))
    dataset = data.open_manifest(path, holdout=0)
    assert dataset.splits == {'train': 8}
    assert dataset.class_names == ('a', 'Äpfel')


def test_another_encoding_names_the_line(tmp_path):
    path = tmp_path / 'list.csv'
    path.write_bytes('path,label\n1.jpg,a\n2.jpg,Äpfel\n'.encode('latin-1'))
    (tmp_path / '1.jpg').touch()
    message = r'list\.csv, line 3: found the byte 0xc4 .* Save the file as UTF-8'
    with pytest.raises(ValueError, match=message):
        data.open_manifest(path)


@pytest.mark.parametrize('name', ['valid', 'dev', 'Eval'])
def test_splits_by_other_names(tmp_path, name):
    make(tmp_path, *[f'images/{i}.jpg' for i in range(8)])
    rows = [f'images/{i}.jpg,a,{["Training", name][i % 2]}' for i in range(8)]
    path = tmp_path / 'list.csv'
    path.write_text('\n'.join(['path,label,split', *rows]))
    assert data.open_manifest(path).splits == {'train': 4, 'validation': 4}
