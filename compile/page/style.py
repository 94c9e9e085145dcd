"""The style sheet of a build's page: light or dark as the reader's system is, for phones and wide screens."""

STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --panel: #f5f6f8; --ink: #1b1f24; --faint: #5b6470;
  --line: #d9dde3; --blue: #2f6fdb; --amber: #b7720a; --red: #c4322b; --green: #1d7f46; --track: #e6e9ee; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14171b; --panel: #1d2127; --ink: #e8eaed; --faint: #a2abb7; --line: #343a43;
    --blue: #6ea2f5; --amber: #e2a84b; --red: #f0736b; --green: #5dc58a; --track: #2a3038; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 40px 0 8px; }
h3 { font-size: 1rem; margin: 24px 0 6px; overflow-wrap: anywhere; }
p { margin: 6px 0; max-width: 76ch; overflow-wrap: anywhere; }
.faint { color: var(--faint); }
.verdict { margin: 16px 0; padding: 12px 16px; max-width: none; background: var(--panel);
  border-left: 4px solid var(--green); }
.verdict.failed { border-color: var(--red); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 8px; margin: 16px 0; }
.fact { background: var(--panel); padding: 10px 12px; border-radius: 6px; min-width: 0; }
.fact b { display: block; font-size: 1.1rem; overflow-wrap: anywhere; }
.fact span { color: var(--faint); font-size: 0.85rem; }
.scroll { overflow-x: auto; margin: 8px 0; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; }
caption { text-align: left; color: var(--faint); padding: 0 0 4px; }
th, td { text-align: left; padding: 5px 10px; border-bottom: 1px solid var(--line); vertical-align: middle; }
th { color: var(--faint); font-weight: 600; white-space: nowrap; }
td { white-space: nowrap; }
td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 17em; max-width: 30em; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar { display: block; width: 100%; min-width: 90px; height: 10px; background: var(--track); border-radius: 2px; }
.fill { display: block; height: 100%; background: var(--blue); border-radius: 2px; min-width: 1px; }
.fill.warn { background: var(--amber); }
.fill.bad { background: var(--red); }
.equal { color: var(--green); } .indicative { color: var(--amber); }
.failed-word { color: var(--red); font-weight: 600; }
details summary { cursor: pointer; color: var(--blue); margin: 8px 0; }
@media (max-width: 600px) { main { padding: 16px 12px 48px; } th, td { padding: 5px 7px; }
  .facts { grid-template-columns: 1fr 1fr; } td:first-child { min-width: 9em; } .bar { min-width: 70px; } }
"""
