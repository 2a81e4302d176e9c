"""From bytes or a path to IR: loading, limits, opset upgrade and import. The only folder that imports `onnx`."""
