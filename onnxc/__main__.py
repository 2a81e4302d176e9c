"""`python -m onnxc`: the command line."""

from onnxc.cli import main

if __name__ == "__main__":
    main()
