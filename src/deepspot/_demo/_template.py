"""What stands on the page of the demo's report, for :class:`string.Template`."""

BODY = """<p class="lead">$lead</p>
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
$facts

<h2>With your own slides</h2>
<pre>import deepspot as ds

model = ds.tl.train(slides, patient_key="patient", genes=1000)   # slides with measured genes, by name
ds.tl.predict(new_slide, model)                                  # needs only the H&amp;E image and spots
ds.pl.spatial(new_slide, "FASN")</pre>
<p>Keep whole patients apart: a model is only as good as on patients that it has never seen.</p>
"""
