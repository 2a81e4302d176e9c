"""Program-level ops (`p.*`): the host program, a list of steps over buffers; its text shows exactly what will happen.

`@main` of kind "program" takes the model's inputs and then its outputs as `mem<...>` arguments. Its attributes:
`symbols`, the dim symbols in the order in which their values are passed; `inputs`, how many arguments are inputs;
`guards`, a list of [kind, left, right, message] that must hold when a run starts ("eq": left == right; "broadcast":
left is 1 or right); `arena`, the bytes of the arena once memory is planned.

- `p.const {ref}`: a constant of the module, read only.
- `p.alloc {offset}`: a buffer in the arena, at a byte offset (a dim expression) once memory is planned.
- `p.view(%mem)`: the same bytes under another shape of the same size.
- `p.launch(%mem...) {kernel, writes}`: run a kernel; `writes` lists the operand positions that it stores to.
- `p.copy(%from, %to)`: copy all bytes of one buffer to another of the same size.
"""

from __future__ import annotations

from onnxc.ir.registry import REQUIRED, register

register("p.const", "", attrs={"ref": REQUIRED}, traits="pure", doc="a constant buffer")
register("p.alloc", "", attrs={"offset": None}, traits="alloc", doc="a buffer in the arena")
register("p.view", "mem", traits="pure view", doc="the same bytes under another shape")
register("p.launch", "mems*", "", attrs={"kernel": REQUIRED, "writes": REQUIRED}, traits="write", doc="run a kernel")
register("p.copy", "source, target", "", traits="write", doc="copy a buffer")
register("return", "values*", "", traits="terminator", doc="end of a function, with its results")
register("yield", "values*", "", traits="terminator", doc="end of a region, with its results")
