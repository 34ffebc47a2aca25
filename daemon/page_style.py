"""How a page looks: by day, by night, on a narrow screen and on paper. Knows nothing about what is on it."""

STYLE = """\
:root {
  --paper: #ffffff; --ink: #1f2328; --faint: #59636e; --line: #d8dee4; --shade: #f6f8fa;
  --good: #1a7f37; --bad: #c62828; --open: #9a6700;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171c; --ink: #e4e8ec; --faint: #9aa5b1; --line: #343b44; --shade: #1d2229;
    --good: #4ac26b; --bad: #ff7b72; --open: #e3b341;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 20px 64px; }
h1 { font-size: 26px; margin: 0 0 12px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 36px 0 10px; padding-bottom: 4px; border-bottom: 1px solid var(--line); }
p, li { overflow-wrap: anywhere; }
ul { padding-left: 20px; }
.verdict { padding: 10px 14px; border-left: 5px solid var(--open); background: var(--shade); font-size: 16px; }
.verdict.good { border-color: var(--good); }
.verdict.bad { border-color: var(--bad); }
.verdict.good b { color: var(--good); }
.verdict.bad b { color: var(--bad); }
.verdict.open b { color: var(--open); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: 12px; margin: 16px 0; }
.cards div { border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px; color: var(--faint); }
.cards div { font-size: 13px; }
.cards span { display: block; }
.cards strong { display: block; color: var(--ink); font-size: 22px; line-height: 1.35; }
figure { margin: 16px 0; }
img { max-width: 100%; height: auto; display: block; background: #ffffff; border-radius: 6px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th { color: var(--faint); font-weight: 600; white-space: nowrap; }
th, td { padding: 4px 10px; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
.words { text-align: left; }
td:not(.words) { white-space: nowrap; }
td i { display: inline-block; width: 12px; height: 12px; margin-right: 8px; border: 1px solid var(--line); }
summary { cursor: pointer; color: var(--faint); padding: 8px 10px; }
@media print {
  :root { --paper: #ffffff; --ink: #000000; --faint: #444444; --line: #bbbbbb; --shade: #ffffff; }
  main { max-width: none; padding: 0; }
  * { print-color-adjust: exact; }
  h2 { break-after: avoid; }
  figure, tr, .cards, .verdict { break-inside: avoid; }
}
"""
