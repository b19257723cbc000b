"""The frame of a page, its style, sections and tables."""

from collections.abc import Sequence

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --paper: #ffffff; --faint: #646b73; --edge: #dde1e5; --line: #1f66c1;
  --side-0: #1f66c1; --side-1: #c2570c; --side-2: #1a7f4b; --side-3: #8a3fa8; --side-4: #8a6d00; --side-5: #b3264a }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ea; --paper: #14171a; --faint: #9aa2aa; --edge: #343a40; --line: #6ea8ff;
    --side-0: #6ea8ff; --side-1: #ff9a52; --side-2: #5fcf94; --side-3: #d79af0; --side-4: #e0c14a; --side-5: #ff8aa5 }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 76rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--edge) }
.faint, figcaption { color: var(--faint); font-size: .875rem }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1.5rem }
figure { margin: 0; min-width: 0 }
figure > svg, video { width: 100%; height: auto; display: block }
figcaption b { color: var(--ink) }
.tex { overflow: visible }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid var(--edge); vertical-align: top }
code { font-size: .875em; overflow-wrap: anywhere }
td:first-child code { white-space: nowrap }
@media (max-width: 32rem) { th, td { padding-right: .6rem } }
"""


def document(title: str, parts: Sequence[str]) -> str:
    """A whole page.

    Args:
        title: as HTML.
        parts: of its body, as HTML.
    """
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def section(title: str, inside: str) -> str:
    """A part of a page under its title, both HTML."""
    return f"<section><h2>{title}</h2>\n{inside}</section>"


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Cells of HTML; wider than the screen it can be scrolled."""
    head = f"<tr>{''.join(f'<th>{cell}</th>' for cell in heads)}</tr>" if heads else ""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" for line in lines)
    return f'<div class="wide"><table>{head}{body}</table></div>'
