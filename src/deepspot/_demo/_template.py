"""The page of the demo's report, for :class:`string.Template`."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
  :root { --ink: #1d2733; --soft: #5b6875; --line: #d9dfe5; --blue: #0072B2; --warm: #fff4e5; }
  body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink);
         max-width: 62rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
  h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .6rem; }
  h2 { font-size: 1.25rem; margin: 2.4rem 0 .5rem; }
  p, li { max-width: 46rem; }
  .lead { font-size: 1.1rem; }
  .limits { background: var(--warm); border-left: 4px solid #D55E00; padding: .8rem 1.1rem; margin: 1.4rem 0; }
  .limits p { margin: .2rem 0; }
  .scroll { overflow-x: auto; }
  table { border-collapse: collapse; margin: .6rem 0; }
  th, td { text-align: right; padding: .35rem .8rem; border-bottom: 1px solid var(--line); }
  th:first-child, td:first-child { text-align: left; padding-left: 0; }
  th { font-weight: 600; border-bottom: 2px solid var(--ink); }
  .facts th { border-bottom: 1px solid var(--line); vertical-align: top; white-space: nowrap; text-align: left;
              padding-left: 0; }
  .facts td { text-align: left; overflow-wrap: anywhere; }
  figure { margin: 1.2rem 0; }
  figure img { max-width: 100%; height: auto; display: block; }
  figcaption { color: var(--soft); font-size: .92rem; }
  .pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }
  pre { background: #f4f6f8; padding: .8rem 1rem; overflow-x: auto; font-size: .9rem; }
  code { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .92em; }
</style>
</head>
<body>
<h1>$title</h1>
<p class="lead">$lead</p>
<div class="limits">$limits</div>

<h2>How well did it do?</h2>
<p>$result</p>
<div class="scroll">$scores</div>
<p><b>Pearson r</b> says how well the pattern of a gene over the slide is met: 1 is the same pattern, 0 is none. It is
computed for each gene over the spots of the unseen slide. The training mean predicts the same value everywhere, has no
pattern, and so no r: it is undefined. <b>Error removed</b> is the share of the squared error of that training mean
which a prediction takes away; below 0 it is worse than knowing nothing of the slide.</p>
$programs
<div class="pair">
<figure><img alt="Histogram of r per gene" src="$histogram">
<figcaption>Every gene counts once. Dashed: the medians.</figcaption></figure>
<figure><img alt="Expected r per gene" src="$reliability">
<figcaption>$gate</figcaption></figure>
</div>

<h2>Measured and predicted, side by side</h2>
<p>$spots The genes were picked <b>after</b> the comparison: the three that came out best, which flatter the method, and
one at the median, which is what to expect. A prediction varies less than a measurement, so each panel has its own
colour scale: compare <i>where</i> a gene is high and low.</p>
$maps

<h2>What was done</h2>
<div class="scroll"><table class="facts">$facts</table></div>

<h2>With your own slides</h2>
<pre>import deepspot as ds

model = ds.tl.train(slides, patient_key="patient", genes=1000)   # slides with measured genes, by name
ds.tl.predict(new_slide, model)                                  # needs only the H&amp;E image and spots
ds.pl.spatial(new_slide, "ERBB2")</pre>
<p>Keep whole patients apart: a model is only as good as on patients that it has never seen.</p>
</body>
</html>
"""
