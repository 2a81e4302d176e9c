"""`onnxc bench`: how fast a model starts and runs, alone or in turns with peers, and where its time goes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from onnxc.cli.console import print_table, working
from onnxc.cli.feeds import dim_option, feed_from, parse_dims
from onnxc.cli.tune import tune_first, tune_options

_MIB = 2.0**20


@click.command()
@click.argument("model", type=click.Path(dir_okay=False))
@click.option("--vs", "peers", metavar="ENGINE,...",
              help="Measure these in turns with onnxc: onnxruntime, openvino, torch, torch-compiled.")
@click.option("--torch-program", type=click.Path(dir_okay=False), metavar="FILE.pt2",
              help="What torch runs, from torch.export.save.  [default: MODEL with the suffix .pt2]")
@click.option("--input", "--inputs", "-i", "inputs", multiple=True, metavar="NAME=FILE.npy|FILE.npz",
              help="Value of one input, or of several from an archive; others are random.")
@dim_option
@click.option("--seed", default=0, show_default=True, help="Of the random values.")
@click.option("--threads", type=click.IntRange(1), help="Threads of every engine.  [default: all processors]")
@click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(0.01), help="Of steady runs, about.")
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(1), help="Turns of each engine.")
@click.option("--steady", is_flag=True, help="Leave out first starts, which need new processes.")
@click.option("--kernels", is_flag=True, help="Also time every kernel, beside what the machine could do at best.")
@click.option("--top", default=25, show_default=True, type=click.IntRange(1), help="Kernels to list.")
@click.option("--roofline", type=click.Path(dir_okay=False, writable=True), metavar="FILE.svg",
              help="Draw the kernels against the machine's limits.")
@click.option("--json", "report", type=click.Path(dir_okay=False, writable=True), metavar="FILE",
              help="Write everything that was measured, rounds included.")
@tune_options
def command(model: str, peers: str | None, torch_program: str | None, inputs: tuple[str, ...], dims: tuple[str, ...],
            seed: int, threads: int | None, seconds: float, rounds: int, steady: bool, kernels: bool, top: int,
            roofline: str | None, report: str | None, tune: bool, tune_seconds: float) -> None:
    """Measure MODEL, an ONNX model or a compiled one, on files or on random inputs."""
    from onnxc.bench.compare import Request, compare
    names = tuple(dict.fromkeys(p.strip() for p in peers.split(",") if p.strip())) if peers else ()
    sizes = parse_dims(dims)
    if tune:
        tune_first(model, None, sizes, tune_seconds)
    request = Request(names, threads, seconds, rounds, not steady, kernels or bool(roofline), torch_program)
    with working(f"measuring {model}") as say:
        result = compare(model, lambda s: feed_from(inputs, s.get_inputs(), True, sizes, seed), request, say)
    _print_engines(result)
    if result.profile is not None and kernels:
        _print_kernels(result.profile, top)
    if roofline:
        from onnxc.bench.roofline import roofline_svg
        _write(roofline, roofline_svg(result.profile, model))  # type: ignore[arg-type]
    if report:
        _write(report, json.dumps(result.to_json(), indent=1) + "\n")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _print_engines(result: Any) -> None:
    rows = [_engine_row(result, t) for t in result.timings]
    columns = ["engine", "ms, median", "ms, fastest", "runs"]
    if result.starts:
        columns += ["s to compile", "MiB, compiling", "s to open", "ms, first run", "MiB, running"]
    print_table(columns, rows)
    for timing in result.timings[1:]:
        ratio, (largest, relative) = result.ratio(timing.name), result.differences[timing.name]
        click.echo(f"onnxc is {ratio.median:.2f} x as fast as {timing.name}, {ratio.low:.2f} to {ratio.high:.2f} in "
                   f"the middle half of {len(timing.rounds)} rounds; largest difference of outputs {largest:.2g}, "
                   f"{relative:.1g} of the greatest value")


def _engine_row(result: Any, timing: Any) -> tuple[object, ...]:
    row = (timing.name, timing.median * 1e3, timing.fastest * 1e3, timing.runs)
    start = result.starts.get(timing.name)
    if start is None:
        return row
    compiling = result.compiling if timing.name == "onnxc" else None
    return (*row, compiling and compiling.seconds, compiling and compiling.peak_bytes / _MIB, start.seconds,
            start.first_run * 1e3, start.peak_bytes / _MIB)


def _print_kernels(profile: Any, top: int) -> None:
    limits = profile.limits
    rates = ", ".join(f"{rate / 1e9:.0f} G operations/s ({dtype})" for dtype, rate in limits.operations.items())
    click.echo(f"\nkernels, against {rates} and {limits.bandwidth / 1e9:.1f} GB/s over {limits.footprint / _MIB:.1f} "
               f"MiB on {limits.threads} threads")
    rows = [_kernel_row(profile, k) for k in profile.kernels[:top]]
    rest = profile.kernels[top:]
    if rest:
        rows.append((f"{len(rest)} others", sum(k.launches for k in rest), _micro(sum(k.seconds for k in rest)),
                     _percent(profile.share, rest), "", "", "", ""))
    print_table(("kernel", "launches", "us", "share", "GFLOP/s", "GB/s", "of limit", "limit"), rows)
    click.echo(f"kernels take {profile.seconds * 1e3:.3f} ms of a run's {profile.run_seconds * 1e3:.3f}; "
               f"at their limits they would take {profile.least_seconds() * 1e3:.3f}")


def _kernel_row(profile: Any, kernel: Any) -> tuple[object, ...]:
    rate, bandwidth, limit = kernel.rate(), kernel.bandwidth(), kernel.limit(profile.limits)
    return (kernel.name, kernel.launches, _micro(kernel.seconds), _percent(profile.share, [kernel]),
            "" if rate is None else f"{rate / 1e9:.1f}", "" if bandwidth is None else f"{bandwidth / 1e9:.1f}",
            "" if limit is None else f"{limit[0]:.0%}", "decided by data" if limit is None else limit[1])


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:.1f}"


def _percent(share: Callable[[Any], float], kernels: Any) -> str:
    return f"{sum(map(share, kernels)):.1%}"
