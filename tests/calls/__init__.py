"""Random sequences of calls, made on onnxc and on ONNX Runtime side by side: `python -m tests.calls`."""
