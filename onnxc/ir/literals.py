"""Reading the parts of the IR's text: tokens, types, dims, attributes, arrays. `ir.parser` reads what holds them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from onnxc.errors import InvalidArgument
from onnxc.ir.core import Attr, Ref
from onnxc.ir.dims import DimLike, parse_dim
from onnxc.ir.printer import PLAIN_KEY, PLAIN_NAME
from onnxc.ir.types import DType, Map, Mem, Opt, Scalar, Seq, Sparse, Tensor, Type, dtype_named

__all__ = ["MAX_NESTING", "SPACE", "STRING", "SYMBOL", "IRSyntaxError", "LiteralParser", "token"]

MAX_NESTING = 64                # of regions, types and attribute lists
_SHOWN = 100                    # characters of the faulty line in an error


class IRSyntaxError(InvalidArgument):
    """The text is no IR: `line` and `column` (from 1) say where, `problem` what was expected or found."""

    def __init__(self, text: str, pos: int, problem: str) -> None:
        start = text.rfind("\n", 0, pos) + 1
        end = text.find("\n", pos)
        self.problem = problem
        self.line = text.count("\n", 0, pos) + 1
        self.column = pos - start + 1
        source = text[start:end if end >= 0 else len(text)].replace("\t", " ")
        cut = max(0, self.column - 1 - _SHOWN // 2) if len(source) > _SHOWN else 0
        shown = source[cut:cut + _SHOWN].rstrip()
        caret = " " * (self.column - 1 - cut) + "^"
        super().__init__(f"line {self.line}, column {self.column}: {problem}\n    {shown}\n    {caret}")


# A comment takes its whole line: were it free to end earlier, a failing match would try all ways to split it.
SPACE = r"(?:\s|;[^\n]*(?:\n|\Z))*"
STRING = r'"(?:[^"\\\x00-\x1f]|\\.)*"'
_NUMBER = r"-?(?:inf|nan|\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)"


def token(pattern: str) -> re.Pattern[str]:
    """A pattern that may have space and comments in front."""
    return re.compile(SPACE + pattern, re.ASCII)


_BLANK = token("")
_STRING_TOKEN = token(f"({STRING})")
_KEY = token(f"(?:({PLAIN_KEY})|({STRING}))")
SYMBOL = token(f"@(?:({PLAIN_NAME})|({STRING}))")
_WORD = token(r"([A-Za-z_]\w*)")
_NUMBER_TOKEN = token(rf"({_NUMBER})(?![\w.])")
_COMPLEX = re.compile(rf"({_NUMBER})\+({_NUMBER})j")
_PLAIN_TYPE = re.compile(r"\s*([a-z]\w*(?:\[[^\]\n]*\])?)(?![\w<\[])", re.ASCII)


class LiteralParser:
    """A place in a text, with the methods that read a token, a type or an attribute there and move on.

    Each raises IRSyntaxError at the place where the text goes wrong.
    """

    def __init__(self, text: str) -> None:
        self.text, self.pos, self.depth = text, 0, 0
        self.types: dict[str, Type] = {}

    # ---- tokens ----------------------------------------------------------------------------------------------------
    def fail(self, problem: str, pos: int | None = None) -> IRSyntaxError:
        """The error to raise for the next token, or for `pos`."""
        return IRSyntaxError(self.text, self.after_space() if pos is None else pos, problem)

    def expected(self, what: str) -> IRSyntaxError:
        pos = self.after_space()
        found = self.text[pos:pos + 12].split("\n")[0]
        return self.fail(f"expected {what}, found {json.dumps(found) if found else 'the end of the text'}", pos)

    def after_space(self) -> int:
        m = _BLANK.match(self.text, self.pos)
        return m.end() if m else self.pos

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        m = pattern.match(self.text, self.pos)
        if m is not None:
            self.pos = m.end()
        return m

    def take(self, mark: str) -> bool:
        """Whether `mark` comes next; it is consumed then."""
        if not self.text.startswith(mark, self.pos):
            pos = self.after_space()
            if not self.text.startswith(mark, pos):
                return False
            self.pos = pos
        self.pos += len(mark)
        return True

    def expect(self, mark: str, what: str = "") -> None:
        if not self.take(mark):
            raise self.expected(f"'{mark}'{what}")

    def name(self, pattern: re.Pattern[str], what: str) -> str:
        """A name, plain or quoted."""
        m = self.match(pattern)
        if m is None:
            raise self.expected(what)
        if m[1] is not None:
            return m[1]
        return self.decode(m[2], m.start(2))

    def string(self, what: str) -> str:
        m = self.match(_STRING_TOKEN)
        if m is None:
            raise self.expected(what)
        return self.decode(m[1], m.start(1))

    def decode(self, quoted: str, pos: int) -> str:
        try:
            return json.loads(quoted)
        except ValueError:
            raise self.fail("this string has an escape that JSON does not know", pos) from None

    def nested(self, parse: Callable[[], Any]) -> Any:
        """Run `parse` one level deeper."""
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise self.fail(f"nested more than {MAX_NESTING} levels deep")
        value = parse()
        self.depth -= 1
        return value

    def comma_list(self, item: Callable[[], Any], end: str) -> list[Any]:
        """Items up to `end`, which is consumed."""
        if self.take(end):
            return []
        items = [item()]
        while self.take(","):
            items.append(item())
        self.expect(end, " or ','")
        return items

    def finish(self, value: Any) -> Any:
        """`value`, which has to be all of the text."""
        if self.after_space() < len(self.text):
            raise self.expected("the end of the text")
        return value

    # ---- types -----------------------------------------------------------------------------------------------------
    def type(self) -> Type:
        m = _PLAIN_TYPE.match(self.text, self.pos)
        if m is not None and m[1] in self.types:
            self.pos = m.end()
            return self.types[m[1]]
        parsed: Type = self.nested(self.compound_type)
        if m is not None and self.pos == m.end():
            self.types[m[1]] = parsed
        return parsed

    def compound_type(self) -> Type:
        m = self.match(_WORD)
        if m is None:
            raise self.expected("a type")
        word = m[1]
        if word in ("mem", "seq", "opt", "map", "sparse") and self.take("<"):
            return self.bracketed_type(word)
        dtype = self.dtype(word, m.start(1))
        return Tensor(dtype, self.shape()) if self.take("[") else Scalar(dtype)

    def bracketed_type(self, word: str) -> Type:
        if word == "map":
            m = self.match(_WORD)
            if m is None:
                raise self.expected("the element type of the keys")
            key = self.dtype(m[1], m.start(1))
            self.expect(",")
            made: Type = Map(key, self.type())
        elif word == "sparse":
            start = self.after_space()
            held = self.type()
            if not isinstance(held, Tensor):
                raise self.fail(f"a sparse tensor stands for a tensor, not for {held}", start)
            made = Sparse(held)
        elif word == "mem":
            start = self.after_space()
            inner = self.type()
            if not isinstance(inner, Tensor) or inner.shape is None:
                raise self.fail(f"memory has an element type and a shape, not {inner}", start)
            made = Mem(inner.dtype, inner.shape)
        else:
            made = {"seq": Seq, "opt": Opt}[word](self.type())
        self.expect(">", " at the end of the type")
        return made

    def dtype(self, name: str, pos: int) -> DType:
        try:
            return dtype_named(name)
        except KeyError:
            raise self.fail(f"there is no element type '{name}'", pos) from None

    def shape(self) -> tuple[DimLike, ...] | None:
        if self.take("*"):
            self.expect("]")
            return None
        if self.take("]"):
            return ()
        end = self.text.find("]", self.pos)
        if end < 0:
            raise self.fail("this shape is not closed by ']'")
        dims = []
        for start, stop in _split_dims(self.text, self.pos, end):
            dim = self.dim(start, stop)
            if isinstance(dim, int) and dim < 0:
                raise self.fail(f"a dimension is negative: {dim}", start)
            dims.append(dim)
        self.pos = end + 1
        return tuple(dims)

    def dim(self, start: int, stop: int) -> DimLike:
        try:
            return parse_dim(self.text[start:stop].strip())
        except ValueError as e:
            raise self.fail(str(e), start) from None

    # ---- attributes ------------------------------------------------------------------------------------------------
    def attrs(self) -> dict[str, Attr]:
        """`{key = value, ...}`, whose brace is consumed already."""
        out: dict[str, Attr] = {}

        def entry() -> None:
            start = self.after_space()
            key = self.name(_KEY, "an attribute's name")
            if key in out:
                raise self.fail(f"attribute '{key}' is given twice", start)
            self.expect("=", f" and the value of attribute '{key}'")
            out[key] = self.attr()

        self.comma_list(entry, "}")
        return out

    def attr(self) -> Attr:
        m = self.match(_NUMBER_TOKEN)
        if m is not None:
            return self.number(m[1], m.start(1))
        pos = self.after_space()
        first = self.text[pos:pos + 1]
        if first == '"':
            return self.string("a string")
        if first in _ATTR_FORMS:
            self.pos = pos + 1
            return _ATTR_FORMS[first](self)
        m = self.match(_WORD)
        if m is not None and m[1] in _ATTR_WORDS:
            return _ATTR_WORDS[m[1]]
        if m is not None and m[1] == "bytes":
            return self.bytes_attr()
        if m is not None and m[1] == "dense":
            self.expect("<")
            return self.dense()
        self.pos = pos
        raise self.expected("an attribute's value")

    def number(self, text: str, pos: int) -> int | float:
        if not text.lstrip("-").isdigit():
            return float(text)
        try:
            return int(text)
        except ValueError:
            raise self.fail("this number has too many digits", pos) from None

    def dim_attr(self) -> DimLike:
        end = self.text.find(">", self.pos)
        if end < 0:
            raise self.fail("this dimension is not closed by '>'")
        dim = self.dim(self.pos, end)
        self.pos = end + 1
        return dim

    def type_attr(self) -> Type | DType:
        start = self.pos
        m = self.match(_WORD)
        if m is not None and m[1] == "scalar" and self.take("<"):
            inner = self.type()
            if not isinstance(inner, Scalar):
                raise self.fail(f"'scalar' holds an element type, not {inner}", start)
            self.expect(">")
            return inner
        self.pos = start
        parsed = self.type()
        return parsed.dtype if isinstance(parsed, Scalar) else parsed

    def tuple_attr(self) -> tuple[Attr, ...]:
        return tuple(self.nested(lambda: self.comma_list(self.attr, "]")))

    def ref_attr(self) -> Ref:
        self.pos -= 1
        return Ref(self.name(SYMBOL, "a name after '@'"))

    def bytes_attr(self) -> bytes:
        start = self.after_space()
        text = self.string("the bytes as a string of hex digits")
        try:
            return bytes.fromhex(text)
        except ValueError:
            raise self.fail("bytes are written as an even number of hex digits", start) from None

    # ---- arrays ----------------------------------------------------------------------------------------------------
    def dense(self) -> np.ndarray:
        """`type: elements>`, after `dense<`."""
        start = self.after_space()
        t = self.type()
        if not isinstance(t, Tensor) or not t.is_static:
            raise self.fail(f"an array has a shape of numbers, not {t}", start)
        items = self.elements(t) if self.take(":") else []
        self.expect(">", " at the end of the array")
        if len(items) != t.size:
            raise self.fail(f"{t} has {t.size} elements, but {len(items)} are given", start)
        return self.array(items, t, start)

    def elements(self, t: Tensor) -> list[Any]:
        if t.dtype.kind == "str":
            items = [self.string("a string")]
            while self.take(","):
                items.append(self.string("a string"))
            return items
        end = self.text.find(">", self.pos)
        if end < 0:
            raise self.fail("this array is not closed by '>'")
        start, self.pos = self.pos, end
        convert = _ELEMENT[t.dtype.kind]
        parts = self.text[start:end].split(",")
        try:
            return [convert(p.strip()) for p in parts]
        except ValueError:
            pos, bad = start, 0
            while _converts(convert, parts[bad]):
                pos, bad = pos + len(parts[bad]) + 1, bad + 1
            pos += len(parts[bad]) - len(parts[bad].lstrip())
            raise self.fail(f"'{parts[bad].strip()[:40]}' is no element of type {t.dtype}", pos) from None

    def array(self, items: list[Any], t: Tensor, pos: int) -> np.ndarray:
        wide = {"float": np.float64, "complex": np.complex128, "str": object}.get(t.dtype.kind, t.dtype.numpy)
        if t.dtype.is_integer:
            least = -(1 << t.dtype.bits - 1) if t.dtype.is_signed else 0
            bad = [v for v in items if not least <= v < least + (1 << t.dtype.bits)]
            if bad:
                raise self.fail(f"{bad[0]} is out of the range of {t.dtype}", pos)
        a = np.array(items, wide)
        with np.errstate(all="ignore"):
            out = a.astype(t.dtype.numpy)
        if t.dtype.is_float:
            back = out.astype(np.float64)
            lost = (np.isnan(a) != np.isnan(back)) | (np.isinf(a) != np.isinf(back))
            if lost.any():
                raise self.fail(f"{a[lost][0]} is out of the range of {t.dtype}", pos)
        return out.reshape(t.dims)


def _split_dims(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """The ranges of `text[start:end]` between the commas that stand outside parentheses."""
    ranges, depth, begin = [], 0, start
    for i in range(start, end):
        if text[i] == "(":
            depth += 1
        elif text[i] == ")":
            depth -= 1
        elif text[i] == "," and depth == 0:
            ranges.append((begin, i))
            begin = i + 1
    return [*ranges, (begin, end)]


def _float(text: str) -> float:
    if not re.fullmatch(_NUMBER, text, re.ASCII):
        raise ValueError(text)
    return float(text)


def _complex(text: str) -> complex:
    m = _COMPLEX.fullmatch(text)
    if m is None:
        raise ValueError(text)
    return complex(float(m[1]), float(m[2]))


def _integer(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,20}", text):
        raise ValueError(text)
    return int(text)


def _bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


def _converts(convert: Callable[[str], Any], text: str) -> bool:
    try:
        convert(text.strip())
    except ValueError:
        return False
    return True


_ELEMENT: dict[str, Callable[[str], Any]] = {
    "float": _float, "int": _integer, "uint": _integer, "bool": _bool, "complex": _complex,
}
_ATTR_WORDS: dict[str, Attr] = {"none": None, "true": True, "false": False}
_ATTR_FORMS: dict[str, Callable[[LiteralParser], Attr]] = {
    "<": LiteralParser.dim_attr,
    "!": LiteralParser.type_attr,
    "[": LiteralParser.tuple_attr,
    "@": LiteralParser.ref_attr,
}


