"""The style sheet of the page: light, dark, phone and print."""

STYLESHEET = """
:root { color-scheme: light dark; --ink: #1c2128; --soft: #57606a; --ground: #ffffff; --raised: #f5f7f9;
  --line: #d5dae0; --accent: #0072b2; --mark: #e8f2f9; --shade: rgba(0, 0, 0, .22); }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ed; --soft: #9ba5b1; --ground: #14181d; --raised: #1d232a; --line: #363e48; --accent: #6cb8e6;
    --mark: #16303f; --shade: rgba(0, 0, 0, .75); }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 1rem/1.55 system-ui, "Liberation Sans", sans-serif; }
header, main, footer { max-width: 66rem; margin: 0 auto; padding: 0 1rem; }
header { padding-top: 1.75rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 0 0 .75rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
p { margin: 0 0 .75rem; max-width: 46rem; }
li { overflow-wrap: anywhere; }
code { font-size: .9em; background: var(--raised); padding: .1em .3em; border-radius: 4px; overflow-wrap: anywhere; }
section { padding: 1.75rem 0 1rem; border-top: 1px solid var(--line); }
.kind { color: var(--soft); margin: 0 0 .25rem; font-size: .9rem; }
.lead { font-size: 1.1rem; }
.note { color: var(--soft); font-size: .9rem; margin-top: .75rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; margin: 0 0 1.25rem; padding: 0; }
a { color: var(--accent); }
nav a { display: inline-block; padding: .25rem 0; text-decoration: none; }
nav a:hover { text-decoration: underline; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
dl { margin: 0; }
dt { color: var(--soft); font-size: .85rem; }
dd { margin: 0; overflow-wrap: anywhere; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: .75rem 1.5rem;
  margin: 1rem 0 1.25rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .75rem;
  margin-bottom: 1.25rem; }
.tiles > div { background: var(--raised); border: 1px solid var(--line); border-radius: 8px; padding: .75rem 1rem; }
.tiles dd { font-size: 1.35rem; font-weight: 600; line-height: 1.3; }
/* A shade at the right and at the bottom says that there is more; it scrolls under a lid where the table ends. */
.scroll { overflow: auto; max-height: 36rem; border: 1px solid var(--line); border-radius: 8px;
  background: linear-gradient(to left, var(--ground) 60%, transparent) right / 3rem 100% no-repeat local,
    linear-gradient(to left, var(--shade), transparent) right / 1rem 100% no-repeat scroll,
    linear-gradient(to top, var(--ground) 60%, transparent) bottom / 100% 3rem no-repeat local,
    linear-gradient(to top, var(--shade), transparent) bottom / 100% 1rem no-repeat scroll, var(--ground); }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: .85rem; padding: .6rem .75rem; }
caption span { position: sticky; left: .75rem; display: inline-block; max-width: min(100vw - 4rem, 60rem); }
th, td { padding: .45rem .5rem; text-align: left; white-space: nowrap; border-top: 1px solid var(--line); }
thead th { white-space: normal; vertical-align: bottom; line-height: 1.25; position: sticky; top: 0; z-index: 2;
  background: var(--raised); font-weight: 600; }
tbody th { position: sticky; left: 0; background: var(--ground); font-weight: 500; }
thead th:first-child { left: 0; z-index: 3; }
.number { text-align: right; }
.champion > * { background: var(--mark); font-weight: 700; }
.champion th::after { content: " \\2605"; content: " \\2605" / " (champion)"; color: var(--accent); }
figure { margin: 0 0 1rem; }
figcaption { color: var(--soft); font-size: .85rem; margin-top: .35rem; }
.chart { height: 27rem; width: 100%; }
.chart.map { height: 36rem; }
.chart.rows { height: calc(7rem + var(--rows) * 1.75rem); }
.beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: 0 1.5rem; }
.beside .chart.map { height: 24rem; }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem; padding: 0;
  margin: 0 0 1rem; list-style: none; }
.examples li { display: flex; gap: .75rem; }
.examples img { width: 64px; height: 64px; flex: none; }
.examples .wide { grid-column: 1 / -1; flex-wrap: wrap; gap: .25rem; }
.examples .wide .predicted { display: flex; flex-wrap: wrap; gap: 0 1.5rem; padding-left: .95rem; }
.examples blockquote { margin: 0; padding-left: .75rem; border-left: 3px solid var(--line); width: 100%; }
.predicted div { display: flex; flex-wrap: wrap; gap: 0 .4rem; font-size: .85rem; line-height: 1.35; }
details { margin: .75rem 0; }
summary { cursor: pointer; color: var(--accent); margin-bottom: .5rem; }
footer { color: var(--soft); font-size: .85rem; padding-bottom: 2rem; }
.chart .main-svg text:not(.hovertext text, .heatmap-label text) { fill: var(--ink) !important; }
.chart .textpoint text { paint-order: stroke; stroke: var(--ground) !important; stroke-width: 4px !important; }
.chart .hoverlayer text { fill: #ffffff !important; }
@media (max-width: 40rem) {
  h1 { font-size: 1.5rem; }
  .tiles { grid-template-columns: 1fr 1fr; gap: .5rem; }
  .tiles dd { font-size: 1.1rem; }
  .chart { height: calc(18rem + var(--legend, 2) * 1.6rem); }
  .chart.map { height: 32rem; }
  .chart.rows { height: calc(7rem + var(--rows) * 1.75rem + var(--legend) * 1.6rem); }
  .facts { grid-template-columns: 1fr 1fr; gap: .5rem 1rem; }
  table { font-size: .85rem; }
  th, td { padding: .4rem .45rem; }
}
@page sweep { size: landscape; }
@media print {
  :root { color-scheme: light; --ink: #000; --soft: #444; --ground: #fff; --raised: #f2f2f2;
    --line: #bbb; --accent: #0072b2; --mark: #e8f2f9; }
  html { font-size: 10pt; }
  header, main, footer { max-width: none; padding: 0; }
  .chart { height: auto !important; }  /* the script sets it */
  .beside { grid-template-columns: 1fr; }
  nav, summary { display: none; }
  figure, tr, .tiles > div, .scroll { break-inside: avoid; }
  #sweep { page: sweep; }
  #sweep .scroll { break-inside: auto; }
  h2, h3, caption, p:has(+ figure, + .scroll) { break-after: avoid; }
  p { break-inside: avoid; }
  .scroll { overflow: visible; max-height: none; border: 0; background: none; }
  table { font-size: 8pt; }
  thead th, tbody th { position: static; }
  #sweep table { font-size: 6pt; }
  #sweep th, #sweep td { padding: 2px 3px; white-space: normal; }
}
"""
