"""Two things that are compared: measured alternately, as ratios."""

import statistics
from collections.abc import Callable, Sequence


def compare(
    name: str, a: Callable[[], float], b: Callable[[], float], repeats: int
) -> dict:
    """Returns a row of the report: rates of `a` and `b`, measured alternately."""
    rates = [(a(), b()) for _ in range(repeats)]
    ratios = [ours / theirs for ours, theirs in rates]
    return {
        'name': name,
        'rate': statistics.median(ours for ours, _ in rates),
        'against': statistics.median(theirs for _, theirs in rates),
        'ratio': statistics.median(ratios),
        'ratio_range': [min(ratios), max(ratios)],
    }


def print_ratios(rows: Sequence[dict]) -> None:
    """Prints a table of images per second."""
    print('images per second')
    width = max(len(row['name']) for row in rows)
    print(f'{"":{width}}  {"ours":>7} {"against":>8}  ratio (range)')
    for row in rows:
        if 'seconds' in row:
            seconds = ', '.join(f'{value:.1f}' for value in row['seconds'])
            print(f'{row["name"]:{width}}  {seconds} s')
            continue
        low, high = row['ratio_range']
        print(
            f'{row["name"]:{width}}  {row["rate"]:7.0f} {row["against"]:8.0f}  '
            f'{row["ratio"]:5.2f} ({low:.2f} to {high:.2f})'
        )
        if 'data_wait' in row:
            print(f'  of its time, the loop waited {row["data_wait"]:.1%} for data')
