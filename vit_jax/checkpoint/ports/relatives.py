"""What networks are called that look like ViT and are others, by their parameters."""

import re
from collections.abc import Iterable

# A part of a name -> what has it.
_FAMILIES = {
    r'\.ls[12]\.|\.gamma_?[12]?$|layer_scale|\.lambda1': (
        'LayerScale, as in DINOv2 and DeiT III'
    ),
    r'reg_tokens?|register_tokens': 'register tokens, as in DINOv2 with registers',
    r'attn_pool|head\.probe|head\.attention': 'attention pooling, as in SigLIP',
    r'norm_pre|pre_?layrnorm|ln_pre': 'a LayerNorm before the blocks, as in CLIP',
    r'fc_norm': 'a LayerNorm after pooling, as in MAE and BEiT',
    r'dist_token|head_dist|distillation': 'a distillation token, as in DeiT',
    r'[qk]_norm': 'normalized queries and keys, as in ViT-22B',
    r'relative_position|rel_pos': 'relative positions, as in BEiT and Swin',
    r'w12|fc1_[gx]|gate_proj': 'SwiGLU, as in DINOv2 giant and EVA',
    r'rope': 'rotary positions, as in EVA-02 and DINOv3',
    r'mask_token': 'a mask token, as in MAE and DINOv2',
    r'downsample|patch_merging': 'stages, as in Swin',
    r'text_model|transformer\.resblocks|token_embedding': 'a text tower, as in CLIP',
    r'running_mean|\.bn\d?\.': 'BatchNorm, as in ResNets and LeViT',
}
_LINES = 12


def families(names: Iterable[str]) -> str:
    """' (they have LayerScale, as in …)': what speaks of other networks, or ''."""
    names = list(names)
    seen = [
        text
        for pattern, text in _FAMILIES.items()
        if any(re.search(pattern, name) for name in names)
    ]
    return f' (they have {"; ".join(seen)})' if seen else ''


def grouped(lines: Iterable[str]) -> list[str]:
    """Lines that differ in the number of a block as one, and no more than a few."""
    counts: dict[str, list[str]] = {}
    for line in lines:
        counts.setdefault(re.sub(r'\d+', '#', line), []).append(line)
    told = [
        same[0] if len(same) == 1 else f'{same[0]} … {len(same)} such'
        for same in counts.values()
    ]
    if len(told) > _LINES:
        told[_LINES - 1 :] = [f'and {len(told) - _LINES + 1} other kinds']
    return told
