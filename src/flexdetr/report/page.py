"""The page around the sections: one HTML file with its own style and no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_STYLE = """
:root{color-scheme:light}*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;color:#0f172a;background:#f8fafc;margin:0}
main{max-width:1180px;margin:0 auto;padding:24px}
h1{font-size:26px;margin:0 0 2px}h2{font-size:19px;margin:34px 0 10px;padding-bottom:4px;
border-bottom:1px solid #cbd5e1}
h3{font-size:15px;margin:18px 0 6px}p{margin:4px 0;max-width:80ch}.lead{color:#475569}
nav{margin:10px 0}nav a{margin-right:14px;color:#1d4ed8;text-decoration:none}
.tiles{display:flex;flex-wrap:wrap;gap:12px;margin:16px 0}
.tiles div{background:#fff;border:1px solid #e2e8f0;border-radius:8px;padding:10px 16px;min-width:104px}
.tiles b{display:block;font-size:22px}.tiles span{color:#475569;font-size:13px}
.row{display:flex;flex-wrap:wrap;gap:16px}
figure{background:#fff;border:1px solid #e2e8f0;border-radius:8px;padding:12px;margin:0;flex:1 1 420px;max-width:100%}
figure.wide{flex-basis:100%}figcaption{font-weight:600;margin-bottom:6px}svg{width:100%;height:auto}
svg text{font:11px system-ui,sans-serif;fill:#475569}.grid{stroke:#e2e8f0}
.legend{display:flex;flex-wrap:wrap;gap:4px 14px;font-size:12px}.legend i{display:inline-block;width:10px;height:10px;
border-radius:2px;margin-right:5px}
.scroll{overflow-x:auto}table{border-collapse:collapse;background:#fff;font-size:13px}
td,th{border:1px solid #e2e8f0;padding:4px 9px;text-align:right}th:first-child,td:first-child{text-align:left}
thead th,.matrix th{background:#f1f5f9}
.gallery{display:flex;flex-wrap:wrap;gap:10px}.gallery div{width:220px;font-size:12px}.gallery img{display:block;
max-width:220px;max-height:220px;border-radius:4px}
.gallery.large div{width:320px}.gallery.large img{max-width:320px;max-height:320px}
svg .bar{fill:#2563eb}figure.bars{max-width:560px}
pre{background:#fff;border:1px solid #e2e8f0;border-radius:8px;padding:12px;overflow-x:auto;font-size:12px}
"""


def page(title: str, lead: str, sections: Mapping[str, str]) -> str:
    """The whole document.

    Args:
        title: of the page.
        lead: a sentence below it.
        sections: HTML by heading, in order.
    """
    links = "".join(f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name in sections)
    bodies = "".join(
        f'<section id="{_anchor(name)}"><h2>{escape(name)}</h2>{body}</section>'
        for name, body in sections.items()
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body><main>'
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
