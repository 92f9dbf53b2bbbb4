"""What the page of results says around its tables."""

NAMES = {
    "organ": "OrganMNIST3D (CT, 28 voxels a side, 11 organs, 610 test volumes)",
    "fracture": "FractureMNIST3D (CT, 28 voxels, 3 kinds of fracture, 240 test volumes)",
    "adrenal": "AdrenalMNIST3D (shapes, 28 voxels, 2 classes, 298 test volumes)",
    "adrenal64": "AdrenalMNIST3D (shapes, 64 voxels, 2 classes, 298 test volumes)",
    "hippocampus": "Hippocampus (MRI, masks of 2 parts, 52 test volumes)",
    "brain": "brain (synthetic training, MNI152 as the test volume, masks of 3 tissues)",
}
KINDS = {
    "": "",
    "apart": ": 2D slices of other volumes than the labelled ones",
    "mednist": ": 2D images of MedNIST",
    "imagenet": ": from ImageNet weights",
}
ABOUT = {
    "imagenet": "timm's `tf_efficientnet_lite0`, whose 2D training starts from ImageNet weights as "
    "that of `--pretrained` does, with a learning rate of 0.001, and as many passes as the small "
    "networks have.",
}
"""What is to be known of such trainings."""
LARGEST = {"organ": 0.113, "fracture": 0.433, "adrenal": 0.768, "adrenal64": 0.768}
"""Share of the largest class among the test volumes."""

TITLES = {
    "projection": "crossd, `projection`",
    "projection-drawn": "crossd, `projection`, views drawn",
    "slices": "the 2D network on slices, averaged",
    "center": "its kernels in the central slice of 3D ones",
    "triplanar": "its kernels in three planes of 3D ones",
    "acs": "its channels shared out to three planes (ACS)",
    "cycle": "its layers in the three planes in turn (PlaneCycle)",
    "inflate": "its kernels spread over depth (I3D)",
    "partial": "3D training by a loss over the same slices",
}
"""What the README calls arms."""

HEAD = """\
Does training in 2D help in 3D, and which way of doing it? This page is made from the raw results
in `benchmarks/study/results`, and any of their rows from scratch, by

```console
$ python benchmarks/study/write.py
$ python benchmarks/study/study.py --data FOLDER --row SET,ARM,PROTOCOL,LABELLED,SEED
```

Small networks on two CPU cores. An *arm* is a way from images to volumes. Each seed has a 2D
training, a choice of labelled volumes and an order of its own, shared by all arms, as are the
budgets, the augmentation, and the unlabelled training volumes.

- `projection` is crossd: trained on slices with their own views mixed in every batch;
  `projection-drawn` sees each slice in a view that is drawn (`--views drawn`). The rivals start
  from a plain 2D network, trained alike: `slices` asks it about slices and averages what it says
  (nine of a volume for classes, all of them for masks); `center`, `inflate` (I3D) and `triplanar`
  put its kernels into 3D ones, `acs` shares its channels out to three planes, `cycle` turns its
  layers, as PlaneCycle does. `scratch` is 3D training alone; `partial`, for masks, 3D training by a
  loss over the very slices that 2D trainings learn from, with as many steps.
- `zero`: nothing is fitted to whole volumes. `linear`: a logistic regression on frozen features,
  its penalty chosen on the validation volumes. `finetune`: all weights. More in
  [compare](compare.md).
- *Every arm is used in the way that the set's validation volumes choose* (98 to 161, of the
  hippocampus 26, beside the labelled ones that are counted), as it is, before anything is fitted to
  labelled volumes: asked about the volume or about its three orientations, and ours about its
  slices or the mean of volume and slices too; BatchNorm kept as it was learnt or measured anew on
  the unlabelled training volumes; the 3D kernels as they are, or *taught*: distilled, on the
  unlabelled volumes, from what the arm's own 2D network says of slices, all with one budget. So
  ours has ten ways, as its weights take slices and volumes, 3D rivals six, and `slices` two.
- The 2D slices are cut from all training volumes and carry their labels (on the hippocampus the
  masks of every second slice): what is compared is ways from 2D to 3D, not labels saved.
- Fine-tuning with 10, 20 and 100 volumes of adrenals and fractures was run later than the rest and
  on another processor: from seed 1 on, from 2D trainings made anew by the same seeds. These differ
  a little, so that the way of an arm may be another one there than in its other rows. Where a
  processor has no arithmetic of bfloat16, in which all that is done with volumes is fitted, its
  products are made in float32 and rounded: the same numbers, but for the order of their sums."""

MEASURE = """\
Fixed before this study was run, but for a first look at one seed of adrenals, and for what the last
two points say:

- The measure is the area under the ROC curve, the mean over classes (AUC), and for masks the mean
  Dice. Accuracy stands beside, and decides nothing.
- Five seeds or more of each row that is compared.
- A difference counts where two 95 % intervals leave zero out: that over seeds (paired, Student's
  t), which says what other trainings would give on these test volumes, and that over test volumes
  (DeLong's for AUC, Student's t of Dice), which says what other volumes would. The p over seeds is
  adjusted by Holm for all rivals of a row, those that were given up too, and must be below 0.05.
  Everything else is called *level*, however the means lie: it says that no difference was found,
  not that there is none.
- p is not adjusted for the number of rows, which is said: of many rows one in twenty would count by
  chance, were the intervals over seeds all there is.
- Ours is compared with the best rival of each row. It is picked on the test volumes, which favours
  rivals a little.
- `projection-drawn` and the budget of teaching were found on adrenals, seeds 0 and 1, with the test
  volumes in sight; seeds from 2 on, and other sets, are free of that.
- That one choice of the way serves all protocols was decided after a first form of this page, in
  which each protocol chose anew by what it made of the labelled volumes, and ours was behind
  `center` on adrenals with 50 of them by `linear` (the history of `benchmarks/study/results` has
  it). It was tried on adrenals, seeds 0 to 3, and then every arm and set was run anew."""

GOAL = """\
The goal was: on no set and at no number of labels significantly behind the best rival;
significantly ahead on three of the four sets at some number of labels up to 100, none included; by
five points on one; and on adrenals without labels at least level with slices."""

NOT_RUN = """\
What was left out, as the hours that the study was given went to the rows above:

- *All labelled volumes*, and fine-tuning on organs: the question is what few labels need, and with
  50 of them a linear layer separates organs (AUC 0.99).
- *Fine-tuning with 10, 20 and 100 volumes of fractures* has three seeds (`center` has two): the
  means of ours and of `slices` lie within 0.02 of each other, as with 50, which has five.
- *Images and volumes in turn* was tried on adrenals alone, as it scored lower there
  ([below](#images-and-volumes-in-turn)).
- *From ImageNet weights* there are three seeds of ours and of slices and one of `center`, on
  adrenals with 64 voxels: their spread is a tenth, and no row says anything yet."""

TABLES = """\
Means over seeds; in brackets the 95 % interval over seeds, of a single seed over test volumes. †:
the mean differs from the first line's (paired t-test over seeds, Holm over the table's arms,
p < 0.05)."""

IN_TURN = """\
All weights fitted to the labelled volumes in turn with the images of 2D training, one pass over
these (`crossd joint` does so from the start), beside fine-tuning on the volumes alone: `projection`
of the same 2D trainings, in the way that the validation volumes chose for it, taught or not. Means
over the seeds that have both, which are too few for the measure."""

CHOSEN = """\
What each way of using an arm is worth without labelled volumes, the mean over seeds on the test
volumes, and how often the validation volumes chose it, over the seeds of which every way is known.
`best`: had the way been chosen on the test volumes; how far `chosen` is below it is what choosing
on few validation volumes costs."""

CAUSES = """\
The first study had 3D kernels behind slices on adrenals, by AUC 0.805 to 0.859. What was found to
cost that, each by what changes when it alone is changed; the mean over the seeds that have both:"""
CHANGES = (
    (
        "One orientation of three",
        "center",
        "volume, BatchNorm anew",
        "orientations, BatchNorm anew",
        "each axis as depth once, the answers averaged: now among the ways of every arm",
    ),
    (
        "One orientation of three",
        "projection",
        "volume, BatchNorm anew",
        "orientations, BatchNorm anew",
        "the same",
    ),
    (
        "Statistics of images in BatchNorm",
        "projection",
        "volume, BatchNorm kept",
        "volume, BatchNorm anew",
        "both are among the ways of every arm",
    ),
    (
        "Statistics of images in BatchNorm",
        "center",
        "volume, BatchNorm kept",
        "volume, BatchNorm anew",
        "the other way round: so the validation volumes choose",
    ),
    (
        "Untaught kernels",
        "center",
        "volume, BatchNorm anew",
        "volume, taught",
        "`teach`, among the ways of every arm",
    ),
    ("Untaught kernels", "projection", "volume, BatchNorm anew", "volume, taught", "the same"),
    (
        "Untaught kernels",
        "projection-drawn",
        "volume, BatchNorm anew",
        "volume, taught",
        "the same",
    ),
)
"""Cause, arm, the way before and after, and what was changed because of it."""
KERNELS = (
    "volume, BatchNorm anew", "orientations, BatchNorm anew", "slices, BatchNorm anew",
    "volume, taught",
)  # fmt: skip
"""Ways in which kernels of own views are compared with those of drawn ones."""
BETWEEN = """\
Then one network was asked in ways that lie between slices and the volume, its BatchNorm measured
anew in each (`benchmarks/study/why.py`; AUC, seeds {seeds}). A slab is a slice with its neighbours,
the outer ones of which are repeated to fill the volume: of one slice it is what the 2D kernels see,
of all slices it is the volume. What costs is depth itself: a slab of one slice is worth as much as
slices are, and less with neighbours. Training sees sums of the kernels over depth alone, and on
volumes their parts meet slices that differ. Zeros beyond the ends of volumes and features of the
background, which could have been causes too, are worth little. Because of it the views are drawn
(kernels that serve in any orientation have less that only their sum tells), or the kernels are
taught on volumes."""
TEACHING = """\
Is it the augmentation that keeps kernels from what taught them? They are taught on volumes that are
augmented as in every training (shift, brightness, contrast, noise), and asked about volumes as they
are. `projection` was taught on volumes as they are too (`benchmarks/study/teaching.py`: agreement
with what taught it on the validation volumes, 1 where both give the same probabilities; AUC on the
test volumes). Without augmentation the kernels of one seed agree more and those of another less,
and on organs and fractures it makes no difference. On adrenals AUC is higher without it in two of
three seeds: too few to change the default (`crossd teach --augment none` is there). More agreement
with slices does not mean a higher AUC, as fractures and organs show."""
SHARES = """\
The mean of volume and slices that is among the ways gives each a half. Other shares, without
labelled volumes, BatchNorm measured anew (`benchmarks/study/why.py`; AUC on the test volumes).
On these sets no share is better than the half by more than 0.001, and the validation volumes cannot
tell which one would be: so the mean stays what it is. On adrenals the slices of `projection`
alone are better than its mean, and are a way of their own."""

GONE_ON = """\
Where the labelled slices are of volumes that one has, a 3D training by a loss over these slices
alone is the plain alternative to 2D training (`partial`). It sees whole volumes, and takes longer
for as many steps. `projection partial` goes on by it from the weights of `projection`, with fewer
steps, so that 2D and 3D training together take as long as `partial` alone. `center partial` does
the same from the plain 2D network, whose kernels are put into 3D ones; it is what
[which way](which_way.md) names for such labels. No whole volume is labelled. The difference is of
the first line from each other one, with the 95 % intervals of it, p by Holm, and how the first line
stands by the measure."""
TRAININGS = {
    "projection partial": ("projection", "projection-partial"),
    "center partial": ("plain", "center-partial"),
    "partial": ("partial",),
    "projection": ("projection",),
}
"""The trainings of each arm of that comparison."""

EARLIER = """\
A first study, by accuracy (hippocampus: Dice), chose the default of 2D training. Without labelled
volumes, seeds 0 to 2, by the volume alone, BatchNorm measured anew; ±: standard deviation over
seeds. Its raw results are in `benchmarks/study/results/first`; its first half ran in bfloat16.
Planes at any angle cannot be made anew: their code is gone."""
NOTES = {
    "projection volume": "slices in their own views, mixed in every batch: the default",
    "projection one view": "batches of images of one view",
    "projection batch": "the view is drawn for each batch, whatever the slice's own",
    "projection sample": "it is drawn for each image: `--views drawn`",
    "projection layer": "it is drawn for each layer",
    "projection oblique": "half of the batches are planes at any angle, the others of one view",
    "projection fresh": "new 3D kernels instead of the 2D start",
    "projection lifted": "half of the epochs as a plain network",
    "projection decay": "a penalty on taps off the centre",
    "slice": "the mode that takes the central slice",
    "fourier": "the paper's mode",
    "fourier aligned": "moved by its mean displacement",
    "fourier centred": "without offset, from the 2D start",
    "fourier-projection": "the kernel is moved, and summed along the view",
    "fourier-projection mean": "moved by its mean displacement",
}
FIRST = 3
"""Seeds of that table."""
