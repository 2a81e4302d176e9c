"""ONNX ops expressed in tensor ops, one file a family. A lowering sees every op at one opset version."""
