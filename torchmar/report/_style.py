"""The style sheet of a page: light or dark by the reader's setting, narrow or wide."""

from __future__ import annotations

CSS = """
:root { color-scheme: light dark;
  --ink: #1b1f24; --paper: #fff; --line: #8884; --soft: #66707b;
  --good: #1a7f4b; --bad: #c93636; --unsure: #a85f00; --old: #7a828c; --new: #2f7fd6; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e6e8ea; --paper: #15181c; --line: #8884; --soft: #9aa4ae;
  --good: #4cc38a; --bad: #ff7b72; --unsure: #e3a04d; --old: #9aa4ae; --new: #62a8f5; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 1.5rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--paper); }
h1 { font-size: 1.5rem; margin-bottom: .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding-left: .8rem;
  border-left: 3px solid var(--bad); }
.say { font-size: 1.15rem; margin-top: 0; }
.soft { color: var(--soft); }
.good { color: var(--good); fill: var(--good); }
.bad { color: var(--bad); fill: var(--bad); }
.unsure { color: var(--unsure); fill: var(--unsure); }
.plain { color: var(--soft); fill: var(--old); }

ul { padding-left: 1.2rem; }
li { overflow-wrap: anywhere; }
a { color: inherit; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); }
td { overflow-wrap: break-word; }
td:last-child { overflow-wrap: anywhere; }
td:first-child { white-space: nowrap; }
.number { text-align: right; }
.number + td:not(.number) { min-width: 10rem; }
tr.won { background: color-mix(in srgb, var(--new) 20%, transparent); }
tr.lost { opacity: .65; }
code { background: #8883; padding: .1rem .3rem; border-radius: .2rem; }
.answers td { min-width: 9rem; font: 12.5px/1.45 ui-monospace, monospace; white-space: normal;
  overflow-wrap: anywhere; }

.legend span { display: inline-block; margin-right: 1.4rem; }
.key { display: inline-block; width: 1.4rem; height: .25rem; margin-right: .4rem; vertical-align: middle; }
.key.old { background: var(--old); }
.key.new { background: var(--new); }
.key.bad { background: var(--bad); }
.key.dot, .key.ring { width: .6rem; height: .6rem; border-radius: 50%; }
.key.good { background: var(--good); }
.key.unsure { background: var(--unsure); }
.key.plain { background: var(--soft); }
.key.ring { background: none; border: 2px solid var(--old); }
.key.ring.new { border-color: var(--new); }
.key.dashed { background: repeating-linear-gradient(90deg, var(--bad) 0 .3rem, transparent .3rem .5rem); }
svg { display: block; width: 100%; max-width: 38rem; height: auto; }
svg text { font-size: 12px; fill: var(--ink); stroke: var(--paper); stroke-width: 3px; paint-order: stroke; }
@media (max-width: 500px) { svg text { font-size: 14px; } }
svg line { stroke: var(--line); }
svg path { fill: none; stroke-width: 2; }
.end { text-anchor: end; }
.middle { text-anchor: middle; }
path.old { stroke: var(--old); }
path.new { stroke: var(--new); }
path.bad { stroke: var(--bad); fill: none; }
.dashed { stroke-dasharray: 6 4; }
circle.old, rect.old { fill: var(--old); }
circle.new, rect.new { fill: var(--new); }
circle.ring { fill: none; stroke: var(--old); stroke-width: 2; }
circle.ring.new { stroke: var(--new); }
"""
