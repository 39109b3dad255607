"""Does `--dry_run` say what the run then shows? Memory and time, side by side.

    python scripts/verify_dry_run.py                    six combinations, about 10 min
    python scripts/verify_dry_run.py --only 0 --json    one of them, for programs

For each combination of size, resolution and accumulation it asks for the forecast, then
runs some steps of the same command, each in a process of its own, on photos it makes.
Memory is what the whole process took at most, as the operating system counts it (its
peak resident set); XLA's own numbers stand beside it. The time of a step is the median
of what the run's log says, evaluations and the first step left out. On a machine that
has other work to do the times say little.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

# Model, pixels, batch, parts.
COMBINATIONS = (
    ('ti16', 224, 32, 1),
    ('ti16', 384, 16, 2),
    ('s16', 224, 32, 4),
    ('s16', 128, 64, 1),
    ('b32', 224, 32, 2),
    ('b16', 224, 8, 1),
)
STEPS = 10

FORECAST = """
import dataclasses, json, sys
from vit_jax.command_line.recipe import parse
from vit_jax.forecast import forecast
from vit_jax.runtime import compilation_cache
config, options = parse(['main', *sys.argv[1:]])
compilation_cache.enable(options.compile_cache)
found = forecast.forecast(config, options.workdir)
print(json.dumps(dataclasses.asdict(found)))
"""
RUN = """
import resource, sys
from vit_jax import main
code = main.main(['main', *sys.argv[1:]])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
sys.exit(code)
"""


def make_photos(root: pathlib.Path) -> pathlib.Path:
    """Writes JPEG files of 500×375 pixels, three classes; returns their folder."""
    rng = np.random.default_rng(0)
    for split, count in (('train', 40), ('test', 10)):
        for name in ('cat', 'dog', 'eel'):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                rough = Image.fromarray(rng.integers(0, 256, (38, 50, 3), np.uint8))
                rough.resize((500, 375)).save(folder / f'{i}.jpg', quality=90)
    return root


def python(code: str, arguments: list[str]) -> str:
    """Runs Python in a process of its own; returns the last line that it prints."""
    result = subprocess.run(
        [sys.executable, '-c', code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return result.stdout.splitlines()[-1]


def compare(
    combination: tuple[str, int, int, int], photos: pathlib.Path, workdir: pathlib.Path
) -> dict[str, float]:
    """Returns what the forecast said, and what the run showed.

    Args:
        combination: one of COMBINATIONS.
        photos: from `make_photos`.
        workdir: does not exist yet.
    """
    model, size, batch, parts = combination
    settings = {
        'pretrained': None,
        'pp.crop': size,
        'batch': batch,
        'accum_steps': parts,
        'batch_eval': batch,
        'total_steps': STEPS,
        'warmup_steps': 1,
        'eval_every': STEPS // 2,
        'progress_every': 1,
    }
    arguments = [f'--config=vit.py:{model},{photos}', f'--workdir={workdir}']
    arguments += [f'--config.{key}={value}' for key, value in settings.items()]
    forecast = json.loads(python(FORECAST, arguments))
    assert not workdir.exists()
    process = int(python(RUN, arguments))
    records = [
        json.loads(line)
        for line in (workdir / 'metrics.jsonl').read_text().splitlines()
    ]
    seconds = statistics.median(
        batch / record['images_per_second'] for record in records[1:]
    )
    step = forecast['step']
    program = (
        step['arguments'] + step['temporaries'] + step['outputs'] - step['aliased']
    )
    return {
        'model': model,
        'size': size,
        'batch': batch,
        'parts': parts,
        'xla_bytes': program,
        'process_bytes': forecast['process_bytes'],
        'process_bytes_then': process,
        'memory_ratio': forecast['process_bytes'] / process,
        'seconds': forecast['seconds_per_step'],
        'seconds_then': seconds,
        'time_ratio': forecast['seconds_per_step'] / seconds,
        'answer_seconds': forecast['seconds'],
    }


def main(argv: list[str] | None = None) -> int:
    """Compares them all; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--only', type=int, nargs='*', default=range(len(COMBINATIONS)),
        help='which combinations, from 0',
    )  # fmt: skip
    parser.add_argument('--json', action='store_true', help='a line for each')
    args = parser.parse_args(argv)
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
    if not args.json:
        print(
            'model  pixels batch parts |  XLA MiB | process MiB, then, ratio '
            '| step s, then, ratio | answered in s'
        )
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        photos = make_photos(root / 'photos')
        for i in args.only:
            row = compare(COMBINATIONS[i], photos, root / f'run{i}')
            if args.json:
                print(json.dumps(row), flush=True)
                continue
            mebibytes = 2**20
            print(
                f'{row["model"]:6} {row["size"]:6} {row["batch"]:5} {row["parts"]:5} | '
                f'{row["xla_bytes"] / mebibytes:8,.0f} | '
                f'{row["process_bytes"] / mebibytes:11,.0f} '
                f'{row["process_bytes_then"] / mebibytes:5,.0f} '
                f'{row["memory_ratio"]:6.2f} | '
                f'{row["seconds"]:6.2f} {row["seconds_then"]:5.2f} '
                f'{row["time_ratio"]:6.2f} | {row["answer_seconds"]:5.0f}',
                flush=True,
            )
    return 0


if __name__ == '__main__':
    sys.exit(main())
