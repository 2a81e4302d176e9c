"""`python -m onnxc.cli` is the command `onnxc`."""

from onnxc.cli import main

main(prog_name="onnxc")
