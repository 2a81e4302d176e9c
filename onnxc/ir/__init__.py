"""The intermediate representation: values, types, symbolic dims, op registry, text form, verifier and rewriter.

Knows no op by name (the tables are in `onnxc.ops`) and imports nothing but numpy and ml_dtypes.
"""
