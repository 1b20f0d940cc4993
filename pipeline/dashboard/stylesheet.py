"""The style sheet of the page: that of the report, and what a page has that is no report."""

from pipeline.report.stylesheet import STYLESHEET as _OF_THE_REPORT

STYLESHEET = (
    _OF_THE_REPORT
    + """
html:root { --Dash-Fill-Interactive-Strong: var(--accent); --Dash-Fill-Interactive-Weak: var(--raised);
  --Dash-Fill-Inverse-Strong: var(--ground); --Dash-Stroke-Strong: var(--soft); --Dash-Stroke-Weak: var(--line);
  --Dash-Text-Primary: var(--ink); --Dash-Text-Strong: var(--ink); --Dash-Text-Weak: var(--soft);
  --Dash-Text-Disabled: var(--soft); }
.alert { background: var(--mark); border-left: 4px solid #d55e00; padding: .5rem .75rem; overflow-wrap: anywhere; }
.alert:empty, p.note:empty { display: none; }
.sweeps { max-height: 14rem; overflow: auto; border: 1px solid var(--line); border-radius: 8px; padding: .5rem .75rem;
  margin-bottom: 1rem; }
.sweeps label { display: flex; align-items: baseline; gap: .5rem; padding: .25rem 0; overflow-wrap: anywhere;
  white-space: normal; }
.sweeps b, .sweeps .state { margin-right: .6rem; }
.state { border: 1px solid var(--line); border-radius: 1rem; padding: 0 .5rem; font-size: .85rem; color: var(--soft); }
.state.running { border-color: var(--accent); color: var(--accent); }
.soft { color: var(--soft); font-size: .9rem; }
.controls { display: flex; flex-wrap: wrap; gap: .5rem 2rem; }
fieldset { border: 0; padding: 0; margin: 0 0 .75rem; display: flex; flex-wrap: wrap; gap: .25rem .75rem;
  align-items: baseline; min-width: 0; }
legend { float: left; padding: 0; color: var(--soft); }
fieldset label { margin-right: .75rem; }
article { border: 1px solid var(--line); border-radius: 8px; padding: .75rem 1rem 0; margin-bottom: .75rem; }
article h3 { margin: 0; overflow-wrap: anywhere; }
article h3 a { font-weight: 400; font-size: .9rem; }
article .facts { grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); margin: .5rem 0 .75rem; }
.dash-graph.chart { height: 27rem !important; }  /* Dash gives it 100 % of a box without a height */
.wide { max-height: none; }
thead th { min-width: 4.5rem; }
.textpoint text { text-shadow: 0 0 3px var(--ground), 0 0 3px var(--ground); }  /* lines run behind it */
#parallel .legendlines path { stroke-opacity: 1 !important; stroke-width: 3px !important; }
.modebar-btn path { fill: var(--soft) !important; }
.modebar-btn:hover path { fill: var(--accent) !important; }
.modebar-group { background: transparent !important; }
@media (max-width: 40rem) {
  .dash-graph.chart { height: 22rem !important; margin-top: 1.8rem; }
  .modebar { top: -1.8rem !important; }  /* above the legend */
  article .facts { grid-template-columns: 1fr; }
}
"""
)
