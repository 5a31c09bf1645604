"""All operators. Importing this package enters every one in the registry."""

from __future__ import annotations

from graphc.ops import accuracy as accuracy
from graphc.ops import attribute as attribute
from graphc.ops import binary as binary
from graphc.ops import bnorm as bnorm
from graphc.ops import conv as conv
from graphc.ops import derived as derived
from graphc.ops import distance as distance
from graphc.ops import dropout as dropout
from graphc.ops import elementwise as elementwise
from graphc.ops import host as host
from graphc.ops import infogain as infogain
from graphc.ops import label as label
from graphc.ops import linear as linear
from graphc.ops import loss as loss
from graphc.ops import lrn as lrn
from graphc.ops import moments as moments
from graphc.ops import neuron as neuron
from graphc.ops import noffset as noffset
from graphc.ops import pdist as pdist
from graphc.ops import pool as pool
from graphc.ops import roipool as roipool
from graphc.ops import rows as rows
from graphc.ops import sampler as sampler
from graphc.ops import score as score
from graphc.ops import shape as shape
from graphc.ops import softmax as softmax
from graphc.ops import unfold as unfold
from graphc.ops import update as update
