"""How the page looks, and the script that says when it is out of date.

Text only; `page` puts it into the page, which loads nothing else.
"""

from __future__ import annotations

_LIGHT = """\
--bg: #fff; --fg: #1b1f24; --soft: #5a6270; --line: #d5d9e0;
--down: #b3261e; --up: #1b6e8c; --odd: #8a5a00;
--downbg: #fdeceb; --upbg: #e8f3f7; --oddbg: #fdf3e0;
"""
_DARK = """\
--bg: #14171c; --fg: #e7eaf0; --soft: #a4adba; --line: #3a414c;
--down: #ff8a80; --up: #7cc4e0; --odd: #f0bf5e;
--downbg: #3a1a18; --upbg: #12303b; --oddbg: #382a0e;
"""
_RULES = """\
* { box-sizing: border-box }
body {
  margin: 0 auto; max-width: 70rem; padding: 1rem;
  background: var(--bg); color: var(--fg); font: 1rem/1.5 system-ui, sans-serif;
}
h1 { font-size: 1.2rem; margin: 0 }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem }
h3, summary, .test > *, td, th { overflow-wrap: anywhere }
a { color: inherit }
p { margin: .3rem 0 }
.soft { color: var(--soft) }
.box { border: 2px solid; border-radius: .5rem; padding: .8rem 1rem; margin: .8rem 0 }
.box h2 { margin: 0 }
.box.down { border-color: var(--down); background: var(--downbg) }
.box.up { border-color: var(--up); background: var(--upbg) }
.box.odd { border-color: var(--odd); background: var(--oddbg) }
b[class] { white-space: nowrap }
b.down { color: var(--down) }
b.up { color: var(--up) }
b.odd { color: var(--odd) }
b.down::before { content: "✖ "; content: "✖ " / "" }
b.up::before { content: "✔ "; content: "✔ " / "" }
b.odd::before { content: "? "; content: "? " / "" }
.test {
  border-top: 1px solid var(--line); padding: .5rem 0;
  display: grid; gap: .2rem 1rem; grid-template-columns: repeat(2, minmax(0, 1fr));
}
.test > div, .test > details { grid-column: 1 / -1 }
svg { width: 100%; height: 1.5rem; display: block }
@media (max-width: 40rem) { .test { grid-template-columns: minmax(0, 1fr) } }
figure { margin: 0 }
figcaption { font-size: .8rem; color: var(--soft) }
.bar { fill: var(--up) }
.none { fill: var(--line) }
.hit { fill: var(--down) }
.old #now { border-color: var(--line); background: none }
.old #now h2::before { content: "Then: " }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100% }
th, td {
  text-align: left; padding: .2rem .8rem .2rem 0;
  vertical-align: top; border-top: 1px solid var(--line);
}
thead th { border: 0; color: var(--soft); font-weight: 600 }
summary { cursor: pointer }
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
