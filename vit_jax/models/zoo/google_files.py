"""The files that were published: for each, where it was and where its twins are.

The bucket of the authors has refused anonymous access since February 2026. Most files
live on as the same weights under the names of timm and of Hugging Face's transformers,
on the Hugging Face hub: their twins. Which is which was read from timm's sources and
from the model cards; no twin was compared with its original by us.

Sources: the listings in the original's notebook (sizes in MiB), the README's tables
(accuracies), timm's `vision_transformer*.py` and `mlp_mixer.py` (which file a model of
theirs was converted from).
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterator

I21K, I1K = 21_843, 1_000


@dataclasses.dataclass(frozen=True)
class Published:
    """One file.

    Attributes:
        model: the architecture's name in the zoo.
        path: bucket, folder and name: 'vit_models/imagenet21k/ViT-B_16.npz'.
        num_classes: outputs of its head.
        image_size: side in pixels of the images it was trained on.
        timm: ids on the Hugging Face hub, with timm's names of the parameters.
        huggingface: ids there, with transformers' names.
        accuracy: top-1 on ImageNet's validation set in percent, where published.
        size_mib: of the file, as the bucket listed it.
    """

    model: str
    path: str
    num_classes: int
    image_size: int
    timm: tuple[str, ...] = ()
    huggingface: tuple[str, ...] = ()
    accuracy: float | None = None
    size_mib: float | None = None

    @property
    def url(self) -> str:
        """Returns where the file was served."""
        return f'gs://{self.path}'

    @property
    def twins(self) -> tuple[str, ...]:
        """Returns references to the same weights on the hub."""
        return tuple(f'hf://{name}' for name in (*self.timm, *self.huggingface))


def _vit() -> Iterator[Published]:
    """Dosovitskiy et al. 2020: ImageNet-21k, and fine-tuned on ImageNet."""
    pretrained = {
        'ViT-B_8': (393.72, [], []),
        'ViT-B_16': (393.69, ['vit_base_patch16_224'], ['vit-base-patch16-224']),
        'ViT-B_32': (400.01, ['vit_base_patch32_224'], ['vit-base-patch32-224']),
        'ViT-L_16': (1249.3, ['vit_large_patch16_224'], ['vit-large-patch16-224']),
        'ViT-L_32': (1259.5, ['vit_large_patch32_224'], ['vit-large-patch32-224']),
        'ViT-H_14': (2519.0, ['vit_huge_patch14_224'], ['vit-huge-patch14-224']),
        'R26+ViT-B_32': (450.23, [], []),
        'R50+ViT-B_16': (439.85, ['vit_base_r50_s16_224'], []),
        'R50+ViT-L_32': (1341.4, [], []),
    }
    for model, (size, timm, hf) in pretrained.items():
        yield Published(
            model,
            f'vit_models/imagenet21k/{model}.npz',
            I21K,
            224,
            timm=tuple(f'timm/{name}.orig_in21k' for name in timm),
            huggingface=tuple(f'google/{name}-in21k' for name in hf),
            size_mib=size,
        )
    finetuned = {
        'ViT-B_8': ('ViT-B_8', 384, [], [], None, 334.78),
        'ViT-B_16-224': (
            'ViT-B_16',
            224,
            ['vit_base_patch16_224'],
            ['vit-base-patch16-224'],
            None,
            330.29,
        ),
        'ViT-B_16': (
            'ViT-B_16',
            384,
            ['vit_base_patch16_384'],
            ['vit-base-patch16-384'],
            84.53,
            331.4,
        ),
        'ViT-B_32': ('ViT-B_32', 384, [], ['vit-base-patch32-384'], 81.66, 336.89),
        'ViT-L_16-224': ('ViT-L_16', 224, [], ['vit-large-patch16-224'], None, 1157.1),
        'ViT-L_16': ('ViT-L_16', 384, [], ['vit-large-patch16-384'], 85.05, 1167.4),
        'ViT-L_32': (
            'ViT-L_32',
            384,
            ['vit_large_patch32_384'],
            ['vit-large-patch32-384'],
            81.89,
            1167.4,
        ),
        'R50+ViT-B_16': (
            'R50+ViT-B_16',
            384,
            ['vit_base_r50_s16_384'],
            ['vit-hybrid-base-bit-384'],
            85.08,
            377.57,
        ),
    }
    for name, (model, side, timm, hf, accuracy, size) in finetuned.items():
        yield Published(
            model,
            f'vit_models/imagenet21k+imagenet2012/{name}.npz',
            I1K,
            side,
            timm=tuple(f'timm/{x}.orig_in21k_ft_in1k' for x in timm),
            huggingface=tuple(f'google/{x}' for x in hf),
            accuracy=accuracy,
            size_mib=size,
        )


def _sharpness_aware() -> Iterator[Published]:
    """Chen et al. 2021 (SAM) and Zhuang et al. 2022 (GSAM), on ImageNet alone."""
    sam = {
        'ViT-B_16': (330.3, ['timm/vit_base_patch16_224.sam_in1k']),
        'ViT-B_32': (336.61, ['timm/vit_base_patch32_224.sam_in1k']),
        'ViT-L_16': (1157.1, []),
        'ViT-L_32': (1167.4, []),
        'ViT-S_16': (252.57, []),  # a trainer's state: twice more than parameters
    }
    for model, (size, timm) in sam.items():
        path = f'vit_models/sam/{model}.npz'
        yield Published(model, path, I1K, 224, timm=tuple(timm), size_mib=size)
    for model in ('ViT-B_16', 'ViT-B_32', 'ViT-S_16', 'ViT-S_32'):
        path = f'vit_models/gsam/{model}.npz'
        yield Published(f'{model}-gap-norep', path, I1K, 224)
    for model, size in {'Mixer-B_16': 228.47, 'Mixer-B_32': 230.04}.items():
        yield Published(model, f'mixer_models/sam/{model}.npz', I1K, 224, size_mib=size)
    gsam = {
        'Mixer-B_16': 228.47,
        'Mixer-B_32': 230.04,
        'Mixer-S_8': 78.79,
        'Mixer-S_16': 70.71,
        'Mixer-S_32': 72.91,
    }
    for model, size in gsam.items():
        path = f'mixer_models/gsam/{model}.npz'
        yield Published(model, path, I1K, 224, size_mib=size)


def _mixer() -> Iterator[Published]:
    """Tolstikhin et al. 2021."""
    for model, timm, size_i21k, size_i1k in (
        ('Mixer-B_16', 'mixer_b16_224', 289.61, 228.47),
        ('Mixer-L_16', 'mixer_l16_224', 875.78, 794.29),
    ):
        for data, tag, classes, size in (
            ('imagenet21k', 'goog_in21k', I21K, size_i21k),
            ('imagenet1k', 'goog_in21k_ft_in1k', I1K, size_i1k),
        ):
            yield Published(
                model,
                f'mixer_models/{data}/{model}.npz',
                classes,
                224,
                timm=(f'timm/{timm}.{tag}',),
                size_mib=size,
            )


_AUGREG_I21K = 'i21k-300ep-lr_0.001-'
_AUGREG_I1K = 'i1k-300ep-lr_0.001-'
_FINE_TUNE = '--imagenet2012-steps_20k-'
_REGULARIZATION = {
    'none': 'aug_none-wd_0.03-do_0.0-sd_0.0',
    'light1': 'aug_light1-wd_0.03-do_0.0-sd_0.0',
    'light1-wd': 'aug_light1-wd_0.1-do_0.0-sd_0.0',
    'none-wd': 'aug_none-wd_0.1-do_0.0-sd_0.0',
    'light0-sd': 'aug_light0-wd_0.03-do_0.1-sd_0.1',
    'medium1': 'aug_medium1-wd_0.03-do_0.0-sd_0.0',
    'medium1-wd': 'aug_medium1-wd_0.1-do_0.0-sd_0.0',
    'medium1-sd': 'aug_medium1-wd_0.1-do_0.1-sd_0.1',
    'medium2': 'aug_medium2-wd_0.03-do_0.0-sd_0.0',
    'medium2-wd': 'aug_medium2-wd_0.1-do_0.0-sd_0.0',
    'medium2-sd': 'aug_medium2-wd_0.1-do_0.1-sd_0.1',
    'strong1-wd': 'aug_strong1-wd_0.1-do_0.0-sd_0.0',
    'strong2-sd': 'aug_strong2-wd_0.1-do_0.1-sd_0.1',
}


def _augreg() -> Iterator[Published]:
    """Steiner et al. 2021: the recommended files, and those that timm has."""
    # Key, model, data, regularization, timm's name of the pre-training ('' for none),
    # then fine-tunes: learning rate, resolution, timm's name, accuracy.
    i21k, i1k = _AUGREG_I21K, _AUGREG_I1K
    rows = [
        ('Ti_16', 'ViT-Ti_16', i21k, 'none', 'vit_tiny_patch16_224',
         [('0.03', 224, 'vit_tiny_patch16_224', None),
          ('0.03', 384, 'vit_tiny_patch16_384', 78.22)]),
        ('S_32', 'ViT-S_32', i21k, 'none-wd', '', [('0.01', 384, '', 79.58)]),
        ('S_32', 'ViT-S_32', i21k, 'light1', 'vit_small_patch32_224',
         [('0.03', 224, 'vit_small_patch32_224', None),
          ('0.03', 384, 'vit_small_patch32_384', None)]),
        ('S_16', 'ViT-S_16', i21k, 'light1', 'vit_small_patch16_224',
         [('0.03', 224, 'vit_small_patch16_224', None),
          ('0.03', 384, 'vit_small_patch16_384', 83.73)]),
        ('B_32', 'ViT-B_32', i21k, 'light1-wd', '',
         [('0.03', 384, 'vit_base_patch32_384', None), ('0.01', 384, '', 83.59)]),
        ('B_32', 'ViT-B_32', i21k, 'medium1', 'vit_base_patch32_224',
         [('0.03', 224, 'vit_base_patch32_224', None)]),
        ('B_16', 'ViT-B_16', i21k, 'medium1-wd', 'vit_base_patch16_224',
         [('0.01', 224, 'vit_base_patch16_224', None),
          ('0.01', 384, 'vit_base_patch16_384', None), ('0.03', 384, '', 85.49)]),
        ('B_8', 'ViT-B_8', i21k, 'medium2-wd', '', [('0.03', 224, '', None)]),
        ('B_8', 'ViT-B_8', i21k, 'medium1-wd', 'vit_base_patch8_224',
         [('0.01', 224, 'vit_base_patch8_224', None)]),
        ('L_16', 'ViT-L_16', i21k, 'strong1-wd', '', [('0.01', 384, '', 85.59)]),
        ('L_16', 'ViT-L_16', i21k, 'medium1-sd', 'vit_large_patch16_224',
         [('0.01', 224, 'vit_large_patch16_224', None),
          ('0.01', 384, 'vit_large_patch16_384', None)]),
        ('R_Ti_16', 'R+ViT-Ti_16', i21k, 'none', 'vit_tiny_r_s16_p8_224',
         [('0.03', 224, 'vit_tiny_r_s16_p8_224', None),
          ('0.03', 384, 'vit_tiny_r_s16_p8_384', 75.40)]),
        ('R26_S_32', 'R26+ViT-S_32', i21k, 'light1-wd', '',
         [('0.01', 384, '', 83.85)]),
        ('R26_S_32', 'R26+ViT-S_32', i21k, 'light0-sd', '',
         [('0.03', 224, 'vit_small_r26_s32_224', None)]),
        ('R26_S_32', 'R26+ViT-S_32', i21k, 'medium2', 'vit_small_r26_s32_224',
         [('0.03', 384, 'vit_small_r26_s32_384', None)]),
        ('R50_L_32', 'R50+ViT-L_32', i21k, 'medium1-sd', '',
         [('0.01', 224, 'vit_large_r50_s32_224', None), ('0.01', 384, '', 85.99)]),
        ('R50_L_32', 'R50+ViT-L_32', i21k, 'medium2-wd', 'vit_large_r50_s32_224',
         [('0.01', 384, 'vit_large_r50_s32_384', None)]),
        ('S_16', 'ViT-S_16', i1k, 'medium2-wd', '',
         [('0.01', 224, 'vit_small_patch16_224', None),
          ('0.01', 384, 'vit_small_patch16_384', None)]),
        ('B_32', 'ViT-B_32', i1k, 'medium2-sd', '',
         [('0.01', 224, 'vit_base_patch32_224', None),
          ('0.01', 384, 'vit_base_patch32_384', None)]),
        ('B_16', 'ViT-B_16', i1k, 'strong2-sd', '',
         [('0.01', 224, 'vit_base_patch16_224', None),
          ('0.01', 384, 'vit_base_patch16_384', None)]),
    ]  # fmt: skip
    for key, model, data, regularized, timm, fine_tunes in rows:
        stem = f'vit_models/augreg/{key}-{data}{_REGULARIZATION[regularized]}'
        on_i21k = data == _AUGREG_I21K
        yield Published(
            model,
            f'{stem}.npz',
            I21K if on_i21k else I1K,
            224,
            timm=(f'timm/{timm}.augreg_in21k',) if timm else (),
        )
        tag = 'augreg_in21k_ft_in1k' if on_i21k else 'augreg_in1k'
        for rate, side, name, accuracy in fine_tunes:
            yield Published(
                model,
                f'{stem}{_FINE_TUNE}lr_{rate}-res_{side}.npz',
                I1K,
                side,
                timm=(f'timm/{name}.{tag}',) if name else (),
                accuracy=accuracy,
            )


PUBLISHED: tuple[Published, ...] = (
    *_vit(),
    *_augreg(),
    *_mixer(),
    *_sharpness_aware(),
)

_BY_PATH = {row.path: row for row in PUBLISHED}
_BY_HUB_ID = {name: row for row in PUBLISHED for name in (*row.timm, *row.huggingface)}
# timm's tags of weights that Google trained; augreg2_… are timm's own fine-tunes.
_GOOGLE_TAGS = re.compile(r'(augreg|orig|sam|goog)_in(1k|21k)(_ft_in1k)?')


def find(reference: str) -> Published | None:
    """Returns the published file that a reference names, or None.

    Known are `gs://…` and `https://storage.googleapis.com/…`, ids of the hub with and
    without `hf://`, and local paths: by folder and name (`imagenet21k/ViT-B_16.npz`),
    or by the name alone where only one published file has it.
    """
    text = re.sub(r'[#?].*', '', reference).replace('%2B', '+')
    text = re.sub(r'^(gs://|https?://storage\.googleapis\.com/)', '', text)
    if text in _BY_PATH:
        return _BY_PATH[text]
    hub = re.match(r'(?:hf://)?([^/@]+/[^/@]+)', text)
    if hub and hub[1] in _BY_HUB_ID:
        return _BY_HUB_ID[hub[1]]
    parts = pathlib.PurePath(text).parts
    for known in (2, 1):
        end = '/'.join(parts[-known:])
        found = [row for path, row in _BY_PATH.items() if path.endswith(f'/{end}')]
        if len(found) == 1 and parts:
            return found[0]
    return None


def alternatives(reference: str) -> list[str]:
    """Returns references to the same weights elsewhere, or to their nearest kin.

    For a file that is not in the table, or has no twin, they are the twins of files of
    the same architecture.
    """
    row = find(reference)
    name = pathlib.PurePath(reference).name.removesuffix('.npz')
    if row is not None:
        twins = [twin for twin in (row.url, *row.twins) if twin != reference]
        if row.twins:
            return [twin for twin in twins if not twin.startswith('gs://')] or twins
    same = [
        other
        for other in PUBLISHED
        if other.model == (row.model if row else name) and other.twins
    ]
    return [twin for other in same for twin in other.twins]


def google_trained(hub_id: str) -> bool:
    """Returns whether weights on the hub are Google's own, in other names.

    Those were trained with the tanh form of GELU and the original's epsilons, whatever
    the port that carries them computes. For all others the answer is no.

    Args:
        hub_id: 'timm/vit_base_patch16_224.augreg_in21k', or without the owner.
    """
    hub_id = hub_id.removeprefix('hf://').partition('@')[0]
    if hub_id in _BY_HUB_ID or f'google/{hub_id}' in _BY_HUB_ID:
        return True
    _, _, tag = hub_id.rpartition('/')[2].partition('.')
    return bool(_GOOGLE_TAGS.fullmatch(tag))
