"""What the page of results says around its tables."""

NAMES = {
    "organ": "OrganMNIST3D (CT, 28 voxels a side, 11 organs, 610 test volumes)",
    "fracture": "FractureMNIST3D (CT, 28 voxels, 3 kinds of fracture, 240 test volumes)",
    "adrenal": "AdrenalMNIST3D (shapes, 28 voxels, 2 classes, 298 test volumes)",
    "hippocampus": "Hippocampus (MRI, masks of 2 parts, 52 test volumes)",
    "brain": "brain (synthetic training, MNI152 as the test volume, masks of 3 tissues)",
}
KINDS = {
    "": "",
    "apart": ": 2D slices of other volumes than the labelled ones",
    "mednist": ": 2D images of MedNIST",
}
PUBLISHED = {
    "organ": "With all 971 labelled volumes MedMNIST v2 (Yang et al. 2023) reports accuracy 0.907 "
    "(AUC 0.996) for a 3D ResNet-18 and 0.900 (0.994) with ACS",
    "fracture": "With all 1,027 labelled volumes MedMNIST v2 reports accuracy 0.508 (AUC 0.712) "
    "for a 3D ResNet-18 and 0.497 (0.714) with ACS",
    "adrenal": "With all 1,188 labelled volumes MedMNIST v2 reports accuracy 0.721 (AUC 0.827) for "
    "a 3D ResNet-18 and 0.754 (0.839) with ACS",
}
QUOTED = "as others quote it or we recall it: the paper's own table was not at hand"
LARGEST = {"organ": 0.113, "fracture": 0.433, "adrenal": 0.768}
"""Share of the largest class among the test volumes."""

HEAD = """\
Does training in 2D help in 3D, and which way of doing it? This page is made from the raw results
in `benchmarks/study/results`, and any number of it from scratch, by

```console
$ python benchmarks/study/write.py
$ python benchmarks/study/study.py --data FOLDER --row SET,ARM,PROTOCOL,LABELLED,SEED
```

Small networks on two CPU cores. An *arm* is a way from images to volumes. Each seed has a 2D
training, a choice of labelled volumes and an order of its own, shared by all arms, as are (but for
`joint` and `distilled`, which see more) the budget, the augmentation and the recalibration of
BatchNorm on the unlabelled training volumes.

- `projection` is crossd's default: trained on slices with their own views mixed in every batch,
  asked about the volume and its slices until labelled volumes are there (the mean of two answers;
  `projection volume` is its 3D kernels alone), and fitted to those as a 3D network. The rivals,
  which answer once, are `slices` (the plain 2D network on slices, averaged: nine of a volume for
  classes, all of them for masks), its lifts `center`, `inflate` (I3D) and `triplanar`, `acs`, and
  `scratch`.
- `zero`: nothing is fitted to whole volumes. `linear`: a logistic regression on frozen features,
  its penalty chosen on the set's validation volumes (98 to 161, beside the labelled ones that are
  counted). `finetune`: all weights. More in [compare](compare.md).
- The 2D slices are cut from all training volumes and carry their labels (on the hippocampus the
  masks of every second slice): what is compared is ways from 2D to 3D, not labels saved.
  `organ-apart` cuts them from one half of the volumes and takes labelled ones from the other,
  though often of the same scans (add `--images apart` to make a row of it).
- Tests are paired, over seeds, on one set of test volumes: they say what another training would
  give, not other test volumes. *Holm p* is adjusted for the rivals in its row, not for the rows of
  the page: a p of 0.03 in one of 20 rows is weak evidence, one below 0.001 is not.
- Precision is not equal: in the first three seeds the volumes' part of most rivals and of some of
  our variants ran in bfloat16, `projection` in float32 (`precision` in the raw results). Seeds from
  3 on, `organ-apart` and all 2D trainings are float32, as is every row that is made anew.
- A row made anew agrees within the spread of seeds, not to the last digit, where the code of
  training has changed since (a fracture row of 0.504 gave 0.483)."""
TABLES = """\
±: half of the 95 % interval of the mean over seeds. †: differs from the first line (paired t-test
over seeds, Holm over the table's arms, p < 0.05, of a second look < 0.0294)."""
WAYS = """\
Without labelled volumes, seeds 0 to 2 where nothing else is said, in three dimensions alone unless
the name says `slices` or `both`. {notes}"""
NOTES = {
    "one view": "batches of images of one view",
    "batch": "the view is drawn for each batch, whatever the slice's own",
    "sample": "it is drawn for each image",
    "layer": "it is drawn for each layer",
    "oblique": "half of the batches are planes at any angle, the others of one view",
    "fresh": "new 3D kernels instead of the 2D start",
    "lifted": "half of the epochs as a plain network",
    "decay": "a penalty on taps off the centre",
    "distilled": "taught what `both` says of unlabelled volumes (seeds 3 to 5, untaught 0.942)",
    "slice": "the mode that takes the central slice",
    "fourier": "the paper's mode",
    "aligned": "moved by its mean displacement",
    "centred": "without offset",
    "fourier-projection": "the kernel is moved, and summed along the view",
    "mean": "moved by its mean displacement",
}
FIRST = 3
"""Seeds of the table of configurations."""

ROOM = """\
The same network and budget, trained as a 3D network from scratch on every labelled training volume,
is what labels alone give."""
MANY = 150
"""Labelled volumes that are all of a set."""

OTHERS = """\
Against rivals that are not the best of their row Cross-D loses significantly by the AUC also to
`slices` on adrenals with 20 labelled volumes (0.744 to 0.823), and to `acs` and `center` on
fractures without."""
LINES = """\
The goal was to beat the best rival significantly on three of the four sets, at no more than 100
labelled volumes. By accuracy it is reached on two, organs and fractures (where it is behind by
AUC), and not on the hippocampus and the adrenals. What was tried:

1. *Views mixed in every batch.* Batches of one view starve BatchNorm of the mixture that it is
   tested on. Mixed, the 2D network of the organs is as good as the plain one (0.80 to 0.79, where
   it was 0.69), and the hippocampus gains 0.019 on volumes; on organs and fractures one view is
   better there, by 0.006 and 0.049.
2. *Asking the volume and its slices.* The same weights err differently on both. The mean is worth
   0.021 on the hippocampus over the volume alone (p 0.002), which had been behind the slices; on
   fractures (+0.018) and organs (+0.002, and 0.0007 lost by AUC) it is not significant, and on
   adrenals it loses 0.004. By the 3D kernels alone, without labels, organs are ahead of the slices
   (six seeds, 0.939 to 0.927, Holm p 0.024), no other set is significantly ahead of its best rival.
   A mean of two rivals was not tried.
3. *Fitting to few labelled volumes.* A linear head on 20 organs is ahead by 0.066 (six seeds); on
   fractures three seeds cannot tell the arms apart, on adrenals it is 0.01 to 0.09 behind the
   slices. On the hippocampus (seeds 0 to 2) five volumes take the 3D kernels from 0.843 to 0.847
   and the 2D network on slices from 0.853 to 0.854, and neither reaches the untouched mean of
   volume and slices, 0.861, which itself falls to 0.836 when the network is fitted to them. On
   organs a linear head on the mean of both is worse than on the 3D kernels (0.791 to 0.813 at 20).

Other questions, on the organs without labelled volumes unless said, by the volume. `projection` has
0.937 there with seeds 0 to 2, in bfloat16 (0.939 with six); most ways below ran in float32:

- *Which mode.* The others are far behind: the central slice 0.630, the paper's `fourier` 0.276 as
  it is, 0.385 with its kernels moved by their mean displacement, and 0.314 without offset and from
  the 2D start. `fourier-projection`, which does this too and sums the moved kernel along the view,
  has 0.939, and 0.925 by its mean displacement: no difference to `projection` is shown, and its 2D
  training took two to three times as long. What helps is the sum along the view.
- *View.* Drawn for each batch, image or layer, whatever the slice's own: 0.922, 0.922, 0.920. Their
  own, mixed: 0.937; their own, one a batch: 0.943. Half of the batches planes at any
  angle, the others of one view: 0.924.
- *Start.* New 3D kernels (`fresh`) have 0.943, no difference to the 2D start is shown. Half of the
  epochs as a plain network first: 0.933.
- *A penalty on taps off the centre* costs much, 0.849, and on images already (0.67 to 0.80). One
  strength was tried.
- *Distillation.* Taught for three epochs what both answers say of the unlabelled volumes, the 3D
  kernels alone have 0.934, untaught 0.942 (seeds 3 to 5).
- *Joint training.* On 50 labelled organs (seeds 3 to 5) fine-tuning gives 0.925 (the best rival,
  `acs`, 0.896), in turn with the slices it was pretrained on 0.937, and no fitting at all 0.942:
  slices keep most of what few volumes would undo (p 0.09; joint training has 137 steps of volumes
  between its pass over the slices, fine-tuning 105).
- *How many labelled volumes.* For organs none is enough where their slices were labelled: by all
  971 a linear head has 0.934 on our features (slices 0.905, `acs` and `triplanar` 0.904), none
  fitted 0.941. A new 3D network, all of it trained, has 0.573 with 50 and 0.934 with all (two
  seeds); between was not measured.
- *Images of something else.* Pretrained on MedNIST's six kinds of pictures, which the plain network
  tells apart at 0.998, features are worth little for organs: a linear head on 50 has 0.485, on the
  slices' network 0.488, on new kernels that learnt nothing 0.561."""

MISSING = """\
- Apart, `acs` has one seed, `center`, `inflate` and `scratch` none, and the halves share patients.
- Training a 3D network on all labelled volumes, the ceiling, is measured on the organs from scratch
  alone, with two seeds.
- The other modes, views but the slices' own, `fresh`, `lifted`, the penalty (one strength),
  distillation and joint training are measured on organs alone.
- Fine-tuning: not on fractures and adrenals, and on the hippocampus against the slices alone.
- `probe` is not measured, nor is `brain`.
- `slices` with every slice for classes, and intervals over test volumes.
- Networks are small and volumes have 28 voxels a side, the hippocampus about 45: what holds for
  ResNet50 at 128 is open."""
