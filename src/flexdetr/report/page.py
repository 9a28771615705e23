"""The page around the sections: one HTML file with its own style and no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_STYLE = """
:root{color-scheme:light dark;--back:#f8fafc;--card:#fff;--head:#f1f5f9;--text:#0f172a;--soft:#475569;--line:#e2e8f0;
--link:#1d4ed8;--bar:#2563eb;--higher:#23844f;--lower:#b8423a}
@media (prefers-color-scheme:dark){:root{--back:#0f172a;--card:#1e293b;--head:#273449;--text:#e2e8f0;--soft:#a3b1c6;
--line:#3b4a61;--link:#93c5fd;--bar:#60a5fa;--higher:#5cc98d;--lower:#ee8178}
svg polyline,svg circle,.legend i{filter:brightness(1.5)}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;color:var(--text);background:var(--back);margin:0}
main{max-width:1180px;margin:0 auto;padding:24px}
h1{font-size:26px;margin:0 0 2px;overflow-wrap:anywhere}h2{font-size:19px;margin:34px 0 10px;padding-bottom:4px;
border-bottom:1px solid var(--line)}
h3{font-size:15px;margin:18px 0 6px}p{margin:4px 0;max-width:80ch}.lead{color:var(--soft);overflow-wrap:anywhere}
nav{margin:10px 0;display:flex;flex-wrap:wrap;gap:2px 14px}nav a{color:var(--link);text-decoration:none}
.tiles{display:flex;flex-wrap:wrap;gap:12px;margin:16px 0}
.tiles div{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 16px;min-width:104px}
.tiles b{display:block;font-size:22px}.tiles span{color:var(--soft);font-size:13px}
.row{display:flex;flex-wrap:wrap;gap:16px}
figure{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px;margin:0;flex:1 1 420px;
min-width:min(420px,100%);max-width:min(640px,100%)}
figure.wide{flex-basis:100%;max-width:100%}figcaption{font-weight:600;margin-bottom:6px}svg{width:100%;height:auto}
svg text{font:11px system-ui,sans-serif;fill:var(--soft)}.grid{stroke:var(--line)}
.faint{stroke:var(--soft);opacity:.6}
.zero{stroke:var(--soft);stroke-dasharray:4 3}.seed{fill:none;stroke:var(--soft)}.mean{fill:var(--bar)}
.higher{color:var(--higher)}.lower{color:var(--lower)}.same{color:var(--soft)}
line.higher,line.lower,line.same{stroke:currentColor;stroke-width:2}
rect.higher,rect.lower,rect.same{fill:currentColor}
.legend{display:flex;flex-wrap:wrap;gap:4px 14px;font-size:12px}.legend i{display:inline-block;width:10px;height:10px;
border-radius:2px;margin-right:5px}
.scroll{overflow-x:auto;max-width:100%}table{border-collapse:collapse;background:var(--card);font-size:13px;
font-variant-numeric:tabular-nums}
td,th{border:1px solid var(--line);padding:4px 9px;text-align:right}
th:first-child,td:first-child{text-align:left}.tight td{white-space:nowrap}
thead th,.matrix th{background:var(--head)}td small{display:block;opacity:.75}
.matrix tr>th:first-child{white-space:nowrap}
.gallery{display:flex;flex-wrap:wrap;gap:10px}.gallery div{width:220px;max-width:100%;font-size:12px;
overflow-wrap:anywhere}.gallery img{display:block;max-width:min(220px,100%);max-height:220px;border-radius:4px}
.gallery.large div{width:320px}.gallery.large img{max-width:min(320px,100%);max-height:320px}
svg .bar{fill:var(--bar)}figure.bars{max-width:560px}
summary{cursor:pointer;color:var(--link)}code{overflow-wrap:anywhere}
pre{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px;overflow-x:auto;font-size:12px}
@media (max-width:600px){main{padding:14px}.tiles{gap:8px}.tiles div{padding:8px 10px;min-width:0;flex:1 1 88px}
.tiles b{font-size:18px}td,th{padding:3px 6px}figure{padding:8px}}
"""


def page(title: str, lead: str, sections: Mapping[str, str], *, refresh: int | None = None) -> str:
    """The whole document.

    Args:
        title: of the page.
        lead: a sentence below it.
        sections: HTML by heading, in order; empty ones are left out.
        refresh: seconds after which a browser reads the page again; None for a page that is finished.
    """
    sections = {name: body for name, body in sections.items() if body}
    again = "" if refresh is None else f'<meta http-equiv="refresh" content="{refresh}">'
    links = "".join(f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name in sections)
    bodies = "".join(
        f'<section id="{_anchor(name)}"><h2>{escape(name)}</h2>{body}</section>'
        for name, body in sections.items()
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width">{again}<style>{_STYLE}</style></head><body><main>'
        f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p><nav>{links}</nav>{bodies}</main></body></html>\n'
    )


def tiles(numbers: Mapping[str, str]) -> str:
    """Numbers that are seen first."""
    each = (
        f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in numbers.items()
    )
    return f'<div class="tiles">{"".join(each)}</div>'


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; numbers with three digits, nan as a dash."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell(value))}</td>" for value in row) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>{body}</table></div>'


def listed(items: Sequence[str], *, code: bool = False) -> str:
    """Lines of a list, of code or of words."""
    opened, closed = ("<code>", "</code>") if code else ("", "")
    return (
        f"<ul>{''.join(f'<li>{opened}{escape(item)}{closed}</li>' for item in items)}</ul>" if items else ""
    )


def folded(summary: str, text: str) -> str:
    """Long text that is out of the way until it is asked for."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"


def cell(value: object) -> str:
    """A value as the page shows it."""
    if value is None or (isinstance(value, float) and value != value):
        return "–"  # noqa: RUF001 - a dash is what a reader expects
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def row(*figures: str) -> str:
    """Figures beside each other."""
    return f'<div class="row">{"".join(figures)}</div>'


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")
