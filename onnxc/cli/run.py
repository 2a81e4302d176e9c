"""`onnxc run`: a model once, on files or random inputs; shows, keeps or compares what comes out."""

from __future__ import annotations

import time

import click
import numpy as np

import onnxc
from onnxc.cli.console import print_table, working
from onnxc.cli.feeds import dim_option, feed_from, input_option, parse_dims, read_arrays


@click.command()
@click.argument("model", type=click.Path(dir_okay=False))
@input_option
@click.option("--random", is_flag=True, help="Random values for the inputs that no file gives.")
@dim_option
@click.option("--seed", default=0, show_default=True, help="Of the random values.")
@click.option("--output", "-o", type=click.Path(dir_okay=False, writable=True), help="Write the outputs to this .npz.")
@click.option("--compare", type=click.Path(dir_okay=False), metavar="EXPECTED.npz", help="Compare with these arrays.")
@click.option("--tol", default=1e-5, show_default=True, help="Largest difference, absolute plus relative, that passes.")
@click.option("--threads", type=click.IntRange(1), help="Threads of the run.")
def command(model: str, inputs: tuple[str, ...], random: bool, dims: tuple[str, ...], seed: int, output: str | None,
            compare: str | None, tol: float, threads: int | None) -> None:
    """Run MODEL, an ONNX model or a compiled one, once."""
    options = onnxc.SessionOptions()
    options.intra_op_num_threads = threads or 0
    with working(f"opening {model}"):
        session = onnxc.InferenceSession(model, options)
    feed = feed_from(inputs, session.get_inputs(), random, parse_dims(dims), seed)
    with working(f"running {model}"):
        start = time.perf_counter()
        results = session.run(None, feed)
        seconds = time.perf_counter() - start
    arrays = {arg.name: a for arg, a in zip(session.get_outputs(), results, strict=True)}
    print_table(("output", "type", "shape", "least", "greatest"), [_row(name, a) for name, a in arrays.items()])
    click.echo(f"ran in {seconds * 1e3:.3f} ms")
    if output:
        np.savez(output, **arrays)  # type: ignore[arg-type]
    if compare and not _agree(arrays, read_arrays(compare), tol):
        raise click.exceptions.Exit(1)


def _row(name: str, array: np.ndarray) -> tuple[object, ...]:
    shown = [f"{f(array.astype(np.float64)):.6g}" if array.size else "" for f in (np.min, np.max)]
    return name, array.dtype, list(array.shape), *shown


def _agree(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float) -> bool:
    """Prints how far each expected array is from the one found; whether all are near enough."""
    unknown = sorted(expected.keys() - found.keys())
    if unknown or not expected:
        raise click.ClickException(f"the expected arrays {unknown} are no outputs; there are {sorted(found)}")
    rows = [(name, *_difference(found[name], array, tolerance)) for name, array in expected.items()]
    print_table(("compared", "largest difference", "verdict"), rows)
    return all(row[2] == "ok" for row in rows)


def _difference(found: np.ndarray, expected: np.ndarray, tolerance: float) -> tuple[str, str]:
    if found.shape != expected.shape:
        return f"shape {list(found.shape)} against {list(expected.shape)}", "WRONG"
    a, b = found.astype(np.complex128), expected.astype(np.complex128)
    near = np.isclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
    with np.errstate(invalid="ignore"):
        distance = np.abs(a - b)
    largest = float(np.nanmax(distance)) if np.isfinite(distance).any() else 0.0
    return f"{largest:.3g}", "ok" if near.all() else f"WRONG in {int((~near).sum())} of {near.size}"
