"""How the page looks, and the script that says when it is out of date.

Text only; `page` puts it into the page, which loads nothing else.
"""

from __future__ import annotations

_LIGHT = """\
--bg: #fff; --fg: #1b1f24; --soft: #5a6270; --line: #d5d9e0; --mid: #b3c3cf;
--down: #b3261e; --up: #1b6e8c; --odd: #8a5a00;
--downbg: #fdeceb; --upbg: #e8f3f7; --oddbg: #fdf3e0;
"""
_DARK = """\
--bg: #14171c; --fg: #e7eaf0; --soft: #a4adba; --line: #3a414c; --mid: #44586a;
--down: #ff8a80; --up: #7cc4e0; --odd: #f0bf5e;
--downbg: #3a1a18; --upbg: #12303b; --oddbg: #382a0e;
"""
_RULES = """\
* { box-sizing: border-box }
body {
  margin: 0 auto; max-width: 70rem; padding: 1rem;
  background: var(--bg); color: var(--fg); font: 1rem/1.5 system-ui, sans-serif;
}
h1 { font-size: 1.3rem; margin: 0 }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem }
h3, summary, .row > *, td, th, p { overflow-wrap: anywhere }
a { color: inherit }
p { margin: .3rem 0 }
ul { list-style: none; margin: 0; padding: 0 }
.soft { color: var(--soft); font-size: .85rem }
.box { border: 2px solid; border-radius: .5rem; padding: .8rem 1rem; margin: .8rem 0 }
.box h2 { margin: 0; font-size: 1.5rem }
.box h3 { margin: 0; font-size: 1.3rem }
.box .text { font-size: 1.05rem }
.box.down { border-color: var(--down); background: var(--downbg) }
.box.up { border-color: var(--up); background: var(--upbg) }
.box.odd { border-color: var(--odd); background: var(--oddbg) }
b.down { color: var(--down) }
b.up { color: var(--up) }
b.odd { color: var(--odd) }
b.down::before { content: "✖ "; content: "✖ " / "" }
b.up::before { content: "✔ "; content: "✔ " / "" }
b.odd::before { content: "? "; content: "? " / "" }
li { border-top: 1px solid var(--line); padding: .3rem 0 }
li details[open] { padding-bottom: .6rem }
.row {
  display: grid; gap: 0 .8rem; align-items: center;
  grid-template-columns: 4.5rem minmax(5rem, 13rem) minmax(6rem, 1fr) 4.8rem 7rem 4rem;
}
.row > * { grid-row: 1 }
.row > .name { grid-column: 2 }
.row > .days { grid-column: 3 }
.row > .share { grid-column: 4 }
.row > .line { grid-column: 5 }
.row > .took { grid-column: 6 }
.share, .took { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
.row > .text { grid-column: 2 / -1; grid-row: 2; font-size: .9rem }
.box > .row { margin-top: .5rem }
.box > .row > .days { grid-column: 1 / 4 }
summary { cursor: pointer }
summary .name::after { content: " ▾"; content: " ▾" / ""; color: var(--soft) }
svg { width: 100%; display: block }
.days { height: 1.3rem }
.line { height: 1.3rem }
.days path { fill: none; stroke-dasharray: .8 .2 }
.bar { stroke: var(--up); stroke-width: 10 }
.hit { stroke: var(--down); stroke-width: 20 }
.none { stroke: var(--soft); stroke-width: 2 }
.most { fill: var(--mid) }
.half { fill: none; stroke: var(--up); stroke-width: 1.5px; vector-effect: non-scaling-stroke }
@media (max-width: 45rem) {
  li { padding: .5rem 0 }
  .row { grid-template-columns: 4rem 1fr 4.6rem 3.6rem }
  .row > .share { grid-column: 3 }
  .row > .took { grid-column: 4 }
  .row > .days, .box > .row > .days { grid-column: 1 / 3; grid-row: 2 }
  .row > .line { grid-column: 3 / 5; grid-row: 2; min-width: 6rem }
  .row > .text { grid-row: 3; grid-column: 1 / -1 }
}
.old #now { border-color: var(--line); background: none }
.old #now h2::before { content: "Then: " }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100% }
th, td {
  text-align: left; padding: .2rem .8rem .2rem 0;
  vertical-align: top; border-top: 1px solid var(--line);
}
thead th { border: 0; color: var(--soft); font-weight: 600 }
section > details > summary, section > p { margin: .3rem 0 }
:focus-visible { outline: 3px solid var(--up); outline-offset: 2px }
.skip { position: absolute; left: -99rem }
.skip:focus { position: static }
"""
STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
{_RULES}"""

# Without a script the time in the page has to do. With it, a page that nobody writes any more says
# so. To be formatted with `at`, when the last round ended, and `stale`, both in seconds.
SCRIPT = """
const title = document.title
function look() {{
  const old = Date.now() / 1000 - {at} > {stale}
  document.getElementById("stale").hidden = !old
  document.body.classList.toggle("old", old)
  document.title = old ? "Out of date: " + title : title
}}
look()
setInterval(look, 5000)
"""
