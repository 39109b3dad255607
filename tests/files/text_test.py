"""Text files as people have them."""

import pytest

from vit_jax.files import text


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le'])
def test_lines_of_any_program(tmp_path, encoding):
    path = tmp_path / 'list.txt'
    path.write_bytes('Äpfel\r\nBirnen\n'.encode(encoding))
    assert text.lines(path) == ['Äpfel', 'Birnen']


@pytest.mark.parametrize(
    ('content', 'where'),
    [
        ('a\nÄpfel\n'.encode('latin-1'), r'line 2: found the byte 0xc4 in .*pfel'),
        (b'a\nb\n\x80uro\n', 'line 3: found the byte 0x80'),
        ('a\n'.encode('utf-16') + b'\x00', 'is damaged'),
    ],
)
def test_other_encodings_are_named(tmp_path, content, where):
    path = tmp_path / 'list.txt'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf'list\.txt,? {where}.* as UTF-8'):
        text.lines(path)


@pytest.mark.parametrize(
    'content',
    [
        b'a b.png\nc.png\n',
        b'\xef\xbb\xbfa b.png\r\nc.png',
        'a b.png\r\n\r\nc.png\r\n'.encode('utf-16'),
        b'"a b.png"\n\'c.png\'\n',
        b'  a b.png\nc.png  \n\n',
    ],
)
def test_names_of_files(content):
    assert text.names(content) == ['a b.png', 'c.png']


def test_names_need_not_be_text():
    assert text.names(b'\xc4.png\n') == ['\udcc4.png']
