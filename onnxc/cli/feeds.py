"""Inputs from the command line: files, random values, and the sizes of open dimensions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click
import numpy as np

from onnxc.bench import random_feed
from onnxc.runtime.metadata import NodeArg

__all__ = ["dim_option", "feed_from", "input_option", "parse_dims", "read_arrays"]

_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
input_option: _Decorator = click.option(
    "--input", "-i", "inputs", multiple=True, metavar="NAME=FILE.npy|FILE.npz",
    help="Value of one input, or of several from an archive.")
dim_option: _Decorator = click.option(
    "--dim", "-d", "dims", multiple=True, metavar="NAME=SIZE",
    help="Size of an open dimension, for random inputs and for tuning.")


def parse_dims(dims: Iterable[str]) -> dict[str, int]:
    """Sizes from texts like `batch=4`. Raises BadParameter."""
    sizes = {}
    for text in dims:
        name, _, size = text.rpartition("=")
        if not name or not (size.isascii() and size.isdigit()):
            raise click.BadParameter(f"'{text}' is not NAME=SIZE", param_hint="--dim")
        sizes[name] = int(size)
    return sizes


def read_arrays(path: str) -> dict[str, Any]:
    """The arrays of an .npz archive. Raises ClickException when it cannot be read; nothing in it is executed."""
    with _load(path) as archive:
        if not hasattr(archive, "files"):
            raise click.ClickException(f"{path} holds one array without a name; expected an .npz archive")
        return {name: _member(archive, name, path) for name in archive.files}


def feed_from(inputs: Iterable[str], arguments: Iterable[NodeArg], random: bool, dims: Mapping[str, int],
              seed: int) -> dict[str, Any]:
    """The feed that the options describe: values from files, and random ones for what is left when `random`."""
    feed: dict[str, Any] = {}
    for text in inputs:
        name, equals, path = text.partition("=")
        if equals and not os.path.exists(text):
            array = _load(path)
            if hasattr(array, "files"):
                raise click.ClickException(f"{path} is an archive; give it without a name: --input {path}")
            feed[name] = array
        else:
            feed.update(read_arrays(text))
    if not random:
        return feed
    return {**random_feed([a for a in arguments if a.name not in feed], dims, seed), **feed}


def _load(path: str) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except Exception as error:        # what damage raises has no class of its own
        raise click.ClickException(f"{path} cannot be read as .npy or .npz: {error}") from None


def _member(archive: Any, name: str, path: str) -> Any:
    try:
        return archive[name]
    except Exception as error:        # what damage raises has no class of its own
        raise click.ClickException(f"'{name}' in {path} cannot be read: {error}") from None
