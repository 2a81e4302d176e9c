"""FlexAttention with graphs of all kinds, against the definition in float64."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxc
from onnxc.errors import UnsupportedModel

CAUSAL = """score_mod: graph = later (FLOAT[B, H, L, S] s) => (FLOAT[B, H, L, S] out) {
      shape = Shape (s)
      rows = Gather (shape, two)
      columns = Gather (shape, three)
      row = Range (zero, rows, one)
      column = Range (zero, columns, one)
      r = Unsqueeze (row, last)
      hidden = Less (r, column)
      out = Where (hidden, lowest, s)
    }"""
BIAS = """score_mod: graph = biased (FLOAT[B, H, L, S] s) => (FLOAT[B, H, L, S] out) { out = Add (s, bias) }"""
SCALED = """prob_mod: graph = scaled (FLOAT[B, H, L, S] p) => (FLOAT[B, H, L, S] out) { out = Mul (p, factor) }"""
CONSTANTS = {"two": np.array(2), "three": np.array(3), "zero": np.array(0), "one": np.array(1), "last": np.array([-1])}
TYPES = {"float": np.float32, "double": np.float64, "float16": np.float16}
TOLERANCE = {"float": 1e-5, "double": 1e-12, "float16": 2e-3}     # some steps of results below 2


def attention(kind, attributes, constants):
    text = f"""<ir_version: 13, opset_import: ["": 26, "ai.onnx.preview": 1]>
    g ({kind}[B, H, L, E] q, {kind}[B, G, S, E] k, {kind}[B, G, S, F] v) => ({kind}[B, H, L, F] y) {{
      y = ai.onnx.preview.FlexAttention <{attributes}> (q, k, v)
    }}"""
    model = onnx.parser.parse_model(text.replace("FLOAT", "double" if kind == "double" else "float"))
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in constants.items())
    return onnxc.InferenceSession(model.SerializeToString())


def expected(q, k, v, scale, change=lambda s: s, factor=1.0):
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    k, v = (np.repeat(x, q.shape[1] // k.shape[1], 1) for x in (k, v))
    s = change(q @ k.swapaxes(-1, -2) * scale)
    p = np.exp(s - s.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True) * factor @ v


def tensors(kind, shape, seed):
    batch, heads, groups, rows, columns, size, out = shape
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s).astype(TYPES[kind]) for s in
            ((batch, heads, rows, size), (batch, groups, columns, size), (batch, groups, columns, out))]


SHAPES = [(2, 4, 2, 5, 7, 8, 8), (1, 3, 3, 1, 6, 8, 4), (2, 6, 1, 4, 4, 8, 16)]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("form", ["plain", "causal", "bias", "both"])
def test_graphs(kind, form):
    exact = np.float64 if kind == "double" else np.float32
    bias = np.random.default_rng(1).standard_normal((1, 1, 1, 1)).astype(exact)
    constants = {**CONSTANTS, "bias": bias, "lowest": np.array(-np.inf, exact), "factor": np.array(0.5, exact)}
    graphs = {"plain": "scale = 0.25", "causal": f"scale = 0.25, {CAUSAL}", "bias": f"scale = 0.25, {BIAS}",
              "both": f"scale = 0.25, {CAUSAL}, {SCALED}"}
    session = attention(kind, graphs[form], constants)

    def change(s):
        later = np.arange(s.shape[2])[:, None] < np.arange(s.shape[3])
        return np.where(later, -np.inf, s) if form in ("causal", "both") else s + bias if form == "bias" else s

    for seed, shape in enumerate(SHAPES):
        q, k, v = tensors(kind, shape, seed)
        (y,) = session.run(None, {"q": q, "k": k, "v": v})
        assert y.dtype == TYPES[kind]
        want = expected(q, k, v, 0.25, change, 0.5 if form == "both" else 1.0)
        np.testing.assert_allclose(y, want, rtol=TOLERANCE[kind], atol=TOLERANCE[kind])


def test_a_graph_that_reads_a_value_from_outside_and_the_scale_of_the_size():
    model = onnx.parser.parse_model("""<ir_version: 13, opset_import: ["": 26, "ai.onnx.preview": 1]>
    g (float[B, H, L, 16] q, float[B, H, S, 16] k, float[B, H, S, F] v, float[L, S] mask) => (float[B, H, L, F] y) {
      twice = Add (mask, mask)
      y = ai.onnx.preview.FlexAttention <
        score_mod: graph = masked (float[B, H, L, S] s) => (float[B, H, L, S] out) { out = Add (s, twice) }> (q, k, v)
    }""")
    session = onnxc.InferenceSession(model.SerializeToString())
    q, k, v = tensors("float", (2, 3, 3, 4, 9, 16, 5), 0)
    mask = np.random.default_rng(3).standard_normal((4, 9)).astype(np.float32)
    (y,) = session.run(None, {"q": q, "k": k, "v": v, "mask": mask})
    np.testing.assert_allclose(y, expected(q, k, v, 0.25, lambda s: s + 2 * mask), rtol=1e-5, atol=1e-5)


def test_a_graph_that_changes_the_type_is_refused():
    graph = "score_mod: graph = cast (float[B, H, L, S] s) => (double[B, H, L, S] out) { out = Cast <to = 11> (s) }"
    with pytest.raises(UnsupportedModel, match="it has to keep the type"):
        attention("float", f"scale = 1.0, {graph}", {})
