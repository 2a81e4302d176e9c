"""`onnxruntime.transformers`, where the real package is not installed: what programs need of it to bind memory."""
