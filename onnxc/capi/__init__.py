"""The modules inside of ONNX Runtime that programs import from by path, with what they look for there."""
