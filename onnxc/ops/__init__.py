"""The op tables: one declarative row an op, with its types, reference semantics and documentation."""
