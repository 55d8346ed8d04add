"""The one template of every HTML page that people take away: one file, no network."""

from __future__ import annotations

import html
from string import Template

from nuggets.documents.colours import LIGHT, Look

FONT = '"Source Sans 3", "Source Sans Pro", "Source Sans", "Segoe UI", Helvetica, Arial, sans-serif'
_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>$title</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body{font:16px/1.5 $font;max-width:72rem;margin:2rem auto;padding:0 1rem;
color:$ink;background:$paper}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2rem}
figure{margin:1rem 0;break-inside:avoid}figcaption,footer{color:$muted;font-size:.9rem}
svg,img{max-width:100%;height:auto}
pre{overflow:auto;white-space:pre-wrap;padding:.75rem 1rem;border:1px solid $grid}
table{display:block;overflow-x:auto;border-collapse:collapse;margin:1rem 0;font-size:.92em}
th,td{padding:.3rem .7rem;border-bottom:1px solid $grid;text-align:left}
dt{font-weight:600}dd{margin:0 0 .5rem 1rem}section{break-before:page}
@media print{body{margin:0}}
</style></head><body>
$body
</body></html>
""")


def html_page(title: str, body: str, look: Look = LIGHT) -> str:
    """A page around a body, with its own styles.

    Args:
        title: any text; it is escaped.
        body: HTML, in which all text of others is escaped already.
        look: of the paper and the ink.
    """
    return _PAGE.substitute(
        look._asdict(), title=html.escape(title), body=body, font=FONT
    )  # a body's own `$` stay: only the template is read
