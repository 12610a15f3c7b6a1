"""What the page of an evaluation adds to the common stylesheet."""

STYLE = """
.loud { border-width: 2px; padding: 16px 20px; }
.loud strong { font-size: 19px; display: block; } .loud p { margin: 4px 0 0; }
.badge { background: var(--warn); border: 1px solid var(--warn-line); border-radius: 5px;
  padding: 0 5px; font-size: 11px; color: var(--text); white-space: nowrap; }
abbr.way { text-decoration: none; color: var(--soft); }
ul.notes { margin: 0; padding-left: 36px; } .notes li { margin: 2px 0; }
table.metrics th, table.metrics td { padding: 8px 0 8px 16px; vertical-align: baseline;
  overflow-wrap: normal; }
table.metrics th:first-child { padding-left: 0; position: sticky; left: 0;
  background: var(--card); white-space: normal; min-width: 128px; }
table.metrics th.n { white-space: normal; vertical-align: bottom; }
th .badge { display: block; width: max-content; margin: 3px 0 0 auto; }
table.metrics td b { font-weight: 500; } table.metrics td small { font-size: 11px; }
table.metrics .n { width: auto; } table.metrics .n:last-child { padding-right: 8px; }
table.metrics th small { display: block; font-weight: 400; font-size: 12px; max-width: 26em; }
tr.main th { color: var(--text); } tr.main td b { font-weight: 650; }
tr.spread th { font-weight: 400; } tr.spread td { color: var(--soft); }
tr.group th { padding-top: 20px !important; font-size: 12px; font-weight: 600; }
table.metrics tr.printed > * { background: var(--track); font-style: italic; font-weight: 400; }
table.metrics tr.printed th { padding-left: 10px; }
.metrics tr:last-child th { border-bottom: 0; }
.three { display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); }
.chart p { font-size: 12.5px; margin: 0 0 6px; } .chart .axis { margin: 12px 0 0;
  color: var(--soft); }
.band { fill: var(--s1); } .mean { stroke: var(--text); stroke-width: 1.5;
  stroke-dasharray: 4 3; } svg .said { fill: var(--text); } svg .start { text-anchor: start; }
.dot, .cell { fill: var(--s0); } .dot { opacity: .5; }
.c1 { opacity: .16; } .c2 { opacity: .34; } .c3 { opacity: .54; } .c4 { opacity: .76; }
.line { fill: none; stroke: var(--s1); stroke-width: 2; }
.knot { fill: var(--s1); stroke: var(--card); stroke-width: 1.5; }
.ends { column-gap: 40px; } .ends h3 { color: var(--soft); } .pair { margin: 0 0 20px; }
.shots { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); gap: 6px; }
.shots div { font-size: 11.5px; color: var(--soft); line-height: 1.5; overflow-wrap: anywhere; }
.pair small { display: block; color: var(--soft); } .pair small b { color: var(--text); }
.pair small > span { white-space: nowrap; }
.swipe { display: none; color: var(--soft); font-size: 12.5px; margin: 0 0 6px;
  text-align: right; }
@media (max-width: 600px) { table.metrics th:first-child { min-width: 108px; max-width: 132px; }
  .swipe { display: block; } .ends { row-gap: 8px; } }
.none { border: 1px dashed var(--line); border-radius: 6px; padding: 12px; color: var(--soft); }
"""
