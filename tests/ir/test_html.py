"""The viewer's page: what it holds, that equal neighbours share a column, and that no text in it can act as markup."""

import base64
import hashlib
import json
import re
import time
from html.parser import HTMLParser

import pytest

from onnxc.ir.html import Stage, render_html, write_html
from onnxc.ir.rewrite import Application, RewriteLog

HOSTILE = '</script><script>alert(1)</script><!-- & \u2028 \u00e9 \U0001f600 "\\ \ud800 {css} ]]>'


def page_data(page):
    """The data block as the browser reads it."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def texts(page):
    data = page_data(page)
    return ["\n".join(data["lines"][n] for n in c["lines"]) for c in data["columns"]]


class Elements(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, page):
        super().__init__()
        self.tags = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def log_of(*applied, refused=()):
    log = RewriteLog()
    log.applied += [Application(n, name, f"passes/x.py:{n}", "main", "a", ("b",)) for n, name in applied]
    log.refused.update(dict(refused))
    return log


def test_each_stage_is_a_column_and_reads_back():
    stages = [Stage("import", "a\nb\nc\n"), Stage("fold", "a\nc\n"), Stage("kernels", ""), Stage("source", "a\n\nb")]
    page = render_html(stages)
    assert texts(page) == ["a\nb\nc", "a\nc", "", "a\n\nb"]
    assert [c["titles"] for c in page_data(page)["columns"]] == [["import"], ["fold"], ["kernels"], ["source"]]
    assert page_data(page)["lines"] == ["a", "b", "c", ""]      # each once


def test_stages_that_change_nothing_share_a_column_with_their_logs():
    stages = [Stage("one", "a", log_of((1, "r-a"))), Stage("two", "a", log_of(refused={("r-b", "why"): 3}.items())),
              Stage("three", "b"), Stage("four", "a")]
    columns = page_data(render_html(stages))["columns"]
    assert [c["titles"] for c in columns] == [["one", "two"], ["three"], ["four"]]
    assert [row["rule"] for row in columns[0]["log"]] == ["r-a", "r-b"]


def test_the_log_has_a_row_for_each_rule():
    log = log_of((1, "add-zero"), (2, "fuse"), (3, "add-zero"), (4, "add-zero"), (5, "add-zero"), (9, "add-zero"),
                 refused={("add-zero", "no constant"): 2, ("add-zero", "wrong type"): 7, ("other", "x"): 1}.items())
    (column,) = page_data(render_html([Stage("canonicalize", "a", log)]))["columns"]
    assert column["log"] == [
        {"rule": "add-zero", "place": "passes/x.py:1", "applied": 5, "serials": "1, 3-5, 9",
         "refused": [[7, "wrong type"], [2, "no constant"]]},
        {"rule": "fuse", "place": "passes/x.py:2", "applied": 1, "serials": "2", "refused": []},
        {"rule": "other", "place": "", "applied": 0, "serials": "", "refused": [[1, "x"]]},
    ]


def test_nothing_in_the_stages_can_act_as_markup():
    log = log_of((1, "r"), refused={("r", HOSTILE): 1}.items())
    harmless = Elements(render_html([Stage("t", "x", log_of((1, "r"), refused={("r", "y"): 1}.items()))], "title"))
    page = render_html([Stage(HOSTILE, HOSTILE, log)], HOSTILE)
    hostile = Elements(page)
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in harmless.tags]
    assert page.isascii()
    assert "alert(1)</script>" not in page
    (column,) = page_data(page)["columns"]
    assert (column["titles"], texts(page), column["log"][0]["refused"]) == ([HOSTILE], [HOSTILE], [[1, HOSTILE]])


def test_the_page_runs_its_own_script_only_and_loads_nothing():
    page = render_html([Stage("a", "b")])
    elements = Elements(page)
    scripts = [attrs for tag, attrs in elements.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "data"}, {}]
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    (policy,) = [attrs["content"] for tag, attrs in elements.tags if "http-equiv" in attrs]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert not any({"src", "href", "onclick", "onload", "onerror"} & attrs.keys() for _, attrs in elements.tags)
    assert not re.search(r"https?:|@import|url\(|innerHTML|document\.write|eval\(", page)


def test_a_page_is_written_in_time_and_small(tmp_path):
    line = '  %v{i} = t.conv(%v{j}, %w) {{pads = [1, 1, 1, 1]}} : f32[N, 64, 56, 56] loc "layer{i}"'
    lines = [line.format(i=i, j=i - 1) for i in range(20_000)]
    stages = [Stage(f"pass {k}", "\n".join(lines[k:])) for k in range(20)]
    path = tmp_path / "page.html"
    start = time.process_time()
    write_html(stages, path, "large")
    assert time.process_time() - start < 5
    size = sum(len(s.text) for s in stages)
    assert path.stat().st_size < size / 8       # lines that stages share stand in the page once
    assert texts(path.read_text(encoding="ascii"))[7] == stages[7].text


def test_surrogates_do_not_stop_a_page(tmp_path):
    write_html([Stage("a", "\udfff")], tmp_path / "page.html", "\udfff")
    assert texts((tmp_path / "page.html").read_text()) == ["\udfff"]


@pytest.mark.parametrize("stages", [[], [Stage("only", "")]])
def test_little_is_enough(stages):
    assert len(page_data(render_html(stages))["columns"]) == len(stages)
