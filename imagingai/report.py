"""One self-contained HTML page: text, tables and pictures in a single file that can be mailed, archived and printed.

General pieces; what a page says is up to each feature (`imagingai/registration/report.py`). Nothing is loaded from
elsewhere: pictures are embedded as PNG, styles and the few lines of script are inside. Every text is escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STATES = {"good": "good", "look": "look at it", "bad": "problem", "": ""}

STYLE = """
:root{color-scheme:light dark;--back:#f6f7f9;--card:#fff;--text:#1b1f24;--soft:#57606a;--line:#d8dee4;--accent:#0b63a5;
--good:#17713a;--look:#8a5a00;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--back:#0f1216;--card:#171b21;--text:#e6eaef;--soft:#9aa5b1;--line:#2c333c;--accent:#6cb6ff;
--good:#5fd38a;--look:#e8b44c;--bad:#ff8a80}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--text);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:24px 16px 64px}
h1{font-size:1.7rem;margin:0 0 4px}h2{font-size:1.2rem;margin:36px 0 10px}
p{margin:6px 0;max-width:80ch}.soft,figcaption{color:var(--soft)}
.facts{display:flex;flex-wrap:wrap;gap:8px;padding:0;margin:16px 0 0;list-style:none}
.facts li{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:6px 12px}
.facts b{display:block;font-size:1.05rem}.facts span{color:var(--soft);font-size:.8rem}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;background:var(--card);border:1px solid var(--line);font-size:.93rem}
caption{text-align:left;color:var(--soft);padding:0 0 6px}
th,td{padding:5px 10px;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
td:not(.n):last-child{min-width:15em}thead th{font-weight:600;color:var(--soft)}tbody th{font-weight:500}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr.total>*{font-weight:700;border-top:2px solid var(--line)}
.good{color:var(--good)}.look{color:var(--look)}.bad{color:var(--bad)}.state{font-weight:600;white-space:nowrap}
figure{margin:0 0 18px}figure img{display:block;width:100%;height:auto;border-radius:8px;background:#000}
.side{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(320px,100%),1fr));gap:0 18px;align-items:start}
.side>figure{max-width:531px}
figcaption{font-size:.9rem;padding:6px 2px 0}figcaption b{color:var(--text)}
.named{white-space:nowrap}.key{display:inline-block;width:1.6em;height:.25em;vertical-align:middle;margin:0 .3em 0 .6em;
outline:1px solid var(--line)}
details{margin:12px 0}summary{cursor:pointer;color:var(--accent)}
.blend{position:relative}.blend img+img{position:absolute;inset:0}
.controls{display:flex;flex-wrap:wrap;gap:8px 20px;align-items:center;padding:8px 2px}.controls input[type=range]{width:min(320px,60vw)}
.flicker img+img{animation:flicker 1.2s steps(1) infinite}
@keyframes flicker{0%{opacity:1}50%{opacity:0}}
@media print{:root{color-scheme:light;--back:#fff;--card:#fff;--text:#000;--soft:#444;--line:#bbb;--accent:#000;
--good:#17713a;--look:#8a5a00;--bad:#b3261e}
main{max-width:none;padding:0}body{font-size:11pt}figure,tr{break-inside:avoid}h2{break-after:avoid}.screen{display:none}
figure img,.key{-webkit-print-color-adjust:exact;print-color-adjust:exact}.wide{overflow:visible}}
"""


@dataclass(frozen=True)
class Html:
    """Text that is HTML already. Everything else is escaped."""

    text: str


def page(title: str, parts: Sequence[Html]) -> str:
    """The whole page. title: plain text; parts: what follows the opening of <main>."""
    body = "\n".join(part.text for part in parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def heading(text: str, level: int = 2) -> Html:
    """<h1>, <h2> ..."""
    return Html(f"<h{level}>{escape(text)}</h{level}>")


def paragraph(text: str | Html, soft: bool = False) -> Html:
    """A paragraph; `soft` sets it back."""
    return Html(f"<p{' class=soft' if soft else ''}>{to_html(text)}</p>")


def facts(pairs: Sequence[tuple[str, str]]) -> Html:
    """A row of small boxes: (what, value)."""
    items = "".join(f"<li><span>{escape(what)}</span><b>{escape(value)}</b></li>" for what, value in pairs)
    return Html(f'<ul class="facts">{items}</ul>')


def table(
    caption: str, columns: Sequence[str], rows: Sequence[Sequence[str | Html]], *, numbers: Sequence[int] = (), total: bool = False
) -> Html:
    """A table. `numbers` are the columns that are set to the right; `total` marks the last row."""
    style = [' class="n"' if k in numbers else "" for k in range(len(columns))]
    head = "".join(f'<th scope="col"{style[k]}>{escape(name)}</th>' for k, name in enumerate(columns))
    lines = []
    for number, row in enumerate(rows):
        cells = "".join(f"<td{style[k]}>{to_html(cell)}</td>" for k, cell in enumerate(row) if k)
        mark = ' class="total"' if total and number == len(rows) - 1 else ""
        lines.append(f'<tr{mark}><th scope="row">{to_html(row[0])}</th>{cells}</tr>')
    return Html(
        f'<div class="wide"><table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def state(name: str) -> Html:
    """A traffic light that does not rely on color alone: good, look, bad, or nothing."""
    return Html(f'<span class="state {name}">● {STATES[name]}</span>' if name else "")


def picture(figure: Figure, alt: str, caption: str | Html, *, name: str = "") -> Html:
    """A figure with its description for those who cannot see it (`alt`); `name` lets scripts find it."""
    mark = f' id="{escape(name)}"' if name else ""
    image = f'<img{mark} src="{to_data_uri(figure)}" alt="{escape(alt)}">'
    return Html(f"<figure>{image}<figcaption>{to_html(caption)}</figcaption></figure>")


def side_by_side(parts: Sequence[Html]) -> Html:
    """Narrow pictures in as many columns as there is room for."""
    return Html(f'<div class="side">{"".join(part.text for part in parts)}</div>')


def blend(below: str, above: str, names: tuple[str, str]) -> Html:
    """Two pictures of the page (by their names) on top of each other, with a slider and a flicker; not printed."""
    return Html(
        f'<figure class="screen" id="blend"><div class="blend"><img alt="{escape(names[0])}"><img alt="{escape(names[1])} on top"></div>'
        f'<div class="controls"><label>{escape(names[0])} <input type="range" min="0" max="100" value="50" '
        f'aria-label="Fade from {escape(names[0])} to {escape(names[1])}"> {escape(names[1])}</label>'
        '<label><input type="checkbox"> flicker</label></div></figure>\n'
        "<script>(()=>{const box=document.getElementById('blend'),[a,b]=box.querySelectorAll('img'),"
        "[fade,flicker]=box.querySelectorAll('input'),show=()=>{b.parentNode.classList.toggle('flicker',flicker.checked);"
        "fade.disabled=flicker.checked;b.style.opacity=flicker.checked?'':fade.value/100};"
        f"a.src=document.getElementById('{below}').src;b.src=document.getElementById('{above}').src;"
        "fade.oninput=flicker.onchange=show;show()})()</script>"
    )


def key(color: str, text: str) -> Html:
    """A colored line and what it stands for, for captions."""
    return Html(f'<span class="named"><span class="key" style="background:{escape(color)}"></span>{escape(text)}</span>')


def fold_out(summary: str, content: Html) -> Html:
    """Details that are closed at first."""
    return Html(f"<details><summary>{escape(summary)}</summary>{content.text}</details>")


def settings_table(settings: Mapping[str, Any]) -> list[Html]:
    """All settings, nested ones with dotted names, folded out at the end of a page; nothing if there are none."""
    lines = [[name, value] for name, value in _flat(settings)]
    shown = [heading("How it was made"), fold_out(f"{len(lines)} settings and versions", table("", ("Setting", "Value"), lines))]
    return shown if lines else []


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for name, value in settings.items():
        found += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(f"{prefix}{name}", str(value))]
    return found


def join(*parts: str | Html) -> Html:
    """Texts (escaped) and HTML, one after the other."""
    return Html("".join(to_html(part) for part in parts))


def to_html(text: str | Html) -> str:
    """HTML as it is, text escaped."""
    return text.text if isinstance(text, Html) else escape(str(text))


def to_data_uri(figure: Figure) -> str:
    """A matplotlib figure as a PNG inside an address."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
